"""The certificate of a forgetting: what it says, and how it is checked against the workspace as it is now.

It names what was removed by random ids alone, commits to what remains, and is sealed with a key of the catalog.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn.catalog import samples, snapshots, turns, versions
from everlearn.catalog.samples import id_of
from everlearn.catalog.tables import answer, now, sample
from everlearn.errors import BadInput, Corrupt, EverlearnError
from everlearn.stages import learners, standing
from everlearn.workspace import EVALUATIONS, Workspace, read_json, write_whole

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.learn.features import Features
    from everlearn.learn.live import LiveMemory
    from everlearn.types import Member, Progress, SampleId

FORMAT = "everlearn certificate 1"


@dataclass(slots=True)
class Verified:
    """checks: (name, passed, why not)."""

    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        return bool(self.checks) and all(passed for _, passed, _ in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"verified": self.verified, "checks": [{"name": n, "pass": p, "why": w} for n, p, w in self.checks]}


def certify(workspace: Workspace, journal: Mapping[str, Any], after: str | None) -> Path:
    with workspace.catalog.write() as tx:
        snapshot = snapshots.latest(tx)
        key = _seal_key(tx)
        remaining = [one.id for one in snapshots.members(tx, snapshot.number)] if snapshot else []
        reduced = snapshots.reduced(tx).get(snapshot.number, 0) if snapshot else 0
    salt = secrets.token_hex(16)
    body = {
        "format": FORMAT,
        "certificate": journal["certificate"],
        "at": now().isoformat(timespec="seconds") + "Z",
        "chosen_by": journal["what"],
        "removed": sorted(journal["opaque"]),
        "marks": sorted(_mark(key, id) for id in journal["ids"]),
        "memory_before": journal["before"],
        "memory_after": after,
        "basis": _basis_of(standing.live(workspace)),
        "snapshot": snapshot.number if snapshot else None,
        "remaining": len(remaining),
        "reduced": reduced,
        "salt": salt,
        "commitment": commitment(salt, remaining),
        "retired": journal["knowing"],
        "learner": workspace.config.learn.learner,
        "exact": learners.is_exact(workspace),  # else what remains was learned again, in a fixed order
    }
    body["seal"] = _seal(key, body)
    path = workspace.root / EVALUATIONS / f"certificate_{body['certificate']}.json"
    write_whole(path, (json.dumps(body, indent=1) + "\n").encode())
    return path


def commitment(salt: str, remaining: Sequence[SampleId]) -> str:
    """SHA-256 over the salt and the ids of what remains, sorted: fixes them without telling them."""
    total = hashlib.sha256(bytes.fromhex(salt))
    for id in sorted(remaining):
        total.update(id.encode())
    return total.hexdigest()


def _seal_key(tx: Connection) -> bytes:
    key = turns.setting_of(tx, "seal_key")
    if key is None:
        key = secrets.token_hex(32)
        turns.set_to(tx, "seal_key", key)
    return bytes.fromhex(key)


def _seal(key: bytes, body: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in body.items() if name != "seal"}
    return hmac.new(key, json.dumps(plain, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _mark(key: bytes, id: SampleId) -> str:
    """Tells a removed sample again only to who holds the catalog's key."""
    return hmac.new(key, b"removed " + id.encode(), hashlib.sha256).hexdigest()


def verify(workspace: Workspace, path: Path, progress: Progress, *, from_images: bool = False) -> Verified:
    """Check a certificate against the workspace as it is now. `from_images`: compute every feature again."""
    body = _read(path)
    found = Verified()

    def check(name: str, passed: bool, why: str = "") -> None:
        found.checks.append((name, passed, "" if passed else why))

    with workspace.catalog.write() as tx:
        key = _seal_key(tx)
        ids = [row.id for row in tx.execute(sa.select(sample.c.id))]
        recorded = [row.content for row in tx.execute(sa.select(answer.c.content))]
        alive = [one.name for one in versions.every(tx) if not one.retired]
    seal = str(body.get("seal", "")).encode("utf-8", "backslashreplace")
    check("seal", hmac.compare_digest(seal, _seal(key, body).encode()), "the certificate was changed")
    if not found.verified:  # anything may stand in the rest of it
        return found
    marks = set(body.get("marks", ()))
    left = [id for id in [*ids, *recorded] if _mark(key, id) in marks]
    check("erased", not left and bool(marks), f"{len(left)} of the removed samples are in the catalog")
    kept = [name for name in body.get("retired", ()) if name in alive]
    check("models", not kept, f"still in service: {', '.join(kept)}")
    _check_members(workspace, body, check)
    _check_files(workspace, check)
    kinds = {learners.RIVER: _check_learner, learners.STAGED: _check_network, learners.YOLO: _check_detector,
             learners.ONNX: _check_detector}  # fmt: skip
    kinds.get(learners.kind(workspace), _check_memory)(workspace, body, progress, check, from_images)
    return found


