"""One pass over more rows than fit into memory: from CSV, Parquet, NumPy memory maps or an iterator, resumed at the row
where it stopped.

A checkpoint is the estimator's own file, named by the number of rows that are in it, so that file and number can never
disagree. Rows learned after the last checkpoint are learned again after a kill; the sums are exact, so the result has
the same bits as a pass that was never interrupted.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from everlearn.errors import BadInput, StoreFault
from everlearn.learn.rows import Portion, open_rows
from everlearn.types import SILENT, Progress

SIZE = 8192  # rows of a portion


class Learning(Protocol):
    """What can learn a stream: scikit-learn's incremental estimators."""

    def partial_fit(self, X: Any, y: Any, **more: Any) -> Any: ...


Estimator = TypeVar("Estimator", bound=Learning)


def learn_stream(
    estimator: Estimator, source: Any, *, label: str = "label", id: str | None = None, group: str | None = None,
    checkpoint: str | Path | None = None, every: int = 100_000, size: int = SIZE, progress: Progress = SILENT,
) -> Estimator:  # fmt: skip
    """Teach an estimator every row of a source, once, in constant memory; returns what has learned them.

    source: the path of a CSV or Parquet file; a pair (X, y) of arrays or memory maps, or of paths of `.npy` files; or
    an iterable of (X, y) portions. label, id, group: columns of a file; of the others those called id, label, split,
    camera, group and time are passed over, and all that remain must be numbers, or lists of them.
    checkpoint: a folder in which the state is kept every `every` rows; the same call after a kill, or after rows were
    added at the end, goes on from there (an iterable must then begin again at its first row). It needs an estimator
    with `save` and `load`, such as ExactClassifier.

    Raises BadInput naming the row or column that cannot be learned, Missing where there is no file, StoreFault. What
    was learned up to the last checkpoint is kept.
    """
    rows = open_rows(source, label=label, id=id, group=group, number=is_regressor(estimator))
    kept = None if checkpoint is None else Checkpoints(Path(checkpoint), rows.mark)
    estimator, done = (estimator, 0) if kept is None else kept.load(estimator)
    saved = done
    with progress.task("learn") as task:
        task.advance(done)
        for portion in rows.portions(done, size):
            _learn(estimator, portion)
            done += len(portion)
            task.advance(len(portion))
            if kept is not None and done - saved >= every:
                kept.save(estimator, done)
                saved = done
    if kept is not None and done > saved:
        kept.save(estimator, done)
    return estimator


def _learn(estimator: Learning, portion: Portion) -> None:
    named = {name: given for name in ("ids", "groups") if (given := getattr(portion, name)) is not None}
    try:
        estimator.partial_fit(portion.x, portion.y, **named)
    except ValueError as error:
        finite = np.isfinite(portion.x).all(axis=1) if portion.x.dtype.kind == "f" else np.ones(len(portion), bool)
        if not finite.all():  # the estimator counts from the portion's first row
            remedy = "Fill or leave out what is not known; what came before the last checkpoint is kept."
            raise BadInput(f"row {portion.start + int(np.argmin(finite))} holds NaN or infinity.", remedy) from None
        where = f"rows {portion.start} to {portion.start + len(portion) - 1}"
        raise BadInput(f"{where} cannot be learned: {error}", "Mend or leave out that row.") from None


def is_regressor(estimator: Any) -> bool:
    """Whether it learns numbers."""
    import sklearn.base

    try:
        return bool(sklearn.base.is_regressor(estimator))
    except (AttributeError, TypeError):  # no scikit-learn estimator
        return False


class Checkpoints:
    """A folder with the newest state: `rows-NNNNNNNNNNNN.exact`, and the mark of the source that it is of."""

    def __init__(self, folder: Path, mark: str) -> None:
        """Raises BadInput where the folder is of another source, StoreFault."""
        self.folder = folder
        about = folder / "source"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                (folder / "source.part").write_text(mark)
                (folder / "source.part").replace(about)
            known = about.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreFault(f"{folder} cannot be used: {error}.", "Name another folder.") from None
        if known != mark:
            remedy = "Name another folder for this source, or remove this one to begin again."
            raise BadInput(f"{folder} is the checkpoint of another source.", remedy)

    def load(self, estimator: Estimator) -> tuple[Estimator, int]:
        """The newest state and its rows; the estimator as given, and 0, where there is none."""
        if not (hasattr(estimator, "save") and hasattr(estimator, "load")):
            raise BadInput(
                f"{type(estimator).__name__} cannot be saved without pickle.",
                "Leave out `checkpoint`, or take ExactClassifier.",
            )
        for unfinished in self.folder.glob(".rows-*"):  # a kill while it was written: nobody else would remove it
            shutil.rmtree(unfinished, ignore_errors=True)
        found = self._files()
        if not found:
            return estimator, 0
        kept = type(estimator).load(found[-1])  # type: ignore[attr-defined]
        mine, theirs = estimator.get_params(), kept.get_params()  # type: ignore[attr-defined]
        name = next((name for name in mine if not np.array_equal(mine[name], theirs.get(name))), None)
        if name is not None:  # a tuple or an array comes back as a list
            raise BadInput(
                f"{self.folder} was learned with {name}={theirs.get(name)!r}, not {mine[name]!r}.",
                "Give the same settings, or another folder.",
            )
        return kept, int(found[-1].stem.removeprefix("rows-"))

    def save(self, estimator: Any, rows: int) -> None:
        """Whole before the older ones go."""
        path = self.folder / f"rows-{rows:012d}.exact"
        estimator.save(path)
        for old in self._files():
            if old != path:
                old.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rows-" + "[0-9]" * 12 + ".exact"))
