"""Forgetting for real: samples go out of the sums, the cached features, the folders, the catalog and every stored
model, and a certificate says so in a way that can be checked and that tells nobody who they were.

Order, so that a crash at any point is finished by `resume`: write down what goes (the journal) ► take it out of what is
labelled ► teach and register the model without it ► retire the versions that knew it ► erase rows, files and traces ►
certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn import faults, registry
from everlearn.augment.make import PREVIEW
from everlearn.catalog import answers, labels, samples, snapshots, turns, versions
from everlearn.catalog.tables import answer, label_event, member, now, sample, version
from everlearn.collect.take import id_of
from everlearn.errors import BadInput, Corrupt, EverlearnError, Missing
from everlearn.files import change
from everlearn.stages import care, data, prove, teach, traces
from everlearn.stages.prove import OF_FILES
from everlearn.types import SILENT
from everlearn.workspace import EVALUATIONS, Workspace, read_json, write_whole

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.learn.live import LiveMemory
    from everlearn.types import Progress, SampleId

FORMAT = "everlearn certificate 1"
JOURNAL = "forgetting.json"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to forget; all that is given must hold."""

    label: str | None = None
    samples: tuple[str, ...] = ()
    camera: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def empty(self) -> bool:
        return self == Selection()


@dataclass(slots=True)
class Forgotten:
    """before, after: digests of the memory, None where there was none; notes: what else had to happen, in lines."""

    certificate: Path
    forgotten: int
    before: str | None
    after: str | None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"certificate": str(self.certificate), "forgotten": self.forgotten, "before": self.before,
                "after": self.after, "notes": self.notes}  # fmt: skip


@dataclass(slots=True)
class Verified:
    """checks: (name, passed, why not)."""

    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        return bool(self.checks) and all(passed for _, passed, _ in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"verified": self.verified, "checks": [{"name": n, "pass": p, "why": w} for n, p, w in self.checks]}


def forget(workspace: Workspace, chosen: Selection, progress: Progress) -> Forgotten:
    """Erase what is chosen, whatever state it is in. Where an interrupted forgetting was finished first and nothing is
    left to erase, that is the answer. Raises BadInput where nothing is chosen, Missing where nothing matches."""
    finished = resume(workspace, progress)
    if chosen.empty:
        raise BadInput(
            "Nothing was chosen to forget.", "Give --label, --sample, --camera, --source, --since or --until."
        )
    ids = _matching(workspace, chosen)
    if not ids and finished is not None:
        return finished
    if not ids:
        raise Missing("No sample matches.", "See: everlearn data")
    opaque = [secrets.token_hex(16) for _ in ids]
    journal = {"ids": ids, "opaque": opaque, "what": sorted(_named(chosen)), "certificate": secrets.token_hex(8)}
    write_whole(workspace.private(JOURNAL), json.dumps(journal).encode())
    faults.point("forget.journal")
    return _carry_out(workspace, journal, progress)


def resume(workspace: Workspace, progress: Progress) -> Forgotten | None:
    """Finish a forgetting that was interrupted."""
    path = workspace.private(JOURNAL)
    if not path.exists():
        return None
    progress.say("Finishing a forgetting that was interrupted.")
    return _carry_out(workspace, read_json(path), progress)


def _carry_out(workspace: Workspace, journal: dict[str, Any], progress: Progress) -> Forgotten:
    ids: list[SampleId] = journal["ids"]
    path = workspace.private(JOURNAL)
    if "before" not in journal:
        live = teach.live(workspace, stored=True)
        journal["before"] = live.memory.digest() if live.held else None
        with workspace.catalog.read() as tx:
            journal["champion"] = getattr(versions.champion(tx), "name", None)
            journal["knowing"] = _knowing(tx, ids)
            journal["evaluations"] = traces.last_evaluation(tx)
        write_whole(path, json.dumps(journal).encode())
    notes = _withdraw(workspace, ids, journal["knowing"], progress)
    faults.point("forget.withdrawn")
    after = _learn_without(workspace, journal, progress, notes)
    faults.point("forget.learned")
    _erase(workspace, ids, journal, notes)
    faults.point("forget.erased")
    certificate = _certify(workspace, journal, after)
    faults.point("forget.certified")
    path.unlink(missing_ok=True)
    return Forgotten(certificate, len(ids), journal["before"], after, notes)