def _check_members(workspace: Workspace, body: Mapping[str, Any], check: Any) -> None:
    """The commitment fixes what remained then. What is forgotten later leaves that snapshot too: then only their number
    can be checked, and the later certificate says the rest."""
    with workspace.catalog.read() as tx:
        newest = snapshots.latest(tx)
        intact = newest is None or snapshots.digest(snapshots.members(tx, newest.number)) == newest.digest
        reduced = snapshots.reduced(tx)
        if body.get("snapshot") is not None:
            ids = [one.id for one in snapshots.members(tx, int(body["snapshot"]))]
            gone = reduced.get(body["snapshot"], 0) - int(body.get("reduced", 0))
            same = len(ids) + gone == body.get("remaining")
            if same and not gone:
                same = commitment(str(body.get("salt", "")), ids) == body.get("commitment")
            check("remaining", same, "other samples remain than the certificate commits to")
    whole = newest is None or reduced.get(newest.number, 0) > 0 or intact
    check("snapshot", whole, "the newest snapshot's members are not those of its digest")


def _check_files(workspace: Workspace, check: Any) -> None:
    """Every file that remains still is the one whose digest is its id, and what was learned still has that label."""
    changed, relabelled = 0, 0
    with workspace.catalog.read() as tx:
        newest = snapshots.latest(tx)
        learned = {one.id: one.label for one in snapshots.members(tx, newest.number)} if newest else {}
        for batch in samples.batches(tx):
            for one in batch:
                relabelled += one.learned and learned.get(one.id) != one.label
                try:
                    with workspace.store.open(one.key) as file:
                        changed += id_of(file.read()) != one.id
                except EverlearnError:
                    changed += 1
    check("images", not changed, f"{changed} images are missing or not the ones that came in")
    check("labels", not relabelled, f"{relabelled} labels are not the ones that were learned")


def _check_memory(workspace: Workspace, body: Mapping[str, Any], progress: Progress, check: Any, again: bool) -> None:
    """The sums are those of what remains, in every bit; so are those that the certificate names, where the snapshot it
    speaks of is still whole."""
    try:
        live = standing.live(workspace, strict=True)
    except Corrupt as error:
        check("memory", False, error.message)
        return
    with workspace.catalog.read() as tx:
        newest, taught = snapshots.latest(tx), versions.newest(tx)
        members = list(snapshots.members(tx, newest.number)) if newest else []
        number = int(body.get("snapshot") or 0)
        whole = snapshots.reduced(tx).get(number) == 0
        then = list(snapshots.members(tx, number)) if whole else []
    if live.snapshot is None and (live.path.exists() or taught is not None):
        check("memory", False, "the memory is gone, or not of this catalog; learn again, then verify")
        return
    _check_features(live.features, members if again else [], progress, check)
    digest = live.memory.digest()
    check("memory", live.rebuilt(progress).digest() == digest, "the sums are not those of what remains")
    if taught is not None and taught.snapshot == live.snapshot:
        check("model", taught.memory_digest == digest, f"{taught.name} was not made from these sums")
    if whole and body.get("memory_after") and body.get("basis") == _basis_of(live):
        same = live.rebuilt(progress, then).digest() if number != live.snapshot else digest
        check("digest", same == body["memory_after"], "the memory is not the certified one")


def _check_detector(workspace: Workspace, body: Mapping[str, Any], progress: Progress, check: Any, again: bool) -> None:
    """The detector is the one that was registered, and what tells crops apart holds what remains. Where the detector
    was trained from nothing, training it again gives the same weights."""
    from everlearn.stages.detecting import certifying

    _check_crops(workspace, body, progress, check, again)
    for name, passed, why in certifying.checks(workspace, again, progress):
        check(name, passed, why)


