"""The index finds exactly what comparing with every hash finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.validate.hashes import HashIndex


def brute(queries: np.ndarray, hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    near = np.bitwise_count(queries[:, None] ^ hashes[None]) <= distance
    return set(zip(*(side.tolist() for side in np.nonzero(near))))


def found(index: HashIndex, queries: np.ndarray) -> list[tuple[int, int]]:
    return [pair for one, other in index.find(queries) for pair in zip(one.tolist(), other.tolist())]


def clustered(rng: np.random.Generator, n: int, centres: int) -> np.ndarray:
    """Hashes that stand in crowds, as those of real pictures do."""
    hashes = rng.integers(0, 2**64, centres, dtype=np.uint64)[rng.integers(0, centres, n)]
    for _ in range(6):
        hashes ^= np.where(rng.random(n) < 0.5, np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64), np.uint64(0))
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 3, 5, 7, 10])
@pytest.mark.parametrize("centres", [5, 100_000])
def test_nothing_is_missed_and_nothing_invented(distance: int, centres: int) -> None:
    rng = np.random.default_rng(distance)
    hashes, index = clustered(rng, 7_000, centres), HashIndex(distance)
    for part in np.split(hashes, [10, 2_000, 2_100, 5_000, 6_900]):
        index.add(part)
    assert len(index) == 7_000
    queries = np.concatenate([hashes[::70] ^ np.uint64(0b101), clustered(rng, 50, 50)])
    pairs = found(index, queries)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute(queries, hashes, distance)


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=40),
    st.lists(st.integers(0, 2**64 - 1), max_size=10),
    st.integers(0, 64),
    st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_hashes_in_any_portions(hashes: list[int], queries: list[int], distance: int, cut: int) -> None:
    index = HashIndex(distance)
    index.add(np.array(hashes[:cut], np.uint64))
    index.add(np.array(hashes[cut:], np.uint64))
    assert set(found(index, np.array(queries, np.uint64))) == brute(
        np.array(queries, np.uint64), np.array(hashes, np.uint64), distance
    )
