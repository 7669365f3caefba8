"""A model in use: answers, what people say of them, where it is deployed, and whether the world has drifted from it."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
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
from everlearn.stages import prove, teach
from everlearn.types import SILENT, Found, Refused
from everlearn.workspace import COLLECTED

if TYPE_CHECKING:
    from everlearn.catalog.versions import Version
    from everlearn.deploy.copy import Deployed
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
    """One answer for each image, in the order found; an image that cannot be read gives its error instead."""
    name, answer = _model(workspace, model)
    for batch in _batches(paths, progress):
        read = [(path, data, image.decode(data).pixels) for path, data, error in batch if not error]
        found = (
            dict(zip([path for path, *_ in read], answer([pixels for *_, pixels in read]), strict=True)) if read else {}
        )
        ids = _record(workspace, name, read, found, camera) if record and workspace is not None else {}
        for path, _, error in batch:
            if error:
                yield {"path": path, "label": None, "confidence": None, "error": error}
                continue
            one = found[path]
            said = {
                "path": path,
                "label": one.label,
                "confidence": round(one.confidence, 6),
                "scores": dict(one.scores),
            }
            yield said | ({"value": one.value} if one.value is not None else {}) | ({"id": ids[path]} if ids else {})


def _model(workspace: Workspace | None, model: str | None) -> tuple[str, Any]:
    from everlearn.model.bundle import OnnxModel

    if model is not None and model.endswith(".onnx"):
        alone = OnnxModel(Path(model))
        return Path(model).name, alone.predict
    assert workspace is not None
    with workspace.catalog.read() as tx:
        version = versions.get(tx, model)
    if version.retired:
        raise BadInput(f"{version.name} is retired: it knew samples that were forgotten.", "Choose a newer one.")
    own = OnnxModel(registry.bundle_file(workspace, version, ".onnx"))
    return version.name, own.predict


def _batches(paths: Sequence[Path], progress: Progress) -> Iterator[list[tuple[str, bytes, str]]]:
    """(path, bytes, error) of all images below these paths."""
    batch: list[tuple[str, bytes, str]] = []
    with progress.task("predict") as task:
        for path in paths:
            for item in open_source(str(path), SourceOptions(labels_from="none")).items():
                batch.append(_bytes(item))
                if len(batch) == BATCH:
                    yield batch
                    task.advance(len(batch))
                    batch = []
        if batch:
            yield batch


def _bytes(item: Found | Refused) -> tuple[str, bytes, str]:
    if isinstance(item, Refused):
        return item.path, b"", item.reason
    try:
        data = item.read()
        image.decode(data)
    except (EverlearnError, OSError) as error:
        return item.uri, b"", str(error)
    return item.uri, data, ""


def _record(
    workspace: Workspace, version: str, read: Sequence[tuple[str, bytes, Image]], found: dict[str, Prediction],
    camera: str | None,
) -> dict[str, str]:  # fmt: skip
    """Keep answers, and their images, so that feedback can make samples of them."""
    rows: list[dict[str, Any]] = []
    ids: dict[str, str] = {}
    for path, data, _ in read:
        one = found[path]
        ids[path] = secrets.token_hex(8)
        name = render_name("answer", now(), camera or workspace.config.collect.camera, _ending(path), ids[path])
        key = f"{COLLECTED}/{name}"
        workspace.store.put(key, io.BytesIO(data))
        rows.append({"id": ids[path], "version": version, "content": id_of(data), "key": key, "label": one.label,
                     "value": one.value, "confidence": one.confidence,
                     "camera": camera or workspace.config.collect.camera})  # fmt: skip
    with workspace.catalog.write() as tx:
        forgotten = turns.are_suppressed(tx, [row["content"] for row in rows])
        for row in rows:
            if row["content"] in forgotten:
                workspace.store.remove(row["key"])
                row["key"] = None
        answers.keep(tx, rows)
    return ids


def _ending(path: str) -> str:
    ending = path.partition("#")[0].rpartition(".")[2].lower()
    return ending if ending in image.ENDINGS else "png"


def feedback(workspace: Workspace, id: str, *, right: bool, label: str | None) -> tuple[SampleId, bool]:
    """What a person says of a recorded answer becomes a sample; a mistake becomes a regression case. Returns the sample
    and whether it is a case. Raises Missing, BadInput."""
    with change(workspace) as changed:
        tx = changed.tx
        answer = answers.get(tx, id)
        if answer["key"] is None and not samples.known(tx, [answer["content"]]):
            raise Missing(f"The image of answer {id} was forgotten.", "It cannot become a sample.")
        said = str(answer["value"]) if answer["label"] is None and answer["value"] is not None else answer["label"]
        truth = labels.cleaned(label, workspace.config) if label is not None else said if right else None
        if not samples.known(tx, [answer["content"]]):
            _adopt(workspace, changed, answer)
        sample = answer["content"]
        if truth is not None:
            labels.say(tx, [labels.Said(sample, truth, "feedback")])
        else:
            samples.change(tx, [{"id": sample, "queued": True, "queue_reason": "reported", "urgency": 3.0}])
        mistake = not right and truth != said
        if mistake:
            answers.report(tx, sample, wrong=said, right=truth, version=answer["version"])
        answers.change(tx, id, feedback="right" if right else "label" if label is not None else "wrong", key=None)
        samples.restate(tx, [sample])
        changed.refile([sample])
        if answer["key"]:
            changed.discard([answer["key"]])
    return sample, mistake


def _adopt(workspace: Workspace, changed: Any, answer: dict[str, Any]) -> None:
    """Make a sample of a recorded answer's image."""
    with workspace.store.open(answer["key"]) as file:
        data = file.read()
    when, _ = image.stamp(data)
    one = Sample(
        id=answer["content"], kind="image", key=answer["key"], bytes=len(data), source="feedback",
        captured_at=when or answer["at"], time_from="exif" if when else "file", camera=answer["camera"],
        group_key=answer["content"], collected_at=now(),
    )  # fmt: skip
    key = new_keys(changed.tx, [one])[one.id]
    workspace.store.copy(answer["key"], key)
    values = {slot: getattr(one, slot) for slot in one.__slots__} | {"key": key}
    samples.add(changed.tx, [Sample(**values)])