def _check_crops(workspace: Workspace, body: Mapping[str, Any], progress: Progress, check: Any, again: bool) -> None:
    """What tells crops apart holds those of what remains and no others, in every bit. What a trained detector has
    learned cannot be taken out of it: it was trained again, or never saw them."""
    from everlearn.stages.detecting import crops, sides

    with workspace.catalog.read() as tx:
        newest, taught = snapshots.latest(tx), versions.newest(tx)
        members = list(snapshots.members(tx, newest.number)) if newest else []
    try:
        found = crops.stored(workspace)
    except Corrupt as error:
        check("memory", False, error.message)
        return
    learned = [one for one in members if one.split != "test" and one.parent is None]
    wanted = crops.wanted(workspace, sides.labelled(workspace, learned))
    for name, one in found.items():
        _check_features(one.features, [], progress, check)
        if again:
            wrong = one.features.recomputed(sorted(one.held), progress)
            check("features again", not wrong, f"{wrong} cached features of {name} are not those of their images")
        same = one.held == wanted.get(name) and one.rebuilt(progress).digest() == one.memory.digest()
        check(f"memory of {name}", same, "the sums are not those of the boxes that remain")
    if taught is not None and newest is not None and taught.snapshot == newest.number:
        same = taught.memory_digest == crops.digest(workspace)
        check("model", same, f"{taught.name} was not made from these sums")
    if newest is not None and newest.number == body.get("snapshot") and body.get("memory_after"):
        check("digest", body["memory_after"] == crops.digest(workspace), "the memory is not the certified one")


def _check_features(features: Features, members: Sequence[Member], progress: Progress, check: Any) -> None:
    """members: those whose features are computed again."""
    damaged = features.damaged()
    check("features", not damaged, f"{damaged} cached features are not what was computed")
    if members:
        wrong = features.recomputed([one.id for one in members], progress)
        check("features again", not wrong, f"{wrong} cached features are not those of their images")


def _check_learner(workspace: Workspace, body: Mapping[str, Any], progress: Progress, check: Any, again: bool) -> None:
    """A learner that is no exact memory knows what remains and nothing else; where it learned that in one pass, another
    pass over the same samples gives the same answers."""
    learner = learners.streaming(workspace)
    with workspace.catalog.read() as tx:
        newest, taught = snapshots.latest(tx), versions.newest(tx)
        members = list(snapshots.members(tx, newest.number)) if newest else []
    _check_features(learner.features, members if again else [], progress, check)
    check("learner", learner.held == learner.wanted(members), "the learner is gone, or knows other samples than remain")
    if taught is not None and newest is not None and taught.snapshot == newest.number:
        check("model", taught.model_digest == learner.digest(), f"{taught.name} is not what the learner has come to")
    if learner.in_order:
        same = learner.again(progress).digest() == learner.digest()
        check("again", same, "trained again on what remains, it answers otherwise")


def _check_network(workspace: Workspace, body: Mapping[str, Any], progress: Progress, check: Any, again: bool) -> None:
    """The network kept was trained on what remains and nothing else; where it was trained from nothing, training it
    again on this machine's CPU gives the same weights."""
    from everlearn.stages.networks import StagedLearner

    learner = StagedLearner.open(workspace)
    with workspace.catalog.read() as tx:
        newest, taught = snapshots.latest(tx), versions.newest(tx)
    if newest is None:
        check("learner", not learner.held, "the network knows samples, and none remain")
        return
    check("learner", learner.knows(newest), "the network is gone, or knows other samples than remain")
    if taught is not None and taught.snapshot == newest.number:
        check("model", taught.model_digest == learner.digest, f"{taught.name} is not what the learner has come to")
    if again and learner.fresh:
        progress.say("Training it again on what remains, to compare.")
        check("again", learner.again(progress) == learner.digest, "trained again on what remains, its weights differ")


def _basis_of(live: LiveMemory) -> str:
    """Memories of the same basis, folds and target have the same name here."""
    memory = live.memory
    return hashlib.sha256(repr((memory.basis_digest, memory.folds, memory.target)).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        body = read_json(path)
    except Corrupt as error:
        raise BadInput(f"{path} is no certificate: {error.message}", "Give the file that forget wrote.") from None
    if body.get("format") != FORMAT:
        raise BadInput(f"{path} is no certificate.", "Give the file that forget wrote.")
    return body
