"""Write docs/configuration.md from everlearn.config; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from everlearn.config import Config

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

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


def main() -> int:
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page(), "utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text("utf-8") == page():
        return 0
    print("docs/configuration.md is not in step with everlearn.config. Run `make settings`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
