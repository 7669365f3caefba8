"""Makes `src/everlearn/model/patches.npz`, the dictionary of the `patches` backbone, from generated images alone.

Nobody's picture is in it: the images are dead leaves (occluding random shapes with power-law sizes), which have the
statistics of natural images (Lee, Mumford & Huang 2001; Baradad et al. 2021, arXiv:2106.05963). On them the patches'
whitening and a k-means dictionary are fit (Coates, Lee & Ng 2011), then rounded to small integers, so that a
convolution with them is exact in float32 and in 8-bit arithmetic.

Usage: python scripts/make_dictionary.py [--out FILE]        about two minutes; deterministic on one machine
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

SEED = 20250704
IMAGES, SIZE = 3000, 48
PATCH = 6  # pixels
COMPONENTS = 64  # of the 108 of a colour patch that are kept by the whitening
FILTERS = 800
PATCHES = 200_000
SHAPES = 400  # leaves in an image
LIMIT = 63  # |weight|: two products of a 7-bit weight with an 8-bit pixel fit the 16 bits that AVX2 sums them in


def dead_leaves(count: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(count, size, size, 3) images of occluding shapes; colours range from none at all to strong."""
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        canvas = _leaves(size * 2, rng)
        small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        image[:] = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.3, 1.0))
    return images


def _leaves(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    ground = rng.integers(0, 256, 3).astype(float)
    saturation = rng.beta(0.7, 1.2)
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = _colour(ground, saturation)
    largest = size * 0.6
    for _ in range(SHAPES):
        power_law = (1 + (largest**-2 - 1) * rng.random()) ** -0.5  # density of radii ~ r^-3
        radius = power_law if rng.random() < 0.7 else rng.uniform(2, size * 0.4)
        centre = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        colour = _colour(rng.normal(ground, 70), saturation)
        _draw(canvas, int(rng.integers(0, 3)), centre, radius, colour, rng)
    return canvas


def _colour(rgb: NDArray[np.float64], saturation: float) -> tuple[int, ...]:
    grey = rgb.mean()
    return tuple(int(v) for v in np.clip(grey + saturation * (rgb - grey), 0, 255))


def _draw(
    canvas: NDArray[np.uint8],
    kind: int,
    centre: tuple[int, int],
    radius: float,
    colour: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    angle = float(rng.uniform(0, 180))
    if kind == 0:
        cv2.circle(canvas, centre, max(1, int(radius)), colour, -1, cv2.LINE_AA)
    elif kind == 1:
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.2, 1))))
        cv2.ellipse(canvas, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
    else:
        sides = (radius * rng.uniform(0.4, 2), radius * rng.uniform(0.4, 2))
        corners = cv2.boxPoints(((float(centre[0]), float(centre[1])), (float(sides[0]), float(sides[1])), angle))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def patches(images: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, PATCH * PATCH * 3), rows in the order y, x, channel, taken at random places."""
    limit = images.shape[1] - PATCH + 1
    which, y, x = rng.integers(0, len(images), count), rng.integers(0, limit, count), rng.integers(0, limit, count)
    rows = y[:, None] + np.arange(PATCH)
    columns = x[:, None] + np.arange(PATCH)
    taken = images[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.reshape(count, -1).astype(np.float64)
