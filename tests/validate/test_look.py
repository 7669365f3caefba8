"""Many images at a time give what one at a time gives, in order, and never all lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from everlearn.image import BadImage, encode_jpeg
from everlearn.validate.look import Look, examine_many, look
from tests.validate.test_quality import photo


def test_in_order_with_the_broken_among_them() -> None:
    files = [encode_jpeg(photo(side)) if side % 3 else b"broken" for side in range(20, 120)]
    seen = list(examine_many(((row, lambda file=file: file) for row, file in enumerate(files)), workers=3))
    assert [key for key, _ in seen] == list(range(100))
    for file, (_, result) in zip(files, seen):
        if file == b"broken":
            assert isinstance(result, BadImage)
            assert result.reason == "not_an_image"
        else:
            alone = look(file)
            assert isinstance(result, Look)
            assert (result.quality, result.fingerprint) == (alone.quality, alone.fingerprint)
            assert np.array_equal(result.descriptor, alone.descriptor)


def test_only_some_are_under_way() -> None:
    file, asked = encode_jpeg(photo(20)), 0

    def images() -> Iterator[tuple[int, Callable[[], bytes]]]:
        nonlocal asked
        for row in range(1000):
            asked += 1
            yield row, lambda: file

    for row, (key, _) in enumerate(examine_many(images(), workers=2)):
        assert key == row
        assert asked - row <= 2 * 4 * 16 + 16
