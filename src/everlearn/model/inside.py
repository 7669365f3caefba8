"""A model whose learner is no graph: its ONNX file gives the features, and the learner answers in its workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import onnx

from everlearn.model.basis import OUTPUT
from everlearn.model.bundle import OnnxModel, facts, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.basis import Basis
    from everlearn.types import Image


class Answers(Protocol):
    """From phi (N, D) int8 to answers; `learn.streaming.StreamAnswers` is one."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> Any: ...
    def probabilities(self, phi: NDArray[Any]) -> NDArray[np.float32]: ...
    def values(self, phi: NDArray[Any]) -> NDArray[np.float64]: ...


def export_features(basis: Basis, answers: Answers, path: Path, *, card: Mapping[str, Any]) -> None:
    """Write the graph from images to phi, described as the model that these answers belong to. Raises StoreFault."""
    model = basis.graph()
    about = facts(
        task="classify" if answers.target is None else "regress", classes=answers.classes,
        squares=[(basis.input_size, basis.backbone.fit)] if basis.input_size else [], batch=basis.backbone.batch,
        backbone=basis.spec, basis_digest=basis.digest, licence=basis.licence, card=card,
    )  # fmt: skip
    onnx.helper.set_model_props(model, about)
    write(Path(path), model.SerializeToString())


class InsideModel(OnnxModel):
    """The features of the file, answered for by a learner."""

    outputs: ClassVar[tuple[str, ...]] = (OUTPUT,)

    def __init__(self, source: Path | bytes, answers: Answers) -> None:
        super().__init__(source)
        self.answers = answers

    def table(self, images: Sequence[Image], *, workers: int | None = None) -> NDArray[np.float32]:
        phi = super().table(images, workers=workers)
        if not len(phi):
            return np.zeros((0, max(1, len(self.classes))), np.float32)
        if self.answers.target is not None:
            return self.answers.values(phi)[:, None].astype(np.float32)
        return self.answers.probabilities(phi)