def _matching(workspace: Workspace, chosen: Selection) -> list[SampleId]:
    """Ids of what is chosen, with what was augmented from it."""
    with workspace.catalog.read() as tx:
        where: list[sa.ColumnElement[bool]] = [sa.true()]
        if chosen.label is not None:
            label = labels.cleaned(chosen.label, workspace.config)
            said = sa.select(label_event.c.sample_id).where(
                label_event.c.label == label, sa.not_(label_event.c.revoked)
            )
            where.append(sa.or_(sample.c.label == label, sample.c.id.in_(said)))
        if chosen.samples:
            where.append(sample.c.id.in_([samples.get(tx, id).id for id in chosen.samples]))
        for column, value in ((sample.c.camera, chosen.camera), (sample.c.source, chosen.source)):
            if value is not None:
                where.append(column == value)
        time = sa.func.coalesce(sample.c.captured_at, sample.c.collected_at)
        if chosen.since is not None:
            where.append(time >= chosen.since)
        if chosen.until is not None:
            where.append(time < chosen.until)
        found = {row.id for row in tx.execute(sa.select(sample.c.id).where(*where))}
        for chunk in samples.chunks(found):
            found |= {row.id for row in tx.execute(sa.select(sample.c.id).where(sample.c.parent_id.in_(chunk)))}
    return sorted(found)


def _named(chosen: Selection) -> list[str]:
    return [name for name in ("label", "samples", "camera", "source", "since", "until") if getattr(chosen, name)]


def _knowing(tx: Connection, ids: Sequence[SampleId]) -> list[str]:
    """Versions whose snapshot held any of these samples."""
    known: set[str] = set()
    for chunk in samples.chunks(ids):
        held = sa.and_(
            member.c.added <= version.c.snapshot,
            sa.or_(member.c.removed.is_(None), member.c.removed > version.c.snapshot),
        )
        query = sa.select(version.c.name).join(member, held).where(member.c.sample_id.in_(chunk)).distinct()
        known |= {row.name for row in tx.execute(query)}
    return sorted(known)


def _withdraw(workspace: Workspace, ids: Sequence[SampleId], knowing: Sequence[str], progress: Progress) -> list[str]:
    """Take the samples out of all that decides what is learned, and decide again what they had influenced."""
    notes = []
    with change(workspace) as changed:
        tx = changed.tx
        turns.suppress(tx, ids)
        there = samples.some(tx, ids)
        samples.change(tx, ({"id": id, "label": None, "queued": False, "learned": False} for id in there))
        for chunk in samples.chunks(list(there)):
            tx.execute(label_event.update().where(label_event.c.sample_id.in_(chunk)).values(revoked=True))
        samples.restate(tx, list(there))
        automatic = _labelled_by(tx, knowing, set(ids))
        if automatic:
            tx.execute(
                label_event.update()
                .where(label_event.c.by == "auto", label_event.c.version.in_(knowing))
                .values(revoked=True)
            )
            labels.settle(tx, automatic)
            changed.refile(automatic)
            notes.append(f"{len(automatic)} automatic labels by models that knew them were taken back")
    again = data.decide_duplicates(workspace, without=set(ids))
    if again:
        notes.append(f"{again} near duplicates were decided again")
    data.decide_suspects(workspace, progress)
    progress.say(f"Withdrew {len(ids)} samples.")
    return notes


def _labelled_by(tx: Connection, knowing: Sequence[str], without: set[SampleId]) -> list[SampleId]:
    query = sa.select(label_event.c.sample_id).where(
        label_event.c.by == "auto", label_event.c.version.in_(knowing), sa.not_(label_event.c.revoked)
    )
    return sorted({row.sample_id for row in tx.execute(query)} - without)


