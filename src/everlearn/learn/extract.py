"""From files to features and sums: what is done in this process, or by the workers of a cluster.

What travels to a worker is an `Extract`, a `Kept` or a `Summed`, once, with the basis in it; then a list of files for
each part. What comes back is phi, int8, and sums. Images stay where they lie: a worker reads them from the store.
"""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from everlearn import image
from everlearn.errors import BadInput, ClusterFault, Corrupt, StoreFault
from everlearn.image.crop import crop
from everlearn.learn.exact.memory import ExactMemory
from everlearn.store import LocalStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.types import Box, Image, Store

BLOCK = 4096
"""Rows summed at a time: few enough to hold, enough for a matrix product to be worth its start."""

_THREADS = 4
_FAR_THREADS = 16  # a bucket answers in tens of milliseconds, whatever the processor does meanwhile
_PROBES = 3


class Basis(Protocol):
    """The fixed map from an image to int8 features; `model.basis.Basis` is one."""

    spec: str
    digest: str
    dimensions: int
    licence: str

    @property
    def input_size(self) -> int: ...
    def prepare(self, images: Sequence[Image]) -> NDArray[Any]: ...
    def phi(self, images: Sequence[Image]) -> NDArray[np.int8]: ...


class File(NamedTuple):
    """Where an image of a store lies. id: what errors call it. row: a row of numbers in NumPy's format instead. part:
    the box that is looked at; None: the whole image."""

    id: str
    key: str
    row: bool = False
    part: Box | None = None


class Labelled(NamedTuple):
    """An image with what is learned of it. fold: of its group alone, never of other images."""

    file: File
    label: str
    fold: int


def read(
    store: Store, files: Sequence[File], most_pixels: int, shrink: Callable[[Image], Image] | None = None
) -> list[Image]:
    """Decoded pixels of files, in the order given; of rows the feature vector. Raises Missing, Corrupt, StoreFault.

    shrink: what is kept of each image. A camera's photo takes 36 MB, so hundreds of them are not held as they are.
    """
    found = []
    for one in _each(store, files, most_pixels, shrink):
        if isinstance(one, Corrupt):
            raise one
        found.append(one)
    return found


def _each(
    store: Store, files: Sequence[File], most_pixels: int, shrink: Callable[[Image], Image] | None
) -> list[Image | Corrupt]:
    """As `read`, with the error in the place of an image that cannot be decoded."""

    def load(one: File) -> Image | Corrupt:
        with store.open(one.key) as opened:
            data = opened.read()
        try:
            if one.row:
                return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]
            pixels = image.decode(data, max_pixels=most_pixels).pixels
            pixels = pixels if one.part is None else crop(pixels, one.part)
        except (BadInput, ValueError, EOFError) as error:
            return Corrupt(f"The file of sample {one.id} has changed: {error}", "See: everlearn doctor --deep")
        return pixels if shrink is None else shrink(pixels)

    with ThreadPoolExecutor(_THREADS if isinstance(store, LocalStore) else _FAR_THREADS) as pool:
        return list(pool.map(load, files))


class Extract:
    """phi of files. It can be sent to another process, and there it refuses to give any other phi than here."""

    def __init__(self, basis: Basis, store: Store, most_pixels: int) -> None:
        self.basis, self.store, self.most_pixels = basis, store, most_pixels
        self._expected: bytes | None = None  # of another process, until it has shown that it gives the same

    def __call__(self, files: Sequence[File]) -> NDArray[np.int8]:
        """(n,) files -> (n, dimensions). Raises Missing, Corrupt, StoreFault; elsewhere ClusterFault too."""
        self._check()
        return self.basis.phi(read(self.store, files, self.most_pixels, self._small))

    def readable(self, files: Sequence[File]) -> tuple[list[int], NDArray[np.int8]]:
        """Which of the files can be decoded, and (n, dimensions) of these. Raises as a call, but never Corrupt."""
        self._check()
        found = _each(self.store, files, self.most_pixels, self._small)
        good = {n: one for n, one in enumerate(found) if not isinstance(one, Corrupt)}
        return list(good), self.basis.phi(list(good.values()))

    def _small(self, one: Image) -> Image:
        return self.basis.prepare([one])[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_expected": self._expected or _fingerprint(self.basis)}

    def _check(self) -> None:
        """In another process, before its first answer."""
        if self._expected is None:
            return
        where = socket.gethostname()
        if isinstance(self.store, LocalStore) and not self.store.root.is_dir():
            raise StoreFault(
                f"A worker on {where} does not see the folder {self.store.root}.",
                "Share the folder with every machine under this path, or set store: s3://bucket/prefix",
            )
        if _fingerprint(self.basis) != self._expected:
            raise ClusterFault(
                f"A worker on {where} computes other features than this process with the basis {self.basis.spec}.",
                "Use the same versions of Everlearn and onnxruntime, and one kind of machine; or backbone: patches, "
                "which is integer arithmetic.",
            )
        self._expected = None


class Kept:
    """phi of labelled files, for a cache, and the sums over them: a memory of these files alone."""

    def __init__(self, extract: Extract, empty: ExactMemory) -> None:
        """empty: a memory without samples, for its folds and target."""
        self.extract, self.empty = extract, empty

    def __call__(self, part: Sequence[Labelled]) -> tuple[NDArray[np.int8], ExactMemory]:
        """A function of the part alone: done again after a crash, it gives the same. Raises as `Extract`."""
        phi = self.extract([one.file for one in part])
        memory = _like(self.empty)
        _learn(memory, phi, part)
        return phi, memory


class Summed:
    """The sums over labelled files and no phi, a block in memory at a time, however long the part is."""

    def __init__(self, extract: Extract, empty: ExactMemory) -> None:
        self.extract, self.empty = extract, empty

    def __call__(self, part: Sequence[Labelled]) -> tuple[list[str], ExactMemory]:
        """The ids of what cannot be decoded, which is left out, and the sums over the rest."""
        memory = _like(self.empty)
        refused: list[str] = []
        for start in range(0, len(part), BLOCK):
            block = part[start : start + BLOCK]
            good, phi = self.extract.readable([one.file for one in block])
            _learn(memory, phi, [block[n] for n in good])
            refused += [block[n].file.id for n in sorted(set(range(len(block))) - set(good))]
        return refused, memory


def _learn(memory: ExactMemory, phi: NDArray[np.int8], part: Sequence[Labelled]) -> None:
    memory.add(phi, [one.label for one in part], np.array([one.fold for one in part], np.int64))


def together(memories: Iterable[ExactMemory]) -> ExactMemory:
    """A new memory of all that these hold; there is at least one."""
    first, *rest = memories
    whole = _like(first)
    for one in (first, *rest):
        whole.merge(one)
    return whole


def _like(one: ExactMemory) -> ExactMemory:
    """An empty memory of the same kind."""
    return ExactMemory(one.basis_digest, one.dimensions, one.folds, one.target)


def _fingerprint(basis: Basis) -> bytes:
    """What a basis makes of a few fixed images (rows, where it takes rows). Another version, another file or another
    kind of floating-point unit shows in it."""
    size = basis.input_size
    shape = (size, size, 3) if size else (256,)
    noise = np.frombuffer(hashlib.shake_256(b"everlearn").digest(_PROBES * int(np.prod(shape))), np.uint8)
    probes = [one if size else one.astype(np.float32) for one in noise.reshape(_PROBES, *shape)]
    return hashlib.sha256(basis.digest.encode() + basis.phi(probes).tobytes()).digest()
