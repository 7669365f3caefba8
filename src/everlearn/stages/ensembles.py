"""Several models as one version: exact memories over several backbones, and models that were exported before.

The members are learned on the newest snapshot, each from its own cached features, so that no member knows more than the
others and what is forgotten leaves them all: the ensemble is a version of that snapshot like any other.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everlearn import registry
from everlearn.catalog import snapshots, versions
from everlearn.catalog.tables import now
from everlearn.dataset.build import build
from everlearn.errors import BadInput, TooFew
from everlearn.evaluate import compare as comparing
from everlearn.learn import ensemble as combining
from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.exact.memory import ExactMemory
from everlearn.learn.features import Features
from everlearn.learn.live import learnable
from everlearn.model.ensemble import Member, Memory, Network, export_ensemble, names
from everlearn.naming import is_class
from everlearn.stages import answering, teach

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.catalog.versions import Version
    from everlearn.evaluate.compare import Comparison
    from everlearn.learn.live import Held
    from everlearn.types import Progress, SampleId, Snapshot
    from everlearn.workspace import Workspace

LEARNER = "ensemble"


@dataclass(frozen=True, eq=False)
class Made:
    """The version, and what its members and the ways to combine them were worth on samples nobody had learned.

    members: name and accuracy; methods: to accuracy, and how it compares with the best member.
    """

    version: Version
    samples: int
    members: list[tuple[str, float]]
    methods: dict[str, tuple[float, Comparison]]
    chosen: str

    @property
    def helps(self) -> bool:
        return self.methods[self.chosen][1].verdict == "better"

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.version.name, "method": self.chosen, "helps": self.helps, "n": self.samples,
            "members": [{"name": name, "accuracy": accuracy} for name, accuracy in self.members],
            "methods": {
                name: {"accuracy": accuracy, "difference": found.difference, "interval": list(found.interval),
                       "p_value": found.p_value, "verdict": found.verdict}
                for name, (accuracy, found) in self.methods.items()
            },
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Asked:
    """A member, and its honest probabilities for all samples of the snapshot, NaN where there are none. found: of a
    memory."""

    member: Member
    table: NDArray[np.floating]
    digest: str
    found: Fitted | None = None
    memory: ExactMemory | None = None
    cached: Cached | None = None


def ensemble(
    workspace: Workspace, backbones: Sequence[str], models: Sequence[str], method: str, progress: Progress
) -> Made:
    """Make a version of the exact memories over these backbones, the workspace's own first, and of these models.

    models: aliases, versions or exported files; an exact memory among them stands for its backbone. A network is judged
    on the validation side only, which it has not learned. Raises BadInput for fewer than two members or another task
    than `classify`, TooFew where nothing can be judged.
    """
    if workspace.config.task != "classify":
        raise BadInput(f"An ensemble classifies; this workspace is for {workspace.config.task}.", "")
    began = time.monotonic()
    specs, others = _sorted_out(workspace, backbones, models)
    if len(specs) + len(others) < 2:
        raise BadInput("An ensemble has two members or more.", "Name another: --backbone onnx:FILE, or a model.")
    snapshot = build(workspace)
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, snapshot.number))
    open_set = workspace.config.learn.unknown is not None  # its members answer classes, and learn no negatives
    held = {id: value for id, value in learnable(members).items() if is_class(value[0], open_set)}
    ids = sorted(held)
    if not ids:
        raise TooFew("Nothing is labelled on the learning side.", "Collect and label samples first.")
    asked = [_memory(workspace, spec, held, ids, progress) for spec in specs]
    first = asked[0]
    assert first.found is not None and first.memory is not None and first.cached is not None
    classes = first.found.head.classes
    validation = {one.id for one in members if one.split == "validation"}
    asked += [_network(workspace, one, classes, ids, validation, progress) for one in others]
    combined = combining.fit(
        first.memory, first.cached, classes, [one.table for one in asked], first.found.alpha, method
    )
    return _made(workspace, asked, combined, classes, snapshot, began)


def _sorted_out(
    workspace: Workspace, backbones: Sequence[str], models: Sequence[str]
) -> tuple[list[str], list[answering.Named]]:
    """Backbones to learn on, each once, and models to take as they are."""
    specs, others = [workspace.config.backbone], []
    for name in models:
        found = answering.named(workspace, name)
        if found.file is None and found.version.learner == "exact":
            specs.append(found.version.backbone)
        elif found.file is None and found.version.learner == LEARNER:
            raise BadInput(f"{found.name} is an ensemble itself.", "Name its members.")
        else:
            others.append(found)
    return list(dict.fromkeys([*specs, *backbones])), others


def _memory(workspace: Workspace, spec: str, held: Held, ids: Sequence[SampleId], progress: Progress) -> _Asked:
    """An exact memory of the snapshot on this backbone; nothing of it is stored but its cached features."""
    basis = teach.basis_of(workspace, spec)
    phi = Features(workspace, basis).all(ids, progress)
    labels, folds = [held[id][0] for id in ids], np.array([held[id][1] for id in ids], np.int64)
    memory = ExactMemory(basis.digest, basis.dimensions, workspace.config.learn.folds)
    memory.add(phi, labels, folds)
    cached = Cached(ids, phi, labels, folds)
    found = fit(memory, cached, precision=workspace.config.label.precision)
    if found.held_out is None:
        raise TooFew(
            f"{len(ids)} samples of {len(found.head.classes)} classes are too few to judge an ensemble.",
            "Collect more.",
        )
    return _Asked(Memory(basis, found.head), found.held_out.probabilities(), found.digest, found, memory, cached)


def _network(
    workspace: Workspace, named: answering.Named, classes: tuple[str, ...], ids: Sequence[SampleId],
    validation: set[SampleId], progress: Progress,
) -> _Asked:  # fmt: skip
    from everlearn.model.bundle import OnnxModel

    data = named.file.read_bytes() if named.file else registry.bundle_file(workspace, named.version, ".onnx")
    member = Network(OnnxModel(data), classes)
    if not member.model.size or not set(member.model.classes) & set(classes):
        raise BadInput(f"{named.name} knows none of this workspace's classes.", "Name another model.")
    table = np.full((len(ids), len(classes)), np.nan, np.float32)
    rows = [row for row, id in enumerate(ids) if id in validation]
    if rows:
        answers = answering.Answerer(workspace, None, None, member.model)
        table[rows] = answers.table([ids[row] for row in rows], progress) @ member.places()
    return _Asked(member, table, hashlib.sha256(data).hexdigest())


def _made(
    workspace: Workspace, asked: Sequence[_Asked], combined: combining.Ensemble, classes: tuple[str, ...],
    snapshot: Snapshot, began: float,
) -> Made:  # fmt: skip
    best = max(combined.members, key=lambda right: int(right.sum()))
    methods = {
        name: (float(right.mean()), comparing.compare(best, right, alpha=comparing.ALPHA / len(combined.methods)))
        for name, right in combined.methods.items()
    }  # fmt: skip
    members = [one.member for one in asked]
    said = [(names([one]), float(right.mean())) for one, right in zip(members, combined.members, strict=True)]
    about = [one.digest for one in asked] + [combined.method, f"{combined.temperature:.6g}"]
    digest = hashlib.sha256("\n".join(["everlearn ensemble 1", *about]).encode()).hexdigest()
    with workspace.catalog.read() as tx:
        newest, champion = versions.newest(tx), versions.champion(tx)
        name = versions.next_name(tx, major=newest is not None and newest.learner != LEARNER)
    card = {
        "name": name, "made": now().isoformat(timespec="seconds") + "Z", "task": workspace.config.task,
        "classes": list(classes), "learner": LEARNER, "backbone": names(members),
        "backbone_licence": "; ".join(dict.fromkeys(one.licence for one in members)),
        "members": [{"name": one, "accuracy": accuracy} for one, accuracy in said],
        "method": combined.method, "temperature": combined.temperature, "judged_on": len(combined.rows),
        "out_of_fold_accuracy": methods[combined.method][0], "snapshot": snapshot.digest,
        "samples": {"all": snapshot.samples} | dict(snapshot.splits), "model_digest": digest,
        "knows": "Its memories are learned from one snapshot; what is forgotten leaves them when it is made anew.",
    }  # fmt: skip
    facts = {
        "parent": (champion or newest).name if champion or newest else None,  # type: ignore[union-attr]
        "snapshot": snapshot.number, "learner": LEARNER, "backbone": card["backbone"],
        "licence": card["backbone_licence"], "config": teach.deciding(workspace), "code_version": teach.code_version(),
        "memory_digest": None, "model_digest": digest,
        "metrics": {"seconds": round(time.monotonic() - began, 3), "memory_bytes": teach.most_memory(),
                    "samples": len(combined.rows), "auto_label": None},
    }  # fmt: skip
    with workspace.scratch() as folder:
        model = Path(folder) / "model.onnx"
        export_ensemble(members, combined, classes, model, card=card)
        text = json.dumps(card, ensure_ascii=False, indent=1).encode()
        files: dict[str, bytes | Path] = {
            ".onnx": model, "/classes.txt": "\n".join(classes).encode(), "/card.json": text,
            "/card.md": teach.card_text(card).encode(),
        }  # fmt: skip
        version = registry.register(workspace, name, files, facts, "combined")
    return Made(version, len(combined.rows), said, methods, combined.method)
