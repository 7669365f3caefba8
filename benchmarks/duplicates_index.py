"""The index of perceptual hashes against comparing with every hash, at a million hashes with planted near ones.

python benchmarks/duplicates_index.py [HASHES]
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np

from everlearn.validate.hashes import HashIndex

DISTANCE, QUERIES, BRUTE, ROUNDS = 5, 2_000, 50, 3


def plant(rng: np.random.Generator, hashes: np.ndarray) -> np.ndarray:
    """Hashes that differ in 0 to DISTANCE bits."""
    near = hashes.copy()
    for number in range(len(near)):
        for bit in rng.choice(64, number % (DISTANCE + 1), replace=False):
            near[number] ^= np.uint64(1) << np.uint64(bit)
    return near


def brute(queries: np.ndarray, hashes: np.ndarray) -> set[tuple[int, int]]:
    found = set()
    for number, query in enumerate(queries):
        found.update((number, int(row)) for row in np.flatnonzero(np.bitwise_count(hashes ^ query) <= DISTANCE))
    return found


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, size, dtype=np.uint64)
    queries = plant(rng, hashes[rng.integers(0, size, QUERIES)])

    started = time.perf_counter()
    index = HashIndex(DISTANCE)
    for at in range(0, size, 1_000):  # as images come in
        index.add(hashes[at : at + 1_000])
    build = time.perf_counter() - started

    ours, peers, pairs = [], [], set()
    for _ in range(ROUNDS):
        started = time.perf_counter()
        pairs = {pair for one, other in index.find(queries) for pair in zip(one.tolist(), other.tolist())}
        ours.append((time.perf_counter() - started) / QUERIES)
        started = time.perf_counter()
        expected = brute(queries[:BRUTE], hashes)
        peers.append((time.perf_counter() - started) / BRUTE)
    assert {pair for pair in pairs if pair[0] < BRUTE} == expected, "the index missed or invented something"
    assert len({query for query, _ in pairs}) == QUERIES, "a planted hash was missed"

    print(f"{size:,} hashes of 64 bits, distance <= {DISTANCE}, {QUERIES:,} queries at once, all planted ones found")
    print(f"build, in portions of 1,000   {build:8.2f} s")
    print(f"query, index                  {median(ours) * 1e6:8.1f} us")
    print(f"query, every hash (numpy)     {median(peers) * 1e6:8.1f} us")
    print(f"ratio                         {median(peers) / median(ours):8.1f}")


if __name__ == "__main__":
    main()
