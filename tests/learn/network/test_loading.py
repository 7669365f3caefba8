"""Batches: functions of seed, epoch and step; processes share each batch without a gap; workers prepare the same."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.errors import BadInput
from everlearn.learn.network.loading import Batches, Data, batches, batches_in, in_turn
from everlearn.learn.network.recipe import Stage


class Marks:
    """Writes its key into each image, and mixes by its key."""

    mixes = False

    def many(self, images: Tensor, keys: NDArray[np.int64]) -> Tensor:
        images = images.clone()
        images[:, 1, 0, 0] = torch.from_numpy(keys % 251).to(torch.uint8)
        return images

    def batch(self, images: Tensor, targets: Tensor, key: int) -> tuple[Tensor, Tensor]:
        share = (key % 97) / 100
        return images * (1 - share) + images.flip(0) * share, targets * (1 - share) + targets.flip(0) * share


class Mixes(Marks):
    mixes = True


def data(rows: int = 23, side: int = 4) -> Data:
    """Image n is n in every byte."""
    images = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, side, side, 3))
    return Data(np.ascontiguousarray(images), np.arange(rows) % 3, ("a", "b", "c"))


def shown(found: Batches) -> list[list[int]]:
    return [found[step].inputs[:, 0, 1, 1].tolist() for step in range(len(found))]


def flat(parts: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def test_every_image_once_but_never_one_alone() -> None:
    assert sorted(flat(shown(Batches(data(23), Stage(batch_size=5), 0, 0)))) == list(range(23))
    assert len(flat(shown(Batches(data(21), Stage(batch_size=5), 0, 0)))) == 20, "a norm over one image is none"
    assert [batches_in(rows, 5) for rows in (1, 2, 5, 6, 7, 10)] == [1, 1, 1, 1, 2, 2]


def test_the_target_stays_with_its_image() -> None:
    for step in range(5):
        batch = Batches(data(23), Stage(batch_size=5), 1, 2)[step]
        assert batch.inputs.shape == (len(batch.targets), 3, 4, 4)
        assert (batch.inputs[:, 0, 1, 1].long() % 3).tolist() == batch.targets.tolist()


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("rows", [23, 24, 36])
def test_shares_of_processes_are_the_whole_batch(processes: int, rows: int) -> None:
    """n processes with batches of B take, step by step, what one with batches of n B does; its end may be cut."""
    alone = shown(Batches(data(rows), Stage(batch_size=4 * processes), 7, 3))
    shares = [shown(Batches(data(rows), Stage(batch_size=4), 7, 3, None, n, processes)) for n in range(processes)]
    assert len({len(one) for one in shares}) == 1, "every process makes as many steps"
    for step, whole in enumerate(alone[: len(shares[0])]):
        parts = [one[step] for one in shares]
        assert len({len(part) for part in parts}) == 1, "and as large ones"
        kept = whole[: len(whole) // processes * processes]
        assert sorted(flat(parts)) == sorted(kept)


def test_accumulated_batches_are_one() -> None:
    parts = Batches(data(24), Stage(batch_size=4, accumulate=3), 0, 0)
    assert shown(parts) == shown(Batches(data(24), Stage(batch_size=12), 0, 0))


@pytest.mark.parametrize("augment", [Marks(), Mixes()])
def test_whoever_prepares_a_batch_it_is_the_same(augment: Marks) -> None:
    given = (data(23), Stage(batch_size=5), 11, 4, augment)
    here = list(batches(*given))
    there = list(batches(*given, workers=2))
    later = list(batches(*given, first=3))
    assert [step for step, _ in here] == [step for step, _ in there] == [0, 1, 2, 3, 4]
    for (_, a), (_, b) in zip(here, there, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert [step for step, _ in later] == [3, 4]
    for (_, a), (_, b) in zip(here[3:], later, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_an_image_is_changed_by_its_place_alone() -> None:
    """Not by the batch or the process that it falls into: what marks it is the same."""

    def marks(found: Batches) -> dict[int, int]:
        all = [found[step].inputs for step in range(len(found))]
        return {int(one[0, 1, 1]): int(one[1, 0, 0]) for batch in all for one in batch}

    small = marks(Batches(data(24), Stage(batch_size=4), 5, 1, Marks()))
    assert small == marks(Batches(data(24), Stage(batch_size=12), 5, 1, Marks()))
    shares = [marks(Batches(data(24), Stage(batch_size=6), 5, 1, Marks(), n, 2)) for n in range(2)]
    assert {**shares[0], **shares[1]} == small
    assert small != marks(Batches(data(24), Stage(batch_size=4), 5, 2, Marks())), "anew in every epoch"


def test_mixed_targets_are_shares() -> None:
    batch = Batches(data(23), Stage(batch_size=5), 0, 0, Mixes())[0]
    assert batch.inputs.dtype == torch.float32
    assert batch.targets.shape == (5, 3)
    assert torch.allclose(batch.targets.sum(1), torch.ones(5))


def test_judging_goes_through_all_in_order_and_is_shared() -> None:
    whole = torch.cat([one.targets for one in in_turn(data(23), 7)])
    assert whole.tolist() == (np.arange(23) % 3).tolist()
    shares = [torch.cat([one.inputs[:, 0, 0, 0] for one in in_turn(data(23), 7, n, 2)]).tolist() for n in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(23))


def test_images_become_shares_of_white() -> None:
    batch = Batches(data(23), Stage(batch_size=23), 0, 0)[0]
    found = batch.to(torch.device("cpu"))
    assert torch.equal(found.inputs, batch.inputs.float() / 255)


def test_some_rows_of_a_file() -> None:
    some = data(23).some(np.array([4, 9, 2]))
    assert some.inputs_of(np.array([2, 0]))[:, 0, 0, 0].tolist() == [2, 4]
    assert some.some(np.array([1])).inputs_of(np.array([0]))[0, 0, 0, 0] == 9
    assert some.counts() is not None
    assert some.counts().tolist() == [1.0, 1.0, 1.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("inputs", "targets", "classes"),
    [
        (np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.int64), ("a",)),
        (np.zeros((3, 4, 4, 3), np.float32), np.zeros(3, np.int64), ("a",)),
        (np.zeros((3, 4, 4, 3), np.uint8), np.zeros(2, np.int64), ("a",)),
        (np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 2]), ("a", "b")),
        (np.zeros((3, 4, 4, 3), np.uint8), np.array([0, -1, 0]), ("a", "b")),
    ],
)
def test_what_does_not_fit_is_refused(
    inputs: NDArray[np.uint8], targets: NDArray[np.int64], classes: tuple[str]
) -> None:
    with pytest.raises(BadInput):
        Data(inputs, targets, classes)
