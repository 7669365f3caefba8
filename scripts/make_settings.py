"""Write docs/configuration.md from everlearn.config, and docs/recipes.md from the recipe; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from everlearn.config import Config

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """\
# Settings

<!-- Written by scripts/make_settings.py from everlearn.config: edit the descriptions there, then `make settings`. -->

`everlearn init` writes `everlearn.yaml` with every setting, its value and what it means, and `everlearn.schema.json`
beside it, with which an editor completes and checks the file. You may delete every line that you do not change. An
unknown key, or a value that cannot be, is an error that names the key and the file.

The environment goes before the file, the file before the defaults: `EVERLEARN_CATALOG` and `EVERLEARN_STORE` set
`catalog` and `store`, also from a `.env` beside the file.

These are not in the file:

| variable | |
|---|---|
| `EVERLEARN_THREADS` | Threads that compute features; else `OMP_NUM_THREADS`, else every core. |
| `EVERLEARN_WEIGHTS` | A folder in which the file of `onnx:FILE` is looked for before the workspace. |
| `EVERLEARN_S3_ENDPOINT` | The S3 endpoint; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, else Amazon's. |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, `AWS_REGION` | As every S3 client reads them. |

A change of `task`, `backbone`, `learn`, `dataset`, `validate` or `label` counts as news: the next turn learns again.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    plain = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
    return "" if value is None else f"`{plain}`"


def _choices(field: FieldInfo) -> str:
    kind: Any = field.annotation
    parts = get_args(kind) if get_origin(kind) is Literal else ()
    return f" One of {', '.join(f'`{part}`' for part in parts)}." if parts else ""


def _rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(kind, f"{key}.")
        else:
            text = (field.description or "") + (_choices(field) if key not in ("task", "collect.labels_from") else "")
            yield f"| `{key}` | {_default(field)} | {_cell(text)} |"


def _table(rows: list[str]) -> str:
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows]) + "\n"


def page() -> str:
    plain, sections = [], []
    for name, field in Config.model_fields.items():
        kind = field.annotation
        key = field.alias or name
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            about = " ".join((kind.__doc__ or "").split())
            sections.append(f"\n## {key}\n\n{about}\n\n{_table(list(_rows(kind, f'{key}.')))}")
        else:
            plain.append(f"| `{key}` | {_default(field)} | {_cell(field.description or '')} |")
    return f"{HEAD}\n## The workspace\n\n{_table(plain)}{''.join(sections)}"


RECIPES = """\
# Recipes

<!-- Written by scripts/make_settings.py from everlearn.learn.network.recipe: edit there, then `make settings`. -->

A recipe says how a network is trained ([Training](training.md)): `everlearn train --recipe NAME` takes one that comes
with Everlearn, `--recipe FILE.yaml` one of your own, `--set FIELD=VALUE` changes a field: `size=96`,
`stages.0.epochs=5` or `stages.baseline.epochs=5` of one stage, `stages.*.batch_size=64` of all. An unknown field, or a
value that cannot be, is an error that names both.
"""


def recipes_page() -> str:
    from everlearn.learn.network import recipe

    parts = [RECIPES, "\n## Those that come with Everlearn\n\n| recipe | network | stages |\n|---|---|---|\n"]
    for name in recipe.shipped():
        one = recipe.load(name)
        stages = ", ".join(f"{stage.name} ({stage.epochs})" for stage in one.stages)
        parts.append(f"| `{name}` | `{one.network}`, {one.size} px | {stages} |\n")
    parts.append("\nIn brackets: epochs, at most.\n\n```yaml\n")
    parts.append((recipe.folder() / "five-stage.yaml").read_text(encoding="utf-8") + "```\n")
    kinds = (recipe.Recipe, recipe.Stage, recipe.Optimizer, recipe.Schedule, recipe.Loss, recipe.Augmentation)
    for kind in kinds:
        rows = []
        for name, field in kind.model_fields.items():
            inside = field.annotation
            if isinstance(inside, type) and issubclass(inside, BaseModel):
                rows.append(
                    f"| `{name}` | see [{inside.__name__}](#{inside.__name__.lower()}) "
                    f"| {_cell(field.description or '')} |"
                )
            else:
                default = "" if field.is_required() else _default(field)
                rows.append(f"| `{name}` | {default} | {_cell(field.description or '')}{_choices(field)} |")
        about = " ".join((kind.__doc__ or "").split())
        parts.append(f"\n## {kind.__name__}\n\n{about}\n\n{_table(rows).replace('| setting ', '| field ')}")
    return "".join(parts)


PAGES: dict[str, Callable[[], str]] = {"configuration.md": page, "recipes.md": recipes_page}


def main() -> int:
    if "--check" not in sys.argv[1:]:
        for name, made in PAGES.items():
            (DOCS / name).write_text(made(), "utf-8")
        return 0
    stale = [name for name, made in PAGES.items() if (DOCS / name).read_text("utf-8") != made()]
    if stale:
        print(f"docs/{', docs/'.join(stale)}: not in step with the code. Run `make settings`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
