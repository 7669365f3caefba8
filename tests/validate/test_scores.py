"""Each score of a data set has a set that passes its gate and one that fails it, whatever the order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from everlearn.image import decode
from everlearn.validate import scores
from everlearn.validate.descriptor import DIMENSIONS, describe
from tests.validate.test_quality import photo


def shaken(picture: np.ndarray, shift: float, degrees: float, seed: int = 0, n: int = 50) -> list[np.ndarray]:
    """Near-copies of a scene: moved, turned, zoomed, brightened, noisy."""
    rng, (height, width) = np.random.default_rng(seed), picture.shape[:2]
    copies = []
    for _ in range(n):
        turn = cv2.getRotationMatrix2D(
            (width / 2, height / 2), rng.uniform(-degrees, degrees), 1 + rng.uniform(-shift, shift)
        )
        turn[:, 2] += rng.uniform(-shift, shift, 2) * (width, height)
        moved = cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        copies.append(np.clip(moved * rng.uniform(0.85, 1.15) + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8))
    return copies


def diversity(images: list[np.ndarray], labels: list[str] | None = None) -> scores.Score:
    ids = [f"{row:05}" for row in range(len(images))]
    return scores.diversity(ids, labels or ["one"] * len(images), np.stack([describe(image) for image in images]))


def test_fifty_copies_of_one_scene_are_not_diverse() -> None:
    score = diversity(shaken(photo(), 0.02, 2))
    assert score.value < 0.2
    assert 40 <= len(score.worst) < 50
    assert len(set(score.worst)) == len(score.worst)


def test_digits_are_diverse() -> None:
    data = load_digits()
    images = list((data.images * 255 / 16).astype(np.uint8))
    assert diversity(images, [str(label) for label in data.target]).value > 0.85


def test_all_of_mnist_is_diverse(shared: Path) -> None:
    with np.load(shared / "data/mnist.npz") as data:
        images, classes = data["x_train"], data["y_train"]
    rows = np.random.default_rng(0).permutation(60_000)
    ids = [f"{row:05}" for row in rows]
    labels = [str(label) for label in classes[rows]]
    place = {id_: row for row, id_ in enumerate(ids)}
    chosen = scores.sampled(dict(zip(ids, labels)))
    assert len(chosen) == 10 * scores.SAMPLE
    table = np.stack([describe(images[rows[place[id_]]]) for id_ in chosen])
    score = scores.diversity(chosen, [labels[place[id_]] for id_ in chosen], table)
    assert score.value > 0.8


def test_hand_signs_are_diverse_and_shaken_faces_are_not(shared: Path) -> None:
    paths = sorted((shared / "data/sign_digits").rglob("*.JPG"))
    images = [decode(path.read_bytes()).pixels for path in paths]
    assert diversity(images, [path.parent.name for path in paths]).value > 0.85
    face = decode(next(iter(sorted((shared / "data/lfw_10x10/images").rglob("*.jpg")))).read_bytes()).pixels
    assert diversity(shaken(face, 0.03, 3)).value < 0.3


def test_the_order_of_the_images_does_not_matter() -> None:
    images = shaken(photo(), 0.06, 5, n=120) + shaken(photo()[::-1], 0.06, 5, n=60)
    labels = ["a"] * 100 + ["b"] * 80
    table = np.stack([describe(image) for image in images])
    ids = [f"{row:05}" for row in range(180)]
    shuffle = np.random.default_rng(0).permutation(180)
    other = [ids[row] for row in shuffle], [labels[row] for row in shuffle]
    whole = scores.diversity(ids, labels, table, sample=70)
    assert 0 < whole.value < 1
    assert whole == scores.diversity(*other, table[shuffle], sample=70)
    values = np.random.default_rng(1).random(180).tolist()
    quality, balance = scores.quality(dict(zip(ids, values))), scores.class_balance(dict(zip(ids, labels)))
    assert quality == scores.quality(dict(zip(other[0], [values[row] for row in shuffle])))
    assert balance == scores.class_balance(dict(zip(*other)))


def test_diversity_is_the_mean_over_classes() -> None:
    table = np.array([[1, 0], [1, 0.001], [1, 0.002], [0, 1], [1, 1]], np.float32)
    score = scores.diversity(list("abcde"), ["x", "x", "x", "y", "y"], table)
    assert score.value == pytest.approx((1 / 3 + 1) / 2)
    assert set(score.worst) == {"b", "c"}


def test_a_descriptor_is_of_length_one_and_forgives_brightness() -> None:
    described = describe(photo())
    assert described.shape == (DIMENSIONS,)
    assert np.linalg.norm(described) == pytest.approx(1, abs=1e-5)
    assert described @ describe((photo() * 0.7).astype(np.uint8)) > 0.999
    assert not describe(np.full((40, 30, 3), 9, np.uint8)).any()


def test_quality_is_the_mean() -> None:
    score = scores.quality({"a": 1.0, "b": 0.2, "c": 0.9, "d": 0.3})
    assert score.value == pytest.approx(0.6)
    assert score.worst == ("b", "d")


def test_class_balance() -> None:
    even = scores.class_balance({f"{row:02}": str(row % 4) for row in range(40)})
    assert (even.value, even.worst) == (pytest.approx(1), ())
    skewed = scores.class_balance({f"{row:02}": "rare" if row < 2 else "common" for row in range(40)})
    assert skewed.value == pytest.approx(-(0.05 * np.log2(0.05) + 0.95 * np.log2(0.95)))
    assert skewed.value < 0.6
    assert len(skewed.worst) == 18
    assert scores.class_balance({"a": "x", "b": "x"}).value == 1


def test_nothing_pulls_nothing_down() -> None:
    empty = np.zeros((0, 4), np.float32)
    assert scores.quality({}) == scores.class_balance({}) == scores.diversity([], [], empty) == scores.Score(1.0)