def _learn_without(
    workspace: Workspace, journal: Mapping[str, Any], progress: Progress, notes: list[str]
) -> str | None:
    """Bring the memory to what remains; where a version knew the samples, a new one takes its place."""
    if journal["before"] is None and not journal["knowing"]:
        return None
    if not teach.anything_to_learn(workspace):
        teach.drop_memory(workspace)
        notes.append("nothing to learn from remains, so there is no model any more")
        return None
    entered, report = teach.learn(workspace, progress, reason="rebuilt without what was forgotten")
    if journal["knowing"]:
        notes.append(f"{entered.name} takes the place of {', '.join(journal['knowing'])}")
        try:
            prove.evaluate(workspace, entered.name, progress)
        except BadInput as error:  # no test image remains; the champion is replaced all the same
            notes.append(f"{entered.name} was not evaluated: {error.message}")
    if journal["champion"] in journal["knowing"]:
        with workspace.catalog.read() as tx:
            champion = versions.champion(tx)
        if champion is None or champion.name in journal["knowing"]:
            reason = f"takes the place of {journal['champion']}, which knew forgotten samples"
            registry.promote(workspace, entered.name, force=True, reason=reason)
    return report.memory_digest


def _erase(workspace: Workspace, ids: Sequence[SampleId], journal: Mapping[str, Any], notes: list[str]) -> None:
    """Remove every row and file that still knows the samples."""
    teach.live(workspace).features.forget(ids)
    spare: list[str] = []
    with workspace.catalog.write() as tx:
        for name in journal["knowing"]:
            if not versions.get(tx, name).retired:
                spare += _files_of(workspace, registry.retire(tx, name, "it knew samples that were forgotten"))
        spare += traces.reports(tx, ids, journal["knowing"], journal["evaluations"])
        for row in answers.of_content(tx, ids):
            spare += [row["key"]] if row["key"] else []
        answers.erase(tx, ids)
        there = samples.some(tx, ids)
        spare += [one.key for one in there.values()]
        snapshots.forget(tx, ids)
        samples.erase(tx, ids)
        traces.words(tx, ids)
        places = {row["path"] for row in versions.deployments(tx) if row["version"] in journal["knowing"]}
    spare += [key for key in workspace.store.keys(EVALUATIONS) if key.startswith(f"{EVALUATIONS}/{OF_FILES}")]
    faults.point("forget.rows_erased")
    for key in [*spare, PREVIEW]:
        workspace.store.remove(key)
        faults.point("forget.file_removed")
    traces.files(workspace, set(ids))
    workspace.catalog.scrub()
    if journal["knowing"]:
        notes.append(f"retired and removed: {', '.join(journal['knowing'])}")
    notes += [f"deploy again to replace the copy that still knows them: {place}" for place in sorted(places)]
    care.doctor(workspace, SILENT, deep=False)


def _files_of(workspace: Workspace, key: str) -> list[str]:
    return [key, *workspace.store.keys(key.removesuffix(".onnx"))]


def _certify(workspace: Workspace, journal: Mapping[str, Any], after: str | None) -> Path:
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
        "basis": _basis_of(teach.live(workspace)),
        "snapshot": snapshot.number if snapshot else None,
        "remaining": len(remaining),
        "reduced": reduced,
        "salt": salt,
        "commitment": commitment(salt, remaining),
        "retired": journal["knowing"],
        "exact": True,
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
    check("seal", hmac.compare_digest(str(body.get("seal", "")), _seal(key, body)), "the certificate was changed")
    marks = set(body.get("marks", ()))
    left = [id for id in [*ids, *recorded] if _mark(key, id) in marks]
    check("erased", not left and bool(marks), f"{len(left)} of the removed samples are in the catalog")
    kept = [name for name in body.get("retired", ()) if name in alive]
    check("models", not kept, f"still in service: {', '.join(kept)}")
    _check_members(workspace, body, check)
    _check_files(workspace, check)
    _check_memory(workspace, body, progress, check, from_images)
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
        live = teach.live(workspace, strict=True)
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
    damaged = live.features.damaged()
    check("features", not damaged, f"{damaged} cached features are not what was computed")
    if again:
        wrong = live.features.recomputed([one.id for one in members], progress)
        check("features again", not wrong, f"{wrong} cached features are not those of their images")
    digest = live.memory.digest()
    check("memory", live.rebuilt(progress).digest() == digest, "the sums are not those of what remains")
    if taught is not None and taught.snapshot == live.snapshot:
        check("model", taught.memory_digest == digest, f"{taught.name} was not made from these sums")
    if whole and body.get("memory_after") and body.get("basis") == _basis_of(live):
        same = live.rebuilt(progress, then).digest() if number != live.snapshot else digest
        check("digest", same == body["memory_after"], "the memory is not the certified one")


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
