"""A second camera that nobody labelled for: what aligning it to the first one gives, and where it does not help.

    python benchmarks/camera_shift.py [FOLDER] [FILE.npz] [--weights FOLDER] [--seeds 3] [--cache FOLDER]

FOLDER: images by class; FILE.npz: as MNIST's (every twentieth image of its training part). Half of the images are seen
by the first camera as they are, and labelled. The other half is seen by a second camera: colour cast, gamma, blur, less
contrast and noise, `mild` or `strong`; half of these are observed, the other half is the test. Features are projected
to 512 numbers by a fixed random map. Figures are accuracies in % on the test of the second camera, mean over seeds:

    itself     the first camera's own images (the test half, as the first camera would see it)
    none mean scale coral   nothing of the second camera is labelled: by way of alignment
    1 5        so many labels a class of the second camera, nothing aligned; `auto`: the way chosen by held-out rows
    oracle     all observed images labelled, nothing aligned
    skewed     the same where the second camera sees three classes ten times as often as the others
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from real_features import folder, vectors

from everlearn import AlignedClassifier, ExactClassifier

CAMERAS = {"clean": 0.0, "mild": 0.5, "strong": 1.0}
WAYS = ("none", "mean", "scale", "coral")
MOBILENET = "mobilenet_v2_1.0_224_float.onnx"
WIDTH = 512
SCALE = 0.25  # the largest number of a feature vector of length 1 that is not clipped


def seen(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image (H, W, 3) as the second camera gives it."""
    if strength == 0:
        return image
    x = cv2.GaussianBlur(image, (0, 0), 1.2 * strength * image.shape[0] / 100).astype(np.float32) / 255
    x = x ** (1 + 0.8 * strength)
    x = (x - 0.5) * (1 - 0.4 * strength) + 0.5
    x *= np.array([1, 1 - 0.2 * strength, 1 - 0.4 * strength], np.float32)
    x += rng.normal(0, 0.05 * strength, x.shape)
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)


def features(name: str, spec: str, images: Sequence, y: NDArray, cache: Path | None) -> dict[str, NDArray]:
    path = None if cache is None else cache / f"{name}.npz"
    if path is not None and path.exists():
        with np.load(path) as file:
            return dict(file)
    found = {"y": y}
    for camera, strength in CAMERAS.items():
        rng = np.random.default_rng(0)
        found[camera] = vectors(spec, [seen(image, strength, rng) for image in images])
    if path is not None:
        np.savez(path, **found)
    return found


def sets(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, NDArray]]]:
    for path in given.data:
        if path.suffix == ".npz":
            with np.load(path) as file:
                grey, y = file["x_train"][::20], file["y_train"][::20].astype(str)
            images: Sequence = [np.repeat(one[:, :, None], 3, axis=2) for one in grey]
        else:
            images, y = folder(path, 100)
        specs = {"patches": "patches"}
        if given.weights is not None and path.suffix != ".npz":
            specs["mobilenet"] = f"onnx:{given.weights / MOBILENET}?mean=127.5&std=127.5&output=features1280"
        for name, spec in specs.items():
            yield f"{path.stem}_{name}", features(f"{path.stem}_{name}", spec, images, y, given.cache)


def projected(x: NDArray) -> NDArray:
    """(N, D) -> (N, 512), by a random map that keeps lengths."""
    turn = np.random.default_rng(512).normal(size=(x.shape[1], WIDTH)) / WIDTH**0.5
    return x @ turn


def measured(clean: NDArray, shifted: NDArray, y: NDArray, seed: int, skewed: bool) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    classes = np.unique(y)
    if skewed:
        often = np.isin(y[second], rng.permutation(classes)[:3])
        second = second[often | (rng.random(len(second)) < 0.1)]
    pool, test = second[: len(second) // 2], second[len(second) // 2 :]
    made = AlignedClassifier(ExactClassifier(scale=SCALE, planes=1), align="none")
    model = made.fit(clean[first], y[first], "first", ids=first).observe(shifted[pool], "second", ids=pool)
    found = {"itself": model.score(clean[test], y[test], "first")}
    for way in WAYS:
        found[way] = model.set_params(align=way).score(shifted[test], y[test], "second")
    for count in (1, 5):
        few = np.concatenate([pool[y[pool] == name][:count] for name in classes])
        model.partial_fit(shifted[few], y[few], "second", ids=few)
        found[str(count)] = model.set_params(align="none").score(shifted[test], y[test], "second")
        found[f"{count} auto"] = model.set_params(align="auto").score(shifted[test], y[test], "second")
    model.partial_fit(shifted[pool], y[pool], "second", ids=pool)
    found["oracle"] = model.set_params(align="none").score(shifted[test], y[test], "second")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, default=[])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    titles = ("itself", *WAYS, "1", "1 auto", "5", "5 auto", "oracle")
    print(f"{'':30}" + "".join(f"{title:>8}" for title in titles), flush=True)
    for name, found in sets(given):
        clean = projected(found["clean"])
        for camera in ("mild", "strong"):
            shifted = projected(found[camera])
            for skewed in (False, True):
                rows = [measured(clean, shifted, found["y"], seed, skewed) for seed in range(given.seeds)]
                line = "".join(f"{100 * np.mean([row[title] for row in rows]):8.1f}" for title in titles)
                print(f"{name + ' ' + camera + (' skewed' if skewed else ''):30}{line}", flush=True)


if __name__ == "__main__":
    main()
