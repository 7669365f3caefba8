"""Made-up scenes for tests of detection: drawn shapes on grounds like photos, with their boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from everlearn.image import encode_jpeg
from everlearn.types import Box

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")


def scene(
    seed: int, classes: Sequence[str] = SHAPES[:2], side: int = 160, most: int = 3
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """One image (side, side, 3) uint8 RGB with 1 to `most` shapes that hardly overlap, and their boxes."""
    rng = np.random.default_rng([seed, side])
    image = _ground(rng, side)
    boxes: list[Box] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(1, most + 1))):
        radius = float(rng.uniform(0.09, 0.18) * side)
        for _attempt in range(20):
            x, y = rng.uniform(radius + 1, side - radius - 1, 2)
            if all(np.hypot(x - a, y - b) > radius + c for a, b, c in taken):
                break
        else:
            continue
        taken.append((x, y, radius))
        name = str(rng.choice(list(classes)))
        mask = _mask(name, side, x, y, radius, rng)
        colour = rng.integers(0, 256, 3)
        if abs(int(colour.mean()) - int(image[mask].mean())) < 60:
            colour = 255 - colour
        image[mask] = 0.85 * colour + 0.15 * image[mask]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes.append(Box(name, left / side, top / side, (right - left) / side, (bottom - top) / side))
    noisy = image + rng.normal(0, 4, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), tuple(boxes)


def write(
    folder: Path, number: int, classes: Sequence[str] = SHAPES[:2], side: int = 160, first: int = 0,
    labels: Sequence[str] | None = None, camera: str = "door",
) -> list[tuple[str, tuple[Box, ...]]]:  # fmt: skip
    """A YOLO data set in `folder`: images/, labels/ and data.yaml. labels: the classes that are labelled, () for none;
    by default all. Names tell camera and time, ten minutes apart. Returns names and all boxes."""
    named = list(classes if labels is None else labels)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if named:
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames: {json.dumps(named)}\n")
    made = []
    for seed in range(first, first + number):
        image, boxes = scene(seed, classes, side)
        minutes = seed * 10
        day, left = divmod(minutes, 24 * 60)
        stem = f"{camera}_2025{1 + day // 28:02d}{1 + day % 28:02d}_{left // 60:02d}{left % 60:02d}00"
        (folder / "images" / f"{stem}.jpg").write_bytes(encode_jpeg(image, 92))
        if named:
            lines = [
                f"{named.index(b.label)} {b.x + b.width / 2:.8f} {b.y + b.height / 2:.8f} {b.width:.7f} {b.height:.7f}"
                for b in boxes
                if b.label in named
            ]
            (folder / "labels" / f"{stem}.txt").write_text("\n".join(lines) + "\n" if lines else "")
        made.append((f"{stem}.jpg", boxes))
    return made


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """Blurred patches of colour with a gradient: (side, side, 3) float."""
    coarse = rng.uniform(40, 215, (6, 6, 3)).astype(np.float32)
    ground = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(-25, 25, side, dtype=np.float32)
    return np.clip(ground + ramp[:, None, None] * rng.uniform(-1, 1), 0, 255)


def _mask(name: str, side: int, x: float, y: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    centre = (round(x), round(y))
    turn = rng.uniform(-0.3, 0.3)
    if name in ("circle", "ring"):
        cv2.circle(mask, centre, round(radius), 1, -1)
        if name == "ring":
            cv2.circle(mask, centre, round(radius * 0.55), 0, -1)
        return mask.astype(bool)
    if name == "cross":
        arm = 0.3
        points = [(1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
                  (-arm, -1), (arm, -1), (arm, -arm), (1, -arm)]  # fmt: skip
        corners = np.array(points) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    else:
        count, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}[name]
        angles = turn + np.pi / 2 + 2 * np.pi * np.arange(count) / count + (np.pi / 4 if name == "square" else 0)
        reach = np.where(np.arange(count) % 2, inner, 1.0) if name == "star" else np.ones(count)
        corners = np.stack([np.cos(angles), -np.sin(angles)], axis=1) * reach[:, None]
    cv2.fillPoly(mask, [np.round(np.array([x, y]) + corners * radius).astype(np.int32)], 1)
    return mask.astype(bool)
