"""From arrays of any scale to phi in [-127, 127], by fixed steps that know no data.

A value becomes an integer by a step that is even up to a knee and doubles with every octave beyond it (piecewise
linear, so that single IEEE operations decide and every machine finds the same integer); or, where the user gives the
range, by an even step over that range. The integer is then written in balanced digits to the base 255, one int8 column
(plane) per digit. The sums of products of digits hold the sums of products of the integers, so more planes cost
columns, never exactness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput
from everlearn.learn.exact.sums import LIMIT
from everlearn.learn.exact.threads import over_rows

BASE = 2 * LIMIT + 1
PLANES = 4
KNEES = {1: (1.0, 12), 2: (4.0, 16), 3: (64.0, 26), 4: (16384.0, 18)}
"""Planes -> (knee, octaves): even steps within the knee, clipped at about knee * 2^octaves."""
_COSINE_KNEE = (1.0, 32)
_TURN = 1024  # steps of a full turn in the table of cosines
_BLOCK = 4096
_CELLS = 2**15  # float32 numbers of a guess: they stay in the cache
_SMALL = 2.0**-60
_BITS_OF_ONE = np.int32(0x3F800000)  # of 1.0 in float32

Floats = NDArray[np.float64]
Features = Literal["linear", "cosine"]


class BadArray(BadInput, ValueError):
    """An array or setting that cannot be learned from; a ValueError too, as scikit-learn's callers expect."""


def top(planes: int) -> int:
    """The largest integer of so many balanced digits."""
    return (BASE**planes - 1) // 2


def digits(values: NDArray[np.int64], planes: int) -> NDArray[np.int8]:
    """(N, D) integers within +-top(planes) -> (N, planes * D), the highest digits first."""
    if planes == 1:
        return values.astype(np.int8)
    found = []
    for _ in range(planes):
        low = np.mod(values + LIMIT, BASE) - LIMIT
        found.append(low.astype(np.int8))
        values = (values - low) // BASE
    return np.concatenate(found[::-1], axis=1)


