"""A model's answers for images and rows, with a workspace or with a model's file alone. Light to import: it answers
within the second."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import image
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.errors import EverlearnError
from everlearn.types import Found, Refused

if TYPE_CHECKING:
    from everlearn.model.serving import Serving
    from everlearn.types import Box, Image, Prediction, Progress
    from everlearn.workspace import Workspace

BATCH = 64


def predict(
    workspace: Workspace | None, paths: Sequence[Path], model: str | None, progress: Progress, *,
    record: bool = False, camera: str | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One answer for each image, or each row of a table, in the order found; what cannot be read gives its error
    instead. Without a workspace the model is a file. Raises Missing, BadInput."""
    name, serving = _model(workspace, model, record=record)
    for batch in _batches(paths, serving, progress):
        read = [one for one in batch if one.pixels is not None]
        answers = serving.predict([one.pixels for one in read if one.pixels is not None]) if read else []
        found = dict(zip([one.path for one in read], answers, strict=True))
        ids = _record(workspace, name, read, found, camera) if record and workspace is not None else {}
        for one in batch:
            yield _said(one, found.get(one.path), ids.get(one.path))


@dataclass(frozen=True, slots=True)
class _Read:
    """Something to answer for. pixels: no larger than the model needs them, since a batch of photos as they are would
    fill the memory; of a row its features; None where there is an error."""

    path: str
    data: bytes
    pixels: Image | None
    error: str | None = None


def _said(one: _Read, answer: Prediction | None, id: str | None) -> dict[str, Any]:
    if answer is None:
        return {"path": one.path, "label": None, "confidence": None, "scores": {}, "value": None, "error": one.error}
    scores = {label: round(score, 6) for label, score in answer.scores.items()}
    said: dict[str, Any] = {
        "path": one.path, "label": answer.label, "confidence": round(answer.confidence, 6), "scores": scores,
        "value": answer.value,
    }  # fmt: skip
    if answer.boxes is not None:
        said["boxes"] = [_box(one) for one in answer.boxes]
    return said if id is None else {**said, "id": id}


def _box(one: Box) -> dict[str, Any]:
    """Left upper corner and sides, as shares of the image's."""
    return {"label": one.label, "confidence": round(one.confidence or 0, 6), "x": round(one.x, 7), "y": round(one.y, 7),
            "width": round(one.width, 7), "height": round(one.height, 7)}  # fmt: skip


def _model(workspace: Workspace | None, model: str | None, *, record: bool) -> tuple[str, Serving]:
    """The name to record answers under, and what answers."""
    from everlearn.model.serving import serving_of

    if workspace is None or (model is not None and model.endswith(".onnx") and not record):
        assert model is not None
        return "", serving_of(Path(model).expanduser())
    from everlearn.stages import answering

    version = answering.registered(workspace, model)
    if workspace.config.task == "detect":
        from everlearn.stages.detecting.answering import detector_of

        return version.name, detector_of(workspace, version)
    return version.name, answering.serving(workspace, version)


def _batches(paths: Sequence[Path], serving: Serving, progress: Progress) -> Iterator[list[_Read]]:
    """Everything below these paths. A path that is not there is answered for too: the others still are."""
    batch: list[_Read] = []
    with progress.task("predict") as task:
        for item in _items(paths):
            batch.append(_read(item, serving))
            if len(batch) == BATCH:
                yield batch
                task.advance(len(batch))
                batch = []
        if batch:
            yield batch
            task.advance(len(batch))


def _items(paths: Sequence[Path]) -> Iterator[Found | Refused]:
    for path in paths:
        try:
            yield from open_source(str(path), SourceOptions(labels_from="none")).items()
        except EverlearnError as error:
            yield Refused(str(path), error.message)


def _read(item: Found | Refused, serving: Serving) -> _Read:
    if isinstance(item, Refused):
        return _Read(item.path, b"", None, item.reason)
    try:
        data = item.read()
        if item.name.endswith(".npy"):
            return _Read(item.uri, data, np.load(io.BytesIO(data), allow_pickle=False))
        pixels = image.decode(data).pixels
        return _Read(item.uri, data, serving.prepare([pixels])[0] if serving.size else pixels)
    except EverlearnError as error:
        return _Read(item.uri, b"", None, error.message)
    except OSError as error:
        return _Read(item.uri, b"", None, f"cannot be read: {error.strerror or error}")


def _record(
    workspace: Workspace, version: str, read: Sequence[_Read], found: dict[str, Prediction], camera: str | None
) -> dict[str, str]:
    """Keep answers, and their images, so that feedback can make samples of them. What was forgotten is not kept."""
    from everlearn.catalog import answers, turns
    from everlearn.catalog.samples import id_of
    from everlearn.catalog.scenes import rows_of
    from everlearn.catalog.tables import now
    from everlearn.naming import render_name
    from everlearn.workspace import COLLECTED

    contents = {one.path: id_of(one.data) for one in read}
    with workspace.catalog.write() as tx:  # a write, because the first look may make the suppression key
        forgotten = turns.are_suppressed(tx, list(contents.values()))
    camera = camera or workspace.config.collect.camera
    rows: list[dict[str, Any]] = []
    for one in read:
        answer, id = found[one.path], secrets.token_hex(8)
        key = f"{COLLECTED}/{render_name('answer', now(), camera, _ending(one), id)}"
        kept = contents[one.path] not in forgotten
        if kept:
            workspace.store.put(key, io.BytesIO(one.data))
        rows.append({"id": id, "version": version, "content": contents[one.path], "key": key if kept else None,
                     "label": answer.label, "value": answer.value, "confidence": answer.confidence,
                     "camera": camera, "boxes": None if answer.boxes is None else rows_of(answer.boxes)})  # fmt: skip
    with workspace.catalog.write() as tx:
        answers.keep(tx, rows)
    return {one.path: row["id"] for one, row in zip(read, rows, strict=True)}


def _ending(one: _Read) -> str:
    if one.pixels is not None and one.pixels.ndim == 1:
        return "npy"
    ending = one.path.partition("#")[0].rpartition(".")[2].lower()
    return ending if ending in image.ENDINGS else "png"
