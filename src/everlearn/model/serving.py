"""Which of our models a file is, and so what answers with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from everlearn.errors import BadInput
from everlearn.model.bundle import KEY, OnnxModel, read

if TYPE_CHECKING:
    from everlearn.types import Image, Prediction


class Serving(Protocol):
    """What answers for images. classes: () for numbers; size: side of the largest square it looks at, px, 0 where it
    takes rows; card: as it was exported; metadata: what its file says of itself."""

    classes: tuple[str, ...]
    card: dict[str, Any]
    metadata: dict[str, str]

    @property
    def licence(self) -> str: ...
    @property
    def size(self) -> int: ...
    def prepare(self, images: Sequence[Image]) -> Any:
        """(N,) images of any size -> (N,) no larger than it needs them; it answers alike for both."""
        ...

    def predict(self, images: Sequence[Image]) -> list[Prediction]: ...


def serving_of(source: Path | bytes) -> Serving:
    """A detector where the file says of itself that it finds boxes or has a description beside it, with the memory of
    crops that lies beside it; else a model of classes or numbers. Raises Missing, StoreFault, BadInput, Corrupt."""
    from everlearn.model.detecting.onnx import OnnxDetector, description_of, is_detector

    said = _metadata(source if isinstance(source, bytes) else read(source))
    if said is None or (KEY + "format" in said and not is_detector(said)):
        return OnnxModel(source)
    if is_detector(said) or description_of(source) is not None:
        from everlearn.model.detecting.pipeline import beside, with_crops

        return with_crops(OnnxDetector(source), None if isinstance(source, bytes) else beside(source))
    there = "a description" if isinstance(source, bytes) else source.with_suffix(".yaml").name
    raise BadInput(
        f"{'The model' if isinstance(source, bytes) else source} is not a model that Everlearn exported.",
        f"Give a file that `models export` wrote; of another detector say in {there} what its outputs mean.",
    )


def _metadata(data: bytes) -> Mapping[str, str] | None:
    """None where it is no model: whoever opens it says so."""
    import onnx

    try:
        return {one.key: one.value for one in onnx.load_model_from_string(data).metadata_props}
    except Exception:  # protobuf's errors share no base class with others
        return None