def numbers(phi: NDArray[Any], planes: int) -> NDArray[np.int64]:
    """The reverse of `digits`."""
    total = np.zeros((len(phi), phi.shape[1] // planes), np.int64)
    for plane in np.split(phi, planes, axis=1):
        total = total * BASE + plane
    return total


def refuse_gaps(values: NDArray[Any], what: str = "X") -> None:
    """Raises BadArray naming the first row with NaN or infinity."""

    def first(part: slice) -> int | None:
        good = np.isfinite(values[part])
        return None if good.all() else part.start + int(np.argmin(good.reshape(len(good), -1).all(axis=1)))

    for row in over_rows(first, len(values)):
        if row is not None:
            found = "NaN" if np.isnan(values[row]).any() else "infinity (inf)"
            raise BadArray(f"{what} row {row} holds {found}.", "Fill or leave out what is not known.")


@dataclass(frozen=True)
class Encoder:
    """inputs: features of a row. planes: int8 columns per feature. scale: (inputs,) or one largest |x|, () for none.

    features: `linear`, or `cosine`: `dimensions` random cosines, the Gaussian kernel of `width` times sqrt(inputs), in
    shares of `scale` or, without it, octaves beyond 1 (Rahimi & Recht 2007; directions by Hadamard transforms, Yu et
    al. 2016, arXiv:1610.09072).
    """

    inputs: int
    planes: int
    scale: tuple[float, ...] = ()
    features: Features = "linear"
    dimensions: int = 1024
    width: float = 1.0
    seed: int = 0

    @property
    def cosine(self) -> bool:
        return self.features == "cosine"

    @property
    def effective(self) -> int:
        """Features that are learned on."""
        return self.dimensions if self.cosine else self.inputs

    @property
    def columns(self) -> int:
        """Width of phi."""
        return self.effective * self.planes

    def digest(self) -> str:
        """Hex digest of all that decides phi."""
        about: list[object] = ["everlearn arrays 2", self.inputs, self.planes, self.features]
        about += [float.hex(s) for s in self.scale]
        about += [self.dimensions, float.hex(self.width), self.seed] if self.cosine else []
        about += [KNEES[self.planes], _COSINE_KNEE, BASE, _TURN]
        return hashlib.sha256("|".join(map(str, about)).encode()).hexdigest()

    def phi(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """(N, inputs) finite -> (N, columns) int8."""
        found = np.empty((len(x), self.columns), np.int8)
        quick = not self.cosine and self.planes == 1 and all(_SMALL < s < 1 / _SMALL for s in self.scale)

        def encode(part: slice) -> None:
            block, rows = x[part], found[part]
            with np.errstate(over="ignore"):  # what is beyond the largest float is beyond the last step
                if quick:
                    self._steps_by_guess(block, rows)
                elif self.cosine:
                    steps = self._steps(np.asarray(block, np.float64), 2, _COSINE_KNEE)
                    turned = np.rint(self._turns(steps) * _TURN).astype(np.int64)
                    rows[:] = _table()[(turned + self._phases) % _TURN]
                else:
                    steps = self._steps(np.asarray(block, np.float64), self.planes, KNEES[self.planes])
                    rows[:] = digits(steps, self.planes)

        over_rows(encode, len(x), 512 if quick else self._slice)
        return found

    def values(self, phi: NDArray[np.int8]) -> Floats:
        """phi (N, columns) -> (N, effective) what is learned on, in steps."""
        return (phi if self.planes == 1 else numbers(phi, self.planes)).astype(np.float64)

    def unrounded(self, x: NDArray[Any]) -> Floats:
        """(N, inputs) -> (N, effective) float64 features that were never quantised, to measure what that costs."""
        x = np.asarray(x, np.float64)
        if not self.cosine:
            return x
        steps = self._scaled(x, *_COSINE_KNEE) * top(2)
        return np.cos(2 * np.pi * (self._turns(steps, exact=False) + self._phases / _TURN))

    def _scaled(self, x: Floats, knee: float, octaves: int, scale: Floats | None = None) -> Floats:
        """Values in [-1, 1]. scale: of each number of x; None: they are whole rows."""
        if self.scale:
            return np.clip(x / (np.array(self.scale) if scale is None else scale), -1, 1)
        mantissa, exponent = np.frexp(1 + np.abs(x) / knee)  # piecewise linear log2: exact operations only
        return np.sign(x) * np.minimum((exponent + 2 * mantissa - 2) / octaves, 1)

    @property
    def _slice(self) -> int:
        """Rows of which a float64 copy stays in the cache."""
        return max(16, 2**17 // self.inputs)

    def _steps_by_guess(self, x: NDArray[Any], out: NDArray[np.int8]) -> None:
        """What `_steps` gives for one plane, by guesses in float32; float64 decides where a guess is near an edge.

        A guess is off by less than 2^-15: a few roundings of 2^-24 on numbers up to 127. Without a scale it is read
        from the bits of 1 + |x|: as an integer, a float is its piecewise linear log2.
        """
        rows = max(1, _CELLS // self.inputs)
        guesses, spares = np.empty((2, rows, self.inputs), np.float32)
        per_step = (LIMIT / np.array(self.scale or 1, np.float64)).astype(np.float32)
        unsure = []
        for start in range(0, len(x), rows):
            block = np.asarray(x[start : start + rows], np.float32)
            guess, spare, found = guesses[: len(block)], spares[: len(block)], out[start : start + rows]
            if self.scale:
                np.multiply(block, per_step, out=guess)
            else:
                np.abs(block, out=spare)
                spare += 1
                bits = spare.view(np.int32)
                bits -= _BITS_OF_ONE
                np.copyto(guess, bits, casting="same_kind")
                guess *= np.float32(LIMIT / KNEES[1][1] / 2**23)
            np.clip(guess, -LIMIT, LIMIT, out=guess)
            np.rint(guess, out=spare)
            np.copyto(found, spare, casting="unsafe")
            if not self.scale:
                sign = -(block < 0).view(np.int8)
                found ^= sign
                found -= sign
            guess -= spare
            np.abs(guess, out=guess)
            unsure.append(np.flatnonzero(guess > 0.5 - 2**-14) + start * self.inputs)
        row, column = np.divmod(np.concatenate(unsure), self.inputs)
        scale = np.broadcast_to(np.array(self.scale), self.inputs)[column] if self.scale else None
        out[row, column] = self._steps(x[row, column].astype(np.float64), 1, KNEES[1], scale)

    def _steps(self, x: Floats, planes: int, knee: tuple[float, int], scale: Floats | None = None) -> NDArray[np.int64]:
        return np.rint(self._scaled(x, *knee, scale) * top(planes)).astype(np.int64)

    # random cosines: the same construction as a workspace's basis (everlearn.model.cosines), in float64

    @property
    def _block(self) -> int:
        return max(16, 1 << (self.dimensions - 1).bit_length())

    def _signs(self, name: str, count: int) -> Floats:
        drawn = np.frombuffer(hashlib.shake_256(f"{name}|{self.seed}".encode()).digest(-(-count // 8)), np.uint8)
        return np.unpackbits(drawn)[:count].astype(np.float64) * 2 - 1

    @cached_property
    def _phases(self) -> NDArray[np.int64]:
        drawn = hashlib.shake_256(f"phases|{self.seed}".encode()).digest(2 * self.dimensions)
        return np.frombuffer(drawn, "<u2").astype(np.int64) % _TURN

    def _turns(self, steps: NDArray[Any], exact: bool = True) -> Floats:
        """(N, inputs) steps -> (N, dimensions) turns: three rounds of signs and Hadamard transforms.

        With `exact`, whole numbers below 2^53 throughout: the same on every machine.
        """
        block = self._block
        parts = -(-self.inputs // block)
        padded = np.zeros((len(steps), parts * block))
        padded[:, : self.inputs] = steps
        x = (padded * self._signs("fold", parts * block)).reshape(-1, parts, block).sum(axis=1)
        rows = 1 << (block.bit_length() // 2)
        left, right = _hadamard(rows), _hadamard(block // rows)
        for number in range(3):
            x = (x * self._signs(f"round {number}", block)).reshape(-1, rows, block // rows)
            x = (left @ (x @ right)).transpose(0, 2, 1).reshape(-1, block) * block**-0.5
            x = np.rint(x) if exact else x
        unit = top(2) / (1.0 if self.scale else _COSINE_KNEE[1])  # steps in a share of the scale, or an octave
        reach = block**0.5 / (2 * np.pi * self.width * self.inputs**0.5 * unit)
        return x[:, : self.dimensions] * reach


def _hadamard(size: int) -> Floats:
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


def _table() -> NDArray[np.int8]:
    return np.rint(LIMIT * np.cos(2 * np.pi * np.arange(_TURN) / _TURN)).astype(np.int8)


def portions(count: int, size: int = _BLOCK) -> Iterator[slice]:
    """0 to count in slices, so that no float copy grows with N."""
    for start in range(0, count, size):
        yield slice(start, start + size)
