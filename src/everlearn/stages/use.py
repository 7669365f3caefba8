"""A model in use: answers, what people say of them, where it is deployed, and whether the world has drifted from it."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import image, registry
from everlearn.catalog import answers, labels, samples, snapshots, turns, versions
from everlearn.catalog.samples import Sample
from everlearn.catalog.tables import now
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.take import id_of
from everlearn.deploy import deploy as copy_to
from everlearn.errors import BadInput, EverlearnError, Missing
from everlearn.files import change, new_keys
from everlearn.learn.live import LiveMemory
from everlearn.naming import render_name
from everlearn.stages import answering, prove, teach
from everlearn.types import SILENT, Found, Refused
from everlearn.workspace import COLLECTED

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.deploy.copy import Deployed
    from everlearn.model.bundle import OnnxModel
    from everlearn.types import Image, Prediction, Progress, SampleId
    from everlearn.workspace import Workspace

BATCH = 64
DRIFT_ANSWERS = 200
"""Recorded answers that are compared with the test side's."""
DRIFT_P = 0.001


def predict(
    workspace: Workspace | None, paths: Sequence[Path], model: str | None, progress: Progress, *,
    record: bool = False, camera: str | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One answer for each image, or each row of a table, in the order found; what cannot be read gives its error
    instead. Without a workspace the model is a file. Raises Missing, BadInput."""
    name, serving = _model(workspace, model, record=record)
    for batch in _batches(paths, progress):
        read = [one for one in batch if one.pixels is not None]
        answers = serving.predict([one.pixels for one in read if one.pixels is not None]) if read else []
        found = dict(zip([one.path for one in read], answers, strict=True))
        ids = _record(workspace, name, read, found, camera) if record and workspace is not None else {}
        for one in batch:
            yield _said(one, found.get(one.path), ids.get(one.path))


@dataclass(frozen=True, slots=True)
class _Read:
    """Something to answer for. pixels: (H, W, 3), of a row its features, None where there is an error."""

    path: str
    data: bytes
    pixels: Image | None
    error: str | None = None


def _said(one: _Read, answer: Prediction | None, id: str | None) -> dict[str, Any]:
    if answer is None:
        return {"path": one.path, "label": None, "confidence": None, "scores": {}, "value": None, "error": one.error}
    scores = {label: round(score, 6) for label, score in answer.scores.items()}
    said = {"path": one.path, "label": answer.label, "confidence": round(answer.confidence, 6), "scores": scores,
            "value": answer.value}  # fmt: skip
    return said if id is None else {**said, "id": id}


def _model(workspace: Workspace | None, model: str | None, *, record: bool) -> tuple[str, OnnxModel]:
    """The name to record answers under, and what answers."""
    from everlearn.model.bundle import OnnxModel

    if workspace is None or (model is not None and model.endswith(".onnx") and not record):
        assert model is not None
        return "", OnnxModel(Path(model).expanduser())
    version = answering.registered(workspace, model)
    return version.name, OnnxModel(registry.bundle_file(workspace, version, ".onnx"))


def _batches(paths: Sequence[Path], progress: Progress) -> Iterator[list[_Read]]:
    """Everything below these paths. A path that is not there is answered for too: the others still are."""
    batch: list[_Read] = []
    with progress.task("predict") as task:
        for item in _items(paths):
            batch.append(_read(item))
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


def _read(item: Found | Refused) -> _Read:
    if isinstance(item, Refused):
        return _Read(item.path, b"", None, item.reason)
    try:
        data = item.read()
        if item.name.endswith(".npy"):
            return _Read(item.uri, data, np.load(io.BytesIO(data), allow_pickle=False))
        return _Read(item.uri, data, image.decode(data).pixels)
    except EverlearnError as error:
        return _Read(item.uri, b"", None, error.message)
    except OSError as error:
        return _Read(item.uri, b"", None, f"cannot be read: {error.strerror or error}")


def _record(
    workspace: Workspace, version: str, read: Sequence[_Read], found: dict[str, Prediction], camera: str | None
) -> dict[str, str]:
    """Keep answers, and their images, so that feedback can make samples of them. What was forgotten is not kept."""
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
                     "camera": camera})  # fmt: skip
    with workspace.catalog.write() as tx:
        answers.keep(tx, rows)
    return {one.path: row["id"] for one, row in zip(read, rows, strict=True)}


def _ending(one: _Read) -> str:
    if one.pixels is not None and one.pixels.ndim == 1:
        return "npy"
    ending = one.path.partition("#")[0].rpartition(".")[2].lower()
    return ending if ending in image.ENDINGS else "png"


def feedback(workspace: Workspace, id: str, *, right: bool, label: str | None) -> tuple[SampleId, bool]:
    """What a person says of a recorded answer becomes a sample; a mistake becomes a regression case, and is none any
    more where the answer turns out right. Returns the sample and whether it is a case. Raises Missing, BadInput."""
    with change(workspace) as changed:
        tx = changed.tx
        answer = answers.get(tx, id)
        sample = answer["content"]
        known = bool(samples.known(tx, [sample]))
        if answer["key"] is None and not known:
            raise Missing(f"The image of answer {id} was forgotten.", "It cannot become a sample.")
        said = answer["label"] if answer["value"] is None else labels.cleaned(str(answer["value"]), workspace.config)
        truth = said if right else None if label is None else labels.cleaned(label, workspace.config)
        mistake = _is_mistake(workspace, said, truth)
        if not known:
            _adopt(workspace, changed, answer)
        if truth is not None:
            labels.say(tx, [labels.Said(sample, truth, "feedback")])
        else:
            samples.change(tx, [{"id": sample, "queued": True, "queue_reason": "reported", "urgency": 3.0}])
        answers.withdraw(tx, sample)
        if mistake:
            answers.report(tx, sample, wrong=said, right=truth, version=answer["version"])
        answers.change(tx, id, feedback="right" if right else "wrong" if label is None else "label", key=None)
        samples.restate(tx, [sample])
        changed.refile([sample])
        if answer["key"]:
            changed.discard([answer["key"]])
    return sample, mistake


def _is_mistake(workspace: Workspace, said: str, truth: str | None) -> bool:
    """truth: None where it is only known that what was said is wrong."""
    if truth is None or workspace.config.task != "regress":
        return truth != said
    return not prove.close_enough(workspace, float(said), float(truth))


def _adopt(workspace: Workspace, changed: Any, answer: dict[str, Any]) -> None:
    """Make a sample of a recorded answer's image."""
    with workspace.store.open(answer["key"]) as file:
        data = file.read()
    is_row = answer["key"].endswith(".npy")
    when, _ = (None, None) if is_row else image.stamp(data)
    one = Sample(
        id=answer["content"], kind="row" if is_row else "image", key=answer["key"], bytes=len(data),
        source="feedback", captured_at=when or answer["at"], time_from="exif" if when else "file",
        camera=answer["camera"], group_key=answer["content"], collected_at=now(),
    )  # fmt: skip
    key = new_keys(changed.tx, [one])[one.id]
    workspace.store.copy(answer["key"], key)
    values = {slot: getattr(one, slot) for slot in one.__slots__} | {"key": key}
    samples.add(changed.tx, [Sample(**values)])


def deploy(workspace: Workspace, model: str | None, to: str | None) -> Deployed:
    """Copy a model to where programs look for it; by default where it was last."""
    version = answering.registered(workspace, model)
    if to is None:
        with workspace.catalog.read() as tx:
            past = versions.deployments(tx)
        if not past:
            raise BadInput("No model was deployed yet, so there is no last place.", "Say --to DIR or --to s3://…")
        to = past[-1]["path"].rpartition("/")[0]
    elif "://" not in to:
        to = str(Path(to).expanduser().absolute())  # the next `deploy` may be called from another folder
    return copy_to(
        workspace, version, to, registry.card(workspace, version) | {"evaluation": _newest(workspace, version)}
    )


def _newest(workspace: Workspace, version: Version) -> dict[str, Any] | None:
    """What a version's newest evaluation found, in short."""
    with workspace.catalog.read() as tx:
        done = versions.evaluations(tx, version.name)
    if not done:
        return None
    names = ("images", *prove.FIGURES, "forgetting", "gates", "decision")
    return {"at": done[-1]["at"], **{name: done[-1]["result"].get(name) for name in names}}


def export(
    workspace: Workspace, model: str | None, out: Path, sums: bool, progress: Progress
) -> tuple[Version, list[Path]]:
    """Copy a version's bundle to a folder; with `sums` also the exact memory as it stood then."""
    version = answering.registered(workspace, model)
    written = registry.export(workspace, version, out)
    if sums:
        memory = _memory_of(workspace, version, progress)
        path = out / version.key.rpartition("/")[2].replace(".onnx", ".sums")
        memory.memory.save(path, {"version": version.name, "digest": version.memory_digest})
        written.append(path)
    return version, written


def _memory_of(workspace: Workspace, version: Version, progress: Progress) -> LiveMemory:
    """The memory as it stood at a version: the live one brought there, in this process only."""
    memory = teach.live(workspace)
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, version.snapshot or 0))
    memory.bring_to(members, progress)
    if memory.memory.digest() != version.memory_digest:
        raise BadInput(f"The memory of {version.name} cannot be had any more.", "Samples of it were forgotten since.")
    return memory


def drifted(workspace: Workspace) -> str | None:
    """Whether recorded answers are less sure than the model's answers on its test side were: a two-sample
    Kolmogorov-Smirnov test of the confidences. None where there are too few, or these very answers were looked at."""
    from scipy.stats import ks_2samp

    with workspace.catalog.read() as tx:
        champion = versions.champion(tx)
        if champion is None or workspace.config.task == "regress":
            return None
        recent = answers.recent(tx, DRIFT_ANSWERS, champion.name)
        looked_at = turns.setting_of(tx, "drift_looked_at")
    if len(recent) < DRIFT_ANSWERS or looked_at == recent[0]["id"]:
        return None
    members = prove.test_side(workspace)
    table = answering.answerer(workspace, champion).table([one.id for one in members], SILENT)
    expected, seen = np.asarray(table.max(axis=1)), [one["confidence"] for one in recent]
    found = ks_2samp(seen, expected, alternative="greater")
    with workspace.catalog.write() as tx:
        turns.set_to(tx, "drift_looked_at", recent[0]["id"])
    return f"recorded answers have drifted (p = {found.pvalue:.2g})" if found.pvalue < DRIFT_P else None
