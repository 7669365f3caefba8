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
COMPONENTS = 63  # of the 108 of a colour patch that are kept by the whitening
FILTERS = 800
PATCHES = 200_000
SHAPES = 400  # leaves in an image
CONTRAST = 10.0  # added to a patch's variance, in squared grey levels: flat patches stay quiet
NOISE = 0.1  # added to the whitening's eigenvalues
BASIS_LIMIT = 511  # |weight| of the whitening: 108 products with 8-bit pixels stay below 2**24
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


def whitening(taken: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Patches -> (COMPONENTS, 108) whitening directions of contrast-normalised patches, and the patches in them.

    A patch and its negative are counted as equally likely, so the mean is zero and no offset has to be stored.
    """
    centred = taken - taken.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + CONTRAST)
    values, vectors = np.linalg.eigh(normal.T @ normal / len(normal))
    order = np.argsort(-values)[:COMPONENTS]
    basis = vectors[:, order] / np.sqrt(values[order] + NOISE)
    basis *= np.sign(basis[np.abs(basis).argmax(0), np.arange(COMPONENTS)])  # eigenvectors' signs are arbitrary
    return basis.T, normal @ basis


def clusters(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spherical k-means: (FILTERS, COMPONENTS), each of length 1."""
    unit = (white / (np.linalg.norm(white, axis=1, keepdims=True) + 1e-8)).astype(np.float32)
    found = MiniBatchKMeans(FILTERS, batch_size=4096, n_init=1, max_iter=60, random_state=0).fit(unit).cluster_centers_
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def zero_sum(basis: NDArray[np.float64], limit: int) -> NDArray[np.int16]:
    """Rounded to integers of at most `limit` with one common scale, each row summing to 0: no answer to flat colour."""
    scaled = basis * (limit / np.abs(basis).max())
    rounded = np.rint(scaled)
    for row, wanted in zip(rounded, scaled, strict=True):
        left = int(row.sum())
        nearest = np.argsort(-np.sign(left) * (row - wanted))[: abs(left)]
        row[nearest] -= np.sign(left)
    return rounded.astype(np.int16)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/everlearn/model/patches.npz")
    out = ask.parse_args().out
    rng = np.random.default_rng(SEED)
    basis, white = whitening(patches(dead_leaves(IMAGES, SIZE, rng), PATCHES, rng))
    filters = clusters(white)
    whole = zero_sum(basis, BASIS_LIMIT)
    scale = np.abs(filters).max(1)
    np.savez_compressed(
        out,
        basis=whole.reshape(COMPONENTS, PATCH, PATCH, 3),  # weights on pixels, in units of basis_scale
        basis_scale=np.float64(np.abs(basis).max() / BASIS_LIMIT),
        filters=np.rint(filters / scale[:, None] * LIMIT).astype(np.int8),  # weights on whitened components
        filter_scale=(scale / LIMIT).astype(np.float32),
    )
    print(f"{out}: {out.stat().st_size} bytes, {FILTERS} filters of {PATCH}x{PATCH}")


if __name__ == "__main__":
    main()
