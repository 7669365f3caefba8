"""A training's images and boxes, as they lie in YOLO's layout: `data.yaml`, images/, labels/. Nothing in the data is
run, fetched or changed; Ultralytics' own reader does all three."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn.errors import BadInput, Missing
from everlearn.text import read_yaml

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class DataYaml:
    """train, val: where the images lie, folders or lists of files."""

    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]


def read_data(path: Path, classes: Sequence[str]) -> DataYaml:
    """Raises Missing, BadInput; also where the names are not the classes in this order."""
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
        names = found["names"]
        names = [names[key] for key in sorted(names)] if isinstance(names, dict) else list(names)
        root = path.parent / str(found.get("path") or ".")
        sides = [_places(root, found[side]) for side in ("train", "val")]
    except FileNotFoundError:
        raise Missing(f"There is no {path}.", "Write the data set first: everlearn export --format yolo") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"{path} is no data.yaml: {reason}", "It needs names, train and val.") from None
    if tuple(map(str, names)) != tuple(classes):
        raise BadInput(
            f"{path} names {', '.join(map(str, names))}, and the job {', '.join(classes)}.", "Name them in one order."
        )
    return DataYaml(tuple(classes), sides[0], sides[1])


def _places(root: Path, said: str | list[str]) -> tuple[Path, ...]:
    return tuple(root / one for one in ([said] if isinstance(said, str) else said))


def images_in(places: Sequence[Path]) -> list[Path]:
    """Sorted. Raises Missing where there are none."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += [one for one in place.rglob("*") if one.suffix.lower() in ENDINGS]
        elif place.suffix == ".txt" and place.is_file():
            lines = place.read_text(encoding="utf-8-sig").split("\n")
            found += [place.parent / line.strip() for line in lines if line.strip()]
        elif place.suffix.lower() in ENDINGS:
            found.append(place)
    if not found:
        raise Missing(f"There are no images in {', '.join(map(str, places))}.", "Name folders with images.")
    return sorted(found)


def label_of(image: Path) -> Path:
    """…/images/a/b.jpg -> …/labels/a/b.txt, as Ultralytics pairs them."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_boxes(path: Path, classes: int) -> NDArray[np.float32]:
    """(boxes, 5): class, centre x, centre y, width, height as shares; a file that is not there holds none. Raises
    BadInput."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return np.zeros((0, 5), np.float32)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.", "Write one box a line.") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *sides = (float(one) for one in line.split())
            fits = len(sides) == 4 and all(math.isfinite(one) and -0.01 <= one <= 1.01 for one in sides)
            if not fits or kind != int(kind) or not 0 <= kind < classes:
                raise ValueError
        except (ValueError, OverflowError):
            raise BadInput(
                f"{path}:{number}: {line.strip()[:60]!r} is no box of {classes} classes.",
                "Write: class, centre x, centre y, width and height as shares of the image.",
            ) from None
        rows.append([kind, *sides])
    return np.array(rows, np.float32).reshape(-1, 5)


def labels_of(images: Sequence[Path], classes: int) -> list[dict[str, Any]]:
    """What Ultralytics' data sets hold of each image."""
    found: list[dict[str, Any]] = []
    for image in images:
        boxes = read_boxes(label_of(image), classes)
        found.append({
            "im_file": str(image), "shape": None, "cls": boxes[:, :1], "bboxes": boxes[:, 1:], "segments": [],
            "keypoints": None, "normalized": True, "bbox_format": "xywh",
        })  # fmt: skip
    return found


def digest(labels: Sequence[dict[str, Any]]) -> str:
    """Of what is learned: images by name, and their boxes."""
    found = hashlib.sha256()
    for one in labels:
        found.update(Path(one["im_file"]).name.encode() + b"\0")
        found.update(np.ascontiguousarray(one["cls"]).tobytes() + np.ascontiguousarray(one["bboxes"]).tobytes() + b"\n")
    return found.hexdigest()[:32]
