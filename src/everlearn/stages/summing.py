"""Sums over more images than a workspace should hold: a folder or a bucket, without a catalog and without a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from everlearn import engine as engines
from everlearn.config import Engine as Settings
from everlearn.dataset.build import fold_of
from everlearn.errors import BadInput
from everlearn.image import ENDINGS
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.extract import Extract, File, Labelled, Summed, together
from everlearn.model.basis import Basis
from everlearn.store import open_store
from everlearn.types import Store

MOST_PIXELS = 100_000_000


class Item(NamedTuple):
    """An image of a store. group: images that must not be split, such as those of one video; None: the image alone."""

    key: str
    label: str
    group: str | None = None


def exact_sums(
    where: str | Path,
    items: Iterable[Item] | None = None,
    *,
    basis: Basis | None = None,
    folds: int = 5,
    engine: engines.Engine | Settings | None = None,
    part: int = 4096,
    refused: Callable[[str], None] | None = None,
) -> ExactMemory:
    """An exact memory of the images in a folder or bucket: the same bits whatever does the work.

    where: a folder, or s3://bucket/prefix; with a cluster, one that every worker reaches. items: the images to learn,
    read as they are needed; None: all in folders, which are their labels. basis: of `patches` where None. engine: this
    process where None. part: images of one task; its sums stay on the workers. refused: is told the key of each image
    that cannot be decoded, which is left out; None: BadInput is raised for it.

    Raises BadInput where there is no image, Missing, StoreFault, ClusterFault.
    """
    if part < 1:
        raise BadInput(f"part is {part}.", "Give at least 1 image.")
    store = open_store(where)
    basis = basis or _patches()
    runs = engines.opened(engine) if isinstance(engine, Settings) else engine or engines.Here()
    empty = ExactMemory(basis.digest, basis.dimensions, folds)
    given = labelled(labelled_by_folder(store) if items is None else items, folds)

    def take(part: list[Labelled], keys: list[str]) -> None:
        for key in keys:
            if refused is None:
                raise BadInput(f"{key!a} is no image that can be decoded.", "Remove it, or give `refused`.")
            refused(key)

    found = runs.sum(Summed(Extract(basis, store, MOST_PIXELS), empty), _parts(given, part), together, take)
    if found is None:
        raise BadInput(f"There is no image in {where}.", "Put images into folders that are named as their labels.")
    return found


def labelled_by_folder(store: Store) -> Iterator[Item]:
    """Every image of a store that lies in a folder, with the folder's name for its label."""
    for key in store.keys(""):
        path = PurePosixPath(key)
        if path.parent.name and path.suffix[1:].lower() in ENDINGS:
            yield Item(key, path.parent.name)


def labelled(items: Iterable[Item], folds: int) -> Iterator[Labelled]:
    """What is learned of each: its fold is a hash of its group."""
    for one in items:
        yield Labelled(File(one.key, one.key), one.label, fold_of(one.group or one.key, folds))


def _patches() -> Basis:
    from everlearn.model.backbone import load_backbone

    return Basis(load_backbone("patches"))


def _parts(items: Iterable[Labelled], size: int) -> Iterator[list[Labelled]]:
    items = iter(items)
    while some := list(islice(items, size)):
        yield some
