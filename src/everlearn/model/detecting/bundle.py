"""Our bundle of a detector: its graph as it is, with what it means and where it comes from in the file's metadata.

The graph is not changed, so a program that opened it before opens the bundle too (Ultralytics reads its own export);
`everlearn predict --model FILE.onnx` needs no workspace and no torch for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx

from everlearn.errors import BadInput
from everlearn.model.bundle import KEY, facts
from everlearn.model.detecting.onnx import OUTPUTS, THRESHOLDS, OnnxDetector
from everlearn.model.detecting.outputs import Outputs
from everlearn.model.external import whole_model


def export_detector(
    graph: bytes, description: Outputs | None = None, *, card: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, float] | None = None, made_of: str = "",
) -> bytes:  # fmt: skip
    """A detector's ONNX file -> our bundle of it. description: by default what the file says of itself. thresholds: of
    some classes or all, from which confidence a box is told, else the description's. made_of: what it was trained from
    (`yolo:yolo11n.yaml`).

    Raises BadInput where the graph cannot be what the description says, or a threshold is for no class of it.
    """
    how = OnnxDetector(graph, description).description
    for label, value in (thresholds or {}).items():
        if label not in how.classes or not 0 <= value <= 1:
            raise BadInput(f"A threshold of {value} for {label!r} cannot be.", f"Classes: {', '.join(how.classes)}.")
    model = whole_model(graph, "The model")
    before = {one.key: one.value for one in model.metadata_props if not one.key.startswith(KEY)}
    size = " x ".join(str(side) for side in how.size)
    said = facts(
        task="detect", classes=how.classes, squares=[], batch=1, backbone=made_of, basis_digest="", licence=how.licence,
        card=card or {},
    ) | {
        KEY + "input_size": str(max(how.size)),
        KEY + "preprocessing": f"{how.colours}, {how.layout}, {size}: {how.fit}, bilinear; "
                               f"(pixel x {how.scale:g} - {_told(how.mean)}) / {_told(how.std)}",
        OUTPUTS: json.dumps(how.to_json(), ensure_ascii=False),
        THRESHOLDS: json.dumps({label: float(value) for label, value in (thresholds or {}).items()}),
    }  # fmt: skip
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, before | said)
    return model.SerializeToString()


def _told(three: tuple[float, ...]) -> str:
    return f"{three[0]:g}" if len(set(three)) == 1 else str(three)