def deploy(workspace: Workspace, model: str | None, to: str | None) -> Deployed:
    """Copy a model to where programs look for it; by default where it was last."""
    with workspace.catalog.read() as tx:
        version = versions.get(tx, model)
        past = versions.deployments(tx)
    if to is None:
        if not past:
            raise BadInput(
                "It was never deployed, so there is no place to deploy it to.", "Say --to DIR or --to s3://…"
            )
        to = past[-1]["path"].rpartition("/")[0]
    return copy_to(workspace, version, to, registry.card(workspace, version))


def export(
    workspace: Workspace, model: str | None, out: Path, sums: bool, progress: Progress
) -> tuple[Version, list[Path]]:
    """Copy a version's bundle to a folder; with `sums` also the exact memory as it stood then."""
    with workspace.catalog.read() as tx:
        version = versions.get(tx, model)
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
    Kolmogorov-Smirnov test of the confidences. None where there are too few, or this very drift was acted on."""
    from scipy.stats import ks_2samp

    with workspace.catalog.read() as tx:
        champion = versions.champion(tx)
        if champion is None:
            return None
        recent = answers.recent(tx, DRIFT_ANSWERS, champion.name)
        acted = turns.setting_of(tx, "drift_acted_on")
    if len(recent) < DRIFT_ANSWERS or acted == recent[0]["id"]:
        return None
    members = prove.test_side(workspace)
    table = prove.answerer(workspace, champion).table([one.id for one in members], SILENT)
    if table.shape[1] < 2:
        return None
    found = ks_2samp([one["confidence"] for one in recent], np.asarray(table.max(axis=1)), alternative="greater")
    if found.pvalue >= DRIFT_P:
        return None
    with workspace.catalog.write() as tx:
        turns.set_to(tx, "drift_acted_on", recent[0]["id"])
    return f"recorded answers have drifted (p = {found.pvalue:.2g})"
