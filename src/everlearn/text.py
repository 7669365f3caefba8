"""Plain text: aligned tables for people, what JSON can say, and YAML that strangers wrote."""

from __future__ import annotations

import math
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

FONTS = ("DejaVu Sans", "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo")
"""Fonts for pictures, those that are there in this order: the first comes with matplotlib, the others have Korean."""


def table(rows: list[list[Any]], head: list[str] | None = None) -> list[str]:
    """Rows as aligned plain text, nothing where there are none; wide characters (Korean) count double."""
    shown = [[str(cell) for cell in row] for row in ([head] if head else []) + rows]
    if not rows:
        return []
    widths = [max(width(row[i]) for row in shown) for i in range(len(shown[0]))]
    lines = [
        "  ".join(cell + " " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown
    ]
    if head:
        lines.insert(1, "  ".join("─" * w for w in widths))
    return lines


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )


def finite(value: Any) -> Any:
    """The value with None for each number that JSON has no word for (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


LONGEST_NUMBER = 40
"""Letters of a number in a stranger's YAML: the work for a longer one may grow with their square."""


def read_yaml(text: str) -> Any:
    """The plain values of a YAML that a stranger may have written: no aliases, by which a few lines can stand for
    billions of values, and no endless numbers. Raises ValueError, with one line for people."""
    import yaml

    try:
        return yaml.load(text, Loader=_plain_loader())  # noqa: S506  a SafeLoader
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split())) from None


@cache
def _plain_loader() -> type[yaml.SafeLoader]:
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read")
            return super().compose_node(parent, index)  # type: ignore[no-any-return]

    def whole(loader: Plain, node: yaml.ScalarNode) -> int:
        return int(loader.construct_yaml_int(_short(node)))

    def real(loader: Plain, node: yaml.ScalarNode) -> float:
        return float(loader.construct_yaml_float(_short(node)))

    def _short(node: yaml.ScalarNode) -> yaml.ScalarNode:
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number of {len(node.value)} letters")
        return node

    Plain.add_constructor("tag:yaml.org,2002:int", whole)
    Plain.add_constructor("tag:yaml.org,2002:float", real)
    return Plain
