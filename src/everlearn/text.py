"""Plain text: aligned tables for people, and what JSON can say."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

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
