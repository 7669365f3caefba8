"""The part of the model that follows from the sums: one matrix, one bias, one temperature."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing, StoreFault
from everlearn.learn.exact.rejection import Rejection
from everlearn.learn.exact.sums import check_phi
from everlearn.learn.exact.target import RegressionTarget
from everlearn.naming import UNKNOWN

Kind = Literal["ridge", "lda", "mean", "regress", "linear"]
"""How the weights came about: from the sums, by regression, or by a learner of another kind (`linear`)."""
KINDS: tuple[Kind, ...] = ("ridge", "lda", "mean")
"""Heads of a classifier; where two are equally accurate the earlier is chosen."""
FEW = 5
"""Samples up to which a class is new, where the classes in the middle have four times as many."""
_WORTH = 0.05
_BLOCK = 8192


def ranked(accuracy: Mapping[Kind, float], counts: Sequence[int] | NDArray[np.integer[Any]]) -> list[Kind]:
    """Heads from the best: by out-of-fold accuracy, the earlier of KINDS among equals. counts: samples per class.

    While a class is new, the ridge must be five points better than the others to be chosen: it hardly ever answers a
    class of one to five samples among classes of thousands, and the few samples show in no accuracy.
    """
    held = np.asarray(counts)
    held = held[held > 0]
    new = len(held) > 1 and bool(held.min() <= FEW and 4 * held.min() <= np.median(held))

    def worth(kind: Kind) -> float:
        return accuracy[kind] - (_WORTH if new and kind == "ridge" else 0.0)

    return sorted((kind for kind in KINDS if kind in accuracy), key=worth, reverse=True)


@dataclass(frozen=True, eq=False)
class Head:
    """scores = phi @ weights + bias; probabilities = softmax(scores / temperature).

    kind: `ridge`, `lda`, `mean`, or `regress`. classes: C names in the order of the columns, () for regression.
    weights: (D, C) float32. bias: (C,) float32. temperature: > 0. calibrated: whether out-of-fold scores set it.
    unknown: what is answered `unknown`; None: every answer is a class.
    target, quantiles: regression only: the range and step, and share of samples -> |residual| out of fold.
    """

    kind: Kind
    classes: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float = 1.0
    calibrated: bool = False
    target: RegressionTarget | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    unknown: Rejection | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of `table`'s columns, () for regression: the classes, and `unknown` where that is an answer."""
        return self.classes if self.unknown is None else (*self.classes, UNKNOWN)

    def scores(self, phi: NDArray[Any]) -> NDArray[np.float32]:
        """phi (N, D) int8 -> (N, C) float32; for regression (N, 1), in steps above the range's low end."""
        phi = check_phi(phi, len(self.weights))
        found = np.empty((len(phi), len(self.bias)), np.float32)
        for start in range(0, len(phi), _BLOCK):
            block = slice(start, start + _BLOCK)
            np.matmul(phi[block].astype(np.float32), self.weights, out=found[block])
        found += self.bias
        return found

    def probabilities(self, phi: NDArray[Any]) -> NDArray[np.float32]:
        """phi (N, D) int8 -> (N, C); every row sums to 1. Raises BadInput for a regression head."""
        if self.target is not None:
            raise BadInput("a regression head has no probabilities.", "Ask for its values.")
        return softmax(self.scores(phi), self.temperature)

    def table(self, phi: NDArray[Any]) -> NDArray[np.floating]:
        """What is answered: phi (N, D) int8 -> (N, A) probabilities of `answers`, or (N, 1) values for regression."""
        if self.target is not None:
            return self.values(phi)[:, None]
        if self.unknown is None:
            return self.probabilities(phi)
        scores = self.scores(phi) / np.float32(self.temperature)
        strange = scores.max(axis=1) - self.unknown.margins(phi) / self.unknown.width
        return softmax(np.column_stack([scores, strange]).astype(np.float32), 1.0)

    def values(self, phi: NDArray[Any]) -> NDArray[np.float64]:
        """phi (N, D) int8 -> (N,) numbers within the target's range. Raises BadInput for a classifier's head."""
        if self.target is None:
            raise BadInput("a classifier's head has no values.", "Ask for its probabilities.")
        return self.target.value(self.scores(phi)[:, 0])

    def save(self, path: Path) -> None:
        """Write an npz file (no pickle), whole or not at all. Raises StoreFault."""
        path = Path(path)
        target = self.target
        arrays: dict[str, Any] = {
            "kind": np.array(self.kind),
            "classes": np.frombuffer("\n".join(name.encode().hex() for name in self.classes).encode(), np.uint8),
            "weights": self.weights,
            "bias": self.bias,
            "temperature": np.array(self.temperature),
            "calibrated": np.array(self.calibrated),
            "target": np.array([target.low, target.high, target.step] if target else [], np.float64),
            "quantiles": np.array(sorted(self.quantiles.items()), np.float64).reshape(-1, 2),
        }
        if self.unknown is not None:
            arrays |= {f"unknown_{name}": array for name, array in self.unknown.arrays().items()}
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
            ) as file:
                temporary = Path(file.name)
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise StoreFault(f"{path} cannot be written: {error.strerror or error}.", "Free the disk.") from None

    @classmethod
    def load(cls, path: Path) -> Head:
        """Raises Missing where there is no file, Corrupt where it is not a head."""
        try:
            with zipfile.ZipFile(path) as packed:
                if any(part.compress_type != zipfile.ZIP_STORED for part in packed.infolist()):
                    raise ValueError  # never written so: a bomb
            with np.load(Path(path), allow_pickle=False) as file:
                data = {name: file[name] for name in file.files}
            names = data["classes"].tobytes().decode()
            target = RegressionTarget(*data["target"].tolist()) if len(data["target"]) else None
            classes = () if target or not names else tuple(bytes.fromhex(name).decode() for name in names.split("\n"))
            head = cls(
                str(data["kind"]), classes, data["weights"], data["bias"], float(data["temperature"]),  # type: ignore[arg-type]
                bool(data["calibrated"]), target, dict(data["quantiles"].tolist()), _rejection(data),
            )  # fmt: skip
            if head.kind not in (*KINDS, "regress", "linear"):
                raise ValueError
            if head.unknown is not None and (
                head.unknown.classes != len(classes) or len(head.unknown.distance.origin) != len(head.weights)
            ):
                raise ValueError
            if head.weights.shape != (len(head.weights), len(classes) or 1) or len(head.bias) != (len(classes) or 1):
                raise ValueError
        except FileNotFoundError:
            raise Missing(f"{path} is not there.", "Run `everlearn learn`.") from None
        except OSError as error:
            raise StoreFault(f"{path} cannot be read: {error.strerror or error}.", "Check the disk.") from None
        except (ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, BadInput, BadConfig):
            raise Corrupt(f"{path} is damaged.", "Run `everlearn doctor`.") from None
        return head


def _rejection(data: Mapping[str, NDArray[Any]]) -> Rejection | None:
    prefix = "unknown_"
    found = {name.removeprefix(prefix): array for name, array in data.items() if name.startswith(prefix)}
    return Rejection.of(found) if found else None


def softmax(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """(N, C) scores -> (N, C) probabilities; a score of -inf has probability 0."""
    found = scores / np.float32(temperature)
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    return found
