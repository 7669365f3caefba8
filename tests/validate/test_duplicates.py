"""Copies are found however they were made; other pictures are no copies; what goes does not depend on the order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.image import decode, encode_jpeg
from everlearn.validate.duplicates import (
    DuplicateLimits,
    Fingerprint,
    Known,
    Prints,
    alike,
    fingerprint,
    keepers,
    pairs,
    thin_out,
    thumbs_of,
)
from everlearn.validate.quality import small_grey
from tests.validate.test_quality import FACES, photo, rgb

COPIES = {
    "re-encoded": lambda image: decode(encode_jpeg(image, 60)).pixels,
    "half as large": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "twice as large": lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "brighter": lambda image: np.clip(image * 1.08 + 8, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.85).astype(np.uint8),
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
}


def prints_of(images: dict[str, np.ndarray]) -> dict[str, Fingerprint]:
    return {id_: fingerprint(small_grey(image)) for id_, image in images.items()}


def found(prints: dict[str, Fingerprint], ids: list[str] | None = None, portion: int = 10_000) -> list[tuple[str, str]]:
    ids, known, edges = ids or list(prints), Known(thumbs_of(prints)), []
    for at in range(0, len(ids), portion):
        part = ids[at : at + portion]
        edges += list(pairs(Prints(part, np.array([prints[id_].hash for id_ in part], np.uint64)), known))
    return edges


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found(copy: str) -> None:
    assert found(prints_of({"b": photo(), "a": COPIES[copy](photo())})) == [("a", "b")]


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_faces_are_found_and_other_faces_are_not(shared: Path, copy: str) -> None:
    paths = sorted((shared / FACES).rglob("*.jpg"))
    faces = {path.name: decode(path.read_bytes()).pixels for path in paths}
    edges = found(prints_of(faces | {f"{name} copy": COPIES[copy](face) for name, face in faces.items()}))
    right = {(name, f"{name} copy") for name in faces}
    assert set(edges) <= right
    assert len(edges) >= 0.97 * len(right)


def test_other_hand_signs_are_not_copies(shared: Path) -> None:
    paths = sorted((shared / "data/sign_digits").rglob("*.JPG"))
    assert found(prints_of({str(path): decode(path.read_bytes()).pixels for path in paths})) == []


def test_other_digits_are_not_copies(shared: Path) -> None:
    """Of ones written by hand many look much alike."""
    with np.load(shared / "data/mnist.npz") as data:
        ones = data["x_train"][data["y_train"] == 1][:3000]
    assert len(found({f"{row:05}": fingerprint(image) for row, image in enumerate(ones)})) <= 5


def test_a_visitor_before_a_still_background_is_news() -> None:
    empty = photo(256)
    visitor = empty.copy()
    cv2.ellipse(visitor, (180, 170), (18, 40), 0, 0, 360, (30, 30, 30), -1)
    assert found(prints_of({"empty": empty, "visitor": visitor})) == []


def test_a_shifted_crop_is_another_picture() -> None:
    assert found(prints_of({"a": photo(), "b": photo()[20:, 20:]})) == []


def test_the_same_bytes_are_alike_even_when_flat() -> None:
    flat = np.full((2, 1024), 7, np.uint8)
    flat[1, 0] = 8
    rows = np.array([0, 0]), np.array([0, 1])
    assert alike(flat, *rows, DuplicateLimits()).tolist() == [True, False]


def test_brightness_does_not_change_the_hash() -> None:
    grey = (small_grey(photo()) // 2).astype(np.uint8)
    assert fingerprint(grey).hash == fingerprint(grey + 40).hash
    assert 0 <= fingerprint(grey).hash < 2**64
    assert len(fingerprint(grey[:3, :1]).thumb) == 1024


@pytest.fixture(scope="module")
def crowd() -> dict[str, Fingerprint]:
    """400 pictures: 40 scenes, each with noisy copies, some of them copies of copies."""
    rng, images = np.random.default_rng(0), {}
    for row in range(400):
        scene = cv2.resize(np.random.default_rng(row % 40).integers(0, 256, (6, 6), dtype=np.uint8), (64, 64))
        noisy = scene + rng.normal(0, rng.choice([0, 4, 12]), scene.shape)
        images[f"{rng.integers(0, 2**40):012x}"] = np.clip(noisy, 0, 255).astype(np.uint8)
    return {id_: fingerprint(image) for id_, image in images.items()}


@pytest.mark.parametrize("portion", [1, 7, 400])
def test_pairs_do_not_depend_on_the_order_of_arrival(crowd: dict[str, Fingerprint], portion: int) -> None:
    edges = found(crowd)
    shuffled = [str(id_) for id_ in np.random.default_rng(portion).permutation(list(crowd))]
    other = found(crowd, shuffled, portion)
    assert len(edges) == len(set(edges)) == len(other) > 400
    assert set(edges) == set(other)
    assert all(first < second for first, second in edges)


def test_thin_out_is_keepers_without_the_edges(crowd: dict[str, Fingerprint]) -> None:
    rank = {id_: row % 3 for row, id_ in enumerate(crowd)}
    ordered = sorted(crowd, key=lambda id_: (rank[id_], id_))
    known = Known(thumbs_of(crowd))
    gone = dict(thin_out(Prints(ordered, np.array([crowd[id_].hash for id_ in ordered], np.uint64)), known))
    assert gone == keepers(crowd, found(crowd), rank)
    assert sorted(known.ids) == sorted(set(crowd) - set(gone))


def test_thin_out_over_many_portions(shared: Path) -> None:
    images = np.load(shared / "data/mnist.npz")["x_train"][10_000:13_000]
    prints = {f"{row:05}": fingerprint(image) for row, image in enumerate(np.concatenate([images, images[::2]]))}
    hashes = np.array([one.hash for one in prints.values()], np.uint64)
    gone = dict(thin_out(Prints(list(prints), hashes), Known(thumbs_of(prints))))
    assert gone == keepers(prints, found(prints))
    assert len(gone) >= 1500


IDS = st.integers(0, 25).map(lambda number: f"{number:02}")


@given(st.sets(IDS), st.lists(st.tuples(IDS, IDS)), st.dictionaries(IDS, st.integers(0, 3)), st.randoms())
@settings(max_examples=200, deadline=None)
def test_keepers_is_a_function_of_the_set(
    ids: set[str], edges: list[tuple[str, str]], rank: dict[str, int], luck
) -> None:  # type: ignore[no-untyped-def]
    edges = [edge for edge in edges if edge[0] != edge[1]]
    gone = keepers(ids, edges, rank)
    shuffled = [edge if luck.random() < 0.5 else edge[::-1] for edge in edges]
    luck.shuffle(shuffled)
    assert keepers(sorted(ids, reverse=True), shuffled, rank) == gone
    links = {frozenset(edge) for edge in edges}
    kept = ids - set(gone)
    assert set(gone) <= ids
    assert all(keeper in kept and frozenset((loser, keeper)) in links for loser, keeper in gone.items())
    assert not any(frozenset((first, second)) in links for first in kept for second in kept if first != second)
    assert all((rank.get(keeper, 0), keeper) < (rank.get(loser, 0), loser) for loser, keeper in gone.items())
    for loser in gone:  # who is forgotten gives way to its twin
        assert loser not in keepers({loser}, edges, rank)


def test_limits_are_settings() -> None:
    grey = small_grey(rgb(small_grey(photo())))
    noisy = np.clip(grey + np.random.default_rng(0).normal(0, 25, grey.shape), 0, 255).astype(np.uint8)
    prints = {"a": fingerprint(grey), "b": fingerprint(noisy)}
    hashes = np.array([one.hash for one in prints.values()], np.uint64)
    lax = Known(thumbs_of(prints), DuplicateLimits(distance=20, correlation=0.9, difference=2))
    strict = Known(thumbs_of(prints), DuplicateLimits(distance=20, correlation=0.9999))
    assert list(pairs(Prints(list(prints), hashes), lax)) == [("a", "b")]
    assert list(pairs(Prints(list(prints), hashes), strict)) == []
