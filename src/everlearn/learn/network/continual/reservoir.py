"""Old images on disk, of each class equally many, under a budget of bytes: what replay draws from.

Which samples are held is a pure function of the set that was offered, whatever the order and however often: each has
a rank in its class by a hash of its key (a uniform draw from each class: bottom-k sampling, Cohen & Kaplan 2007), and
the lowest ranks over all classes stay. So the largest classes give up room to new ones, and what was once let go could
never have come back (a reservoir, Vitter 1985; balanced over classes, Chrysakis & Moens 2020).

Two files: `images.bin`, slots of one size; `index.bin`, written whole, which says what lies in which slot, its class
and the logits that were noted. Images go into slots that the index on disk does not name; killed at any point, the
reservoir holds what that index says, and offering again goes on.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn import faults
from everlearn.errors import BadInput, Corrupt, StoreFault
from everlearn.learn.exact import storage

FORMAT = "everlearn reservoir 1"
_ROW = np.dtype([("key", "V16"), ("priority", "<u8"), ("target", "<i8"), ("slot", "<i8")])
_ROW_BYTES = 16 + 8 + 8  # of the index on disk; the priority follows from the key
_HEAD_BYTES = 1024  # of the index, at most
_LOGIT = np.dtype("<f2")
_LARGEST = float(np.finfo(np.float16).max)

Rows = NDArray[np.int64]


class Reservoir:
    """A folder of samples of one shape: (S, S, 3) uint8 squares, or (D,) float32 rows.

    budget: bytes of both files together, at no moment more; while the index is replaced, it is there twice. seed: of
    the hash. Raises BadInput where the files are of another shape or seed, Corrupt where they are damaged, StoreFault.

    targets: (N,) int64 columns of what is held, sorted; logits: (N, W) float32 as they were noted, nan where none were.
    """

    targets: Rows
    logits: NDArray[np.float32]

    def __init__(self, folder: Path, budget: int, shape: tuple[int, ...], kind: Any = np.uint8, seed: int = 0) -> None:
        self.folder, self.budget, self.seed = Path(folder), budget, seed
        self.shape, self._kind = tuple(shape), np.dtype(kind).newbyteorder("<")
        self._size = math.prod(self.shape) * self._kind.itemsize  # of a slot, in bytes
        if self.room(0) < 1:
            raise BadInput(
                f"A budget of {budget:,} bytes has no room for a sample of {self._size:,}.", "Allow it more bytes."
            )
        self._mapped: NDArray[Any] | None = None
        self._set(np.empty(0, _ROW), np.empty((0, 0), _LOGIT))
        self._open()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return _digest(key) in self._places

    @property
    def keys(self) -> list[str]:
        """Digests of the keys, 32 hex digits, in the order of `targets`: they tell whether two hold the same."""
        return [bytes(key).hex() for key in self._index["key"]]

    @property
    def kind(self) -> str:
        """Of the samples' numbers, such as uint8."""
        return self._kind.name

    @property
    def width(self) -> int:
        """W, logits noted of each."""
        return self._noted.shape[1]

    def room(self, width: int) -> int:
        """Samples that the budget has room for, where `width` logits are noted of each."""
        return max(0, (self.budget - 2 * _HEAD_BYTES) // _bytes_of_one(self._size, width))

    def inputs(self, places: Rows) -> NDArray[Any]:
        """(M, …) rows by their places in `targets`, read from disk."""
        if self._mapped is None and len(self):
            slots = int(self._index["slot"].max()) + 1
            self._mapped = np.memmap(self._images, self._kind, mode="r", shape=(slots, *self.shape))
        if self._mapped is None or not len(places):
            return np.empty((0, *self.shape), self._kind)
        return np.asarray(self._mapped[self._index["slot"][places]])

    def wanted(self, targets: NDArray[Any], keys: Sequence[str], width: int = 0) -> Rows:
        """(M,) rows of these that would be held and are not yet: only they need be read. Offering them alone leaves
        the same as offering all."""
        return self._plan(np.asarray(targets), [_digest(key) for key in keys], max(width, self.width))[1]

    def offer(
        self, inputs: NDArray[Any], targets: NDArray[Any], keys: Sequence[str] | None = None,
        logits: NDArray[Any] | None = None,
    ) -> None:  # fmt: skip
        """Samples that were learned: (N, …), (N,) columns. keys: names to forget them by; None: what they show.
        logits: (N, W) that the network gives for them. What is held already stays as it was noted, unless its class is
        another now."""
        if len(inputs) != len(targets) or (logits is not None and len(logits) != len(targets)):
            raise BadInput(f"{len(inputs)} samples have {len(targets)} targets.", "Give one for each.")
        if inputs.shape[1:] != self.shape or inputs.dtype != self._kind:
            raise BadInput(f"Samples are {inputs.shape[1:]} {inputs.dtype}.", f"Give {self.shape} {self._kind}.")
        digests = [_digest(key) for key in (names(inputs) if keys is None else keys)]
        width = max(self.width, 0 if logits is None else logits.shape[1])
        stay, come = self._plan(np.asarray(targets), digests, width)
        new = np.empty(len(come), _ROW)
        new["key"] = np.frombuffer(b"".join(digests[row] for row in come), "V16")
        new["priority"] = self._priorities(new["key"])
        new["target"] = targets[come]
        noted = np.full((len(come), width), np.nan) if logits is None else logits[come]
        self._change(stay, new, _half(noted, width), inputs[come])

    def note(self, logits: NDArray[Any]) -> None:
        """(N, W) logits of all that is held, in the order of `targets`, in place of those that were noted. Where they
        take more room than before, some samples are let go."""
        if len(logits) != len(self):
            raise BadInput(f"{len(logits)} logits are given for {len(self)} samples.", "Give one row for each.")
        width = logits.shape[1]
        kept = self._fit_in(width)
        self._noted = _half(logits[kept], width)
        self.logits = self._noted.astype(np.float32)
        self._write()

    def forget(self, keys: Iterable[str]) -> int:
        """How many of these are held no more; their bytes are gone from the disk. What had no room before comes in
        their place when it is offered again."""
        gone = {_digest(key) for key in keys}
        stay = np.array([bytes(key) not in gone for key in self._index["key"]], bool)
        self._change(np.flatnonzero(stay))
        return len(stay) - int(stay.sum())

    def retain(self, keys: Iterable[str]) -> int:
        """Forget all but these: how many."""
        kept = {_digest(key) for key in keys}
        stay = np.array([bytes(key) in kept for key in self._index["key"]], bool)
        self._change(np.flatnonzero(stay))
        return len(stay) - int(stay.sum())

    def clear(self) -> None:
        """Nothing is held any more."""
        self._change(np.empty(0, np.int64))
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- which samples

    def _plan(self, targets: NDArray[Any], digests: list[bytes], width: int) -> tuple[Rows, Rows]:
        """Places of what stays, and rows of what comes."""
        last = {digest: row for row, digest in enumerate(digests)}  # the last word on a sample counts
        new = [row for digest, row in last.items() if self._class_of(digest) != int(targets[row])]
        said_anew = [self._places[digests[row]] for row in new if digests[row] in self._places]
        old = np.setdiff1d(np.arange(len(self)), said_anew)
        come = np.array(sorted(new), np.int64)
        priorities = self._priorities([digests[row] for row in come])
        kept = balanced(
            np.concatenate([self.targets[old], targets[come]]),
            np.concatenate([self._index["priority"][old], priorities]),
            self.room(width),
        )
        return old[kept[kept < len(old)]], come[kept[kept >= len(old)] - len(old)]

    def _class_of(self, digest: bytes) -> int | None:
        place = self._places.get(digest)
        return None if place is None else int(self.targets[place])

    def _priorities(self, digests: Iterable[Any]) -> NDArray[np.uint64]:
        salt = self.seed.to_bytes(8, "little")
        hashes = [hashlib.blake2b(bytes(one), digest_size=8, salt=salt).digest() for one in digests]
        return np.frombuffer(b"".join(hashes), "<u8")

    def _set(self, index: NDArray[Any], noted: NDArray[Any]) -> None:
        order = np.lexsort((index["priority"], index["target"]))
        self._index, self._noted = index[order], noted[order]
        self._places = {bytes(key): place for place, key in enumerate(self._index["key"])}
        self.targets = np.ascontiguousarray(self._index["target"], np.int64)
        self.logits = self._noted.astype(np.float32)

    # ---- how they lie on disk

    @property
    def _images(self) -> Path:
        return self.folder / "images.bin"

    def _change(
        self, stay: Rows, new: NDArray[Any] | None = None, noted: NDArray[Any] | None = None,
        inputs: NDArray[Any] | None = None, width: int = 0,
    ) -> None:  # fmt: skip
        """What goes leaves the index first; then images come into slots that are free; then the index names them.
        width: of the logits that there must be room for."""
        width = max(width, self.width, 0 if noted is None else noted.shape[1])
        gone = np.setdiff1d(self._index["slot"], self._index["slot"][stay])
        self._set(self._index[stay], self._noted[stay])
        if len(gone):
            self._write()
            faults.point("reservoir.let_go")
        self._cut(self.room(width))
        if new is not None and len(new) and noted is not None and inputs is not None:
            new["slot"] = self._free(len(new))
            self._put(new["slot"], inputs)
            faults.point("reservoir.images")
            self._blank(np.setdiff1d(gone, new["slot"]))
            both = np.concatenate([_half(self._noted, width), _half(noted, width)])
            self._set(np.concatenate([self._index, new]), both)
            self._write()
            faults.point("reservoir.index")
        else:
            self._blank(gone)

    def _fit_in(self, width: int) -> Rows:
        """Lets go what a smaller budget, or wider logits, have no room for. Places of what stays."""
        kept = np.sort(balanced(self.targets, self._index["priority"], self.room(width)))
        self._change(kept, width=width)
        return kept

    def _cut(self, room: int) -> None:
        """Samples in slots beyond the room move to free ones, and the file ends there."""
        beyond = np.flatnonzero(self._index["slot"] >= room)
        if len(beyond):
            free = self._free(len(beyond))
            self._put(free, self.inputs(beyond))
            self._index["slot"][beyond] = free
            self._write()
        if self._held_slots() > room:
            self._mapped = None
            os.truncate(self._images, room * self._size)

    def _free(self, count: int) -> Rows:
        """The lowest slots that the index does not name."""
        return np.setdiff1d(np.arange(len(self) + count), self._index["slot"])[:count]

    def _held_slots(self) -> int:
        return self._images.stat().st_size // self._size if self._images.exists() else 0

    def _put(self, slots: Rows, inputs: NDArray[Any]) -> None:
        self._mapped = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self._images, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                for slot, row in zip(slots.tolist(), inputs, strict=True):
                    file.seek(slot * self._size)
                    file.write(np.ascontiguousarray(row).tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreFault(f"{self._images} cannot be written: {error.strerror}.", "Is the disk full?") from None

    def _blank(self, slots: Rows) -> None:
        """Zeros over what is held no more."""
        slots = slots[slots < self._held_slots()]
        if len(slots):
            self._put(slots, np.broadcast_to(np.zeros((), self._kind), (len(slots), *self.shape)))

    def _write(self) -> None:
        header = {
            "format": FORMAT, "seed": self.seed, "shape": self.shape, "kind": self._kind.str, "samples": len(self),
            "width": self.width,
        }  # fmt: skip
        keys = np.frombuffer(self._index["key"].tobytes(), "|i1")
        arrays = [keys, self._index["target"], self._index["slot"], self._noted.view("<i2")]
        self.folder.mkdir(parents=True, exist_ok=True)
        storage.write(self.folder / "index.bin", header, arrays)

    def _open(self) -> None:
        """Takes up what is there."""
        if not (self.folder / "index.bin").exists():
            self._images.unlink(missing_ok=True)
            return
        for left in self.folder.glob(".*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
        try:
            head, index, noted = self._read()
        except Corrupt:
            raise Corrupt(f"{self.folder} is damaged.", "Delete it: it is filled again from the images.") from None
        for name, here, there in (("seed", self.seed, head["seed"]), ("shape", list(self.shape), head["shape"])):
            if here != there:
                raise BadInput(f"{self.folder} was made with {name} {there}, not {here}.", "Use another folder.")
        index["priority"] = self._priorities(index["key"])
        self._set(index, noted)
        self._blank(np.setdiff1d(np.arange(self._held_slots()), index["slot"]))  # a kill may have come before
        self._fit_in(self.width)

    def _read(self) -> tuple[dict[str, Any], NDArray[Any], NDArray[Any]]:
        with storage.read(self.folder / "index.bin") as file:
            head, count = file.header, int(file.header["samples"])
            width = int(head["width"])
            index = np.empty(count, _ROW)
            index["key"] = np.frombuffer(file.array("|i1", 16 * count).tobytes(), "V16")
            index["target"], index["slot"] = file.array("<i8", count), file.array("<i8", count)
            noted = file.array("<i2", count * width).view(_LOGIT).reshape(count, width)
            kind, shape = np.dtype(head["kind"]), tuple(head["shape"])
        needed = (int(index["slot"].max(initial=-1)) + 1) * math.prod(shape) * kind.itemsize
        if head["format"] != FORMAT or (needed and (not self._images.exists() or self._images.stat().st_size < needed)):
            raise Corrupt(f"{self._images} is not what the index names.")
        return head, index, noted


def names(inputs: NDArray[Any]) -> list[str]:
    """A key for each row, from what it shows."""
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).hexdigest() for row in inputs]


def budget_for(samples: int, shape: tuple[int, ...], kind: Any = np.uint8, width: int = 0) -> int:
    """Bytes that so many samples take, with `width` logits noted of each."""
    return samples * _bytes_of_one(math.prod(shape) * np.dtype(kind).itemsize, width) + 2 * _HEAD_BYTES


def balanced(targets: NDArray[Any], priorities: NDArray[Any], room: int) -> Rows:
    """(M,) rows that stay, at most `room`: those of the lowest rank in their class, and of one rank the lowest
    priorities. A class that had to let some go has at least as many, but for one, as any other."""
    order = np.lexsort((priorities, targets))
    begins = np.searchsorted(targets[order], targets[order])  # each class's first place
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - begins
    return np.lexsort((priorities, ranks))[:room].astype(np.int64)


def _bytes_of_one(size: int, width: int) -> int:
    return size + 2 * (_ROW_BYTES + width * _LOGIT.itemsize)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _half(logits: NDArray[Any], width: int) -> NDArray[Any]:
    """As half floats, nan in columns that were not there."""
    found = np.full((len(logits), width), np.nan, _LOGIT)
    found[:, : logits.shape[1]] = np.clip(logits, -_LARGEST, _LARGEST)
    return found
