"""Forgetting for real: samples go out of the sums, the cached features, the folders, the catalog and every stored
model, and a certificate says so in a way that can be checked and that tells nobody who they were.

Order, so that a crash at any point is finished by `resume`: write down what goes (the journal) ► take it out of what is
labelled ► teach and register the model without it ► retire the versions that knew it ► erase rows, files and traces ►
certificate.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from everlearn import faults, registry
from everlearn.augment.make import previews
from everlearn.catalog import answers, labels, origins, samples, scenes, snapshots, turns, versions
from everlearn.catalog.tables import label_event, member, proposal, sample, sighting, version
from everlearn.erasure.certificate import certify
from everlearn.errors import BadInput, Corrupt, Missing, StoreFault, TooFew
from everlearn.files import change
from everlearn.learn import crops
from everlearn.naming import clean_label, denial
from everlearn.stages import arrays, care, continual, learners, prove, standing, teach, traces, validating
from everlearn.stages.detecting import crops as detecting
from everlearn.stages.detecting import kept, proposing
from everlearn.stages.reporting import OF_FILES
from everlearn.types import SILENT
from everlearn.workspace import EVALUATIONS, SCRATCH, Workspace, read_json, write_whole

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.types import Progress, SampleId

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
        journal["before"] = _digest(workspace)
        with workspace.catalog.read() as tx:
            journal["champion"] = getattr(versions.champion(tx), "name", None)
            journal["evaluations"] = traces.last_evaluation(tx)
    if not journal.get("withdrawn"):  # until then other commands may have taught them to more models
        with workspace.catalog.read() as tx:
            journal["folders"], journal["knowing"] = traces.trainings(tx, ids, _knowing(tx, ids))
        write_whole(path, json.dumps(journal).encode())
    notes = _withdraw(workspace, ids, journal["knowing"], progress)
    faults.point("forget.withdrawn")
    write_whole(path, json.dumps({**journal, "withdrawn": True}).encode())
    after = _learn_without(workspace, journal, progress, notes)
    faults.point("forget.learned")
    _erase(workspace, ids, journal, notes)
    faults.point("forget.erased")
    certificate = certify(workspace, journal, after)
    faults.point("forget.certified")
    path.unlink(missing_ok=True)
    return Forgotten(certificate, len(ids), journal["before"], after, notes)


def _digest(workspace: Workspace) -> str | None:
    """Of the exact memory as it lies here; None where there is none."""
    if workspace.config.task == "detect":
        try:
            return detecting.digest(workspace)
        except Corrupt:  # what remains is learned again
            return None
    live = standing.live(workspace, stored=True)
    return live.memory.digest() if live.held else None


def _matching(workspace: Workspace, chosen: Selection) -> list[SampleId]:
    """Ids of what is chosen, with what was augmented from it."""
    with workspace.catalog.read() as tx:
        where: list[sa.ColumnElement[bool]] = [sa.true()]
        if chosen.label is not None:
            names = _names(tx, workspace, chosen.label)
            said = sa.select(label_event.c.sample_id).where(
                label_event.c.label.in_(names), sa.not_(label_event.c.revoked)
            )
            where.append(sa.or_(sample.c.label.in_(names), sample.c.id.in_(said)))
        if chosen.samples:
            where.append(sample.c.id.in_([samples.get(tx, id).id for id in chosen.samples]))
        if chosen.camera is not None:
            where.append(sample.c.camera == chosen.camera)
        if chosen.source is not None:
            where.append(_came_from(chosen.source))
        time = sa.func.coalesce(sample.c.captured_at, sample.c.collected_at)
        if chosen.since is not None:
            where.append(time >= chosen.since)
        if chosen.until is not None:
            where.append(time < chosen.until)
        found = {row.id for row in tx.execute(sa.select(sample.c.id).where(*where))}
        for chunk in samples.chunks(found):
            found |= {row.id for row in tx.execute(sa.select(sample.c.id).where(sample.c.parent_id.in_(chunk)))}
    return sorted(found)


def _came_from(source: str) -> sa.ColumnElement[bool]:
    """Samples that were taken in from a source of this name, or seen in it later: the same bytes are kept once."""
    place = source if "://" in source else str(Path(source).expanduser().absolute())
    below = sighting.c.uri == place
    for mark in "/#":  # what lies in the folder; a frame of the video, a row of the table
        below = sa.or_(below, sighting.c.uri.startswith(place.rstrip("/") + mark, autoescape=True))
    return sa.or_(sample.c.source == source, sample.c.id.in_(sa.select(sighting.c.sample_id).where(below)))


def _names(tx: Connection, workspace: Workspace, label: str) -> list[str]:
    """The labels that name this class: its own; what is only known not to be it, which is held, and named, on its
    account; and scenes with a box of it."""
    if workspace.config.task == "detect":
        return scenes.naming(tx, clean_label(label))
    text = labels.cleaned(label, workspace.config)
    return [text, denial(text)]


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
        turns.set_to(tx, turns.FORGETTING, list(knowing))
        there = samples.some(tx, ids)
        samples.change(tx, ({"id": id, "label": None, "queued": False, "learned": False} for id in there))
        for chunk in samples.chunks(list(there)):
            tx.execute(label_event.update().where(label_event.c.sample_id.in_(chunk)).values(revoked=True))
        samples.restate(tx, list(there))
        automatic = _labelled_by(tx, knowing, set(ids))
        if automatic:
            tx.execute(label_event.update().where(_told_by(knowing)).values(revoked=True))
            labels.settle(tx, automatic)
            changed.refile(automatic)
            notes.append(f"{len(automatic)} automatic labels by models that knew them were taken back")
    again = validating.decide_duplicates(workspace, without=set(ids))
    if again:
        notes.append(f"{again} near duplicates were decided again")
    validating.decide_suspects(workspace, progress)
    progress.say(f"Withdrew {len(ids)} samples.")
    return notes


def _labelled_by(tx: Connection, knowing: Sequence[str], without: set[SampleId]) -> list[SampleId]:
    query = sa.select(label_event.c.sample_id).where(_told_by(knowing), sa.not_(label_event.c.revoked))
    return sorted({row.sample_id for row in tx.execute(query)} - without)


def _told_by(knowing: Sequence[str]) -> sa.ColumnElement[bool]:
    """Automatic labels by these versions, also where they spoke together with others (`v1.0 + v1.1, proved`)."""
    among = [_is_among(label_event.c.who, name) for name in knowing]
    return sa.and_(label_event.c.by == "auto", sa.or_(label_event.c.version.in_(knowing), *among))


def _is_among(models: Any, name: str) -> sa.ColumnElement[bool]:
    """Whether a version is named among models that were joined by ` + `."""
    parted = sa.func.replace(sa.literal(" ") + models + " ", ",", " ")
    return parted.contains(f" {name} ", autoescape=True)


def _learn_without(
    workspace: Workspace, journal: Mapping[str, Any], progress: Progress, notes: list[str]
) -> str | None:
    """Bring the memory to what remains; where a version knew the samples, a new one takes its place."""
    if journal["before"] is None and not journal["knowing"] and not learners.knows(workspace):
        return None
    if not teach.anything_to_learn(workspace):
        learners.drop_memory(workspace)
        notes.append("nothing to learn from remains, so there is no model any more")
        return None
    try:
        entered, report = teach.learn(workspace, progress, reason="rebuilt without what was forgotten")
    except TooFew as error:  # what remains may be no box, or of one side alone; it goes all the same
        learners.drop_memory(workspace)
        notes.append(f"there is no model any more: {error.message}")
        return None
    if not learners.is_exact(workspace) and learners.kind(workspace) != learners.ONNX:
        notes.append(f"{report.learner} is no exact memory: it was trained again on all that remains, in a fixed order")
    if journal["knowing"]:
        notes.append(f"{entered.name} takes the place of {', '.join(journal['knowing'])}")
        try:
            prove.evaluate(workspace, entered.name, progress)
        except TooFew as error:  # no test image remains; the champion is replaced all the same
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
    standing.live(workspace).features.forget(ids)
    arrays.forget(workspace, ids)
    kept.forget(workspace, ids)
    kept.drop(workspace, _digests(workspace, journal["knowing"]))
    crops.forget(workspace, ids)
    continual.forget(workspace)
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
        tx.execute(
            proposal.delete().where(sa.or_(sa.false(), *(_is_among(proposal.c.by, n) for n in journal["knowing"])))
        )
        scenes.clear(tx)
        origins.clear(tx)
        traces.words(tx, ids)
        turns.set_to(tx, turns.FORGETTING, [])
        places = {row["path"] for row in versions.deployments(tx) if row["version"] in journal["knowing"]}
    spare += [key for key in workspace.store.keys(EVALUATIONS) if key.startswith(f"{EVALUATIONS}/{OF_FILES}")]
    faults.point("forget.rows_erased")
    for key in [*spare, *previews(workspace.store)]:
        workspace.store.remove(key)
        faults.point("forget.file_removed")
    for folder in journal.get("folders", []):
        _remove(workspace.root / folder)
    for folder in workspace.private("").glob(f"{SCRATCH}*"):  # of killed trainings
        _remove(folder)
    traces.files(workspace, set(ids))
    workspace.catalog.scrub()
    if journal["knowing"]:
        notes.append(f"retired and removed: {', '.join(journal['knowing'])}")
    notes += [f"deploy again to replace the copy that still knows them: {place}" for place in sorted(places)]
    care.doctor(workspace, SILENT, deep=False)


def _digests(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Of these versions, under which their detections are kept."""
    with workspace.catalog.read() as tx:
        found = [one.model_digest for one in versions.every(tx) if one.name in names and one.model_digest]
    return [name for digest in found for name in (digest, proposing.kept_as(digest))]


def _remove(folder: Path) -> None:
    """With all that is in it. Raises StoreFault: what cannot be removed is not certified."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreFault(f"{folder} cannot be removed: {error.strerror}.", "Remove it, then run again.") from None


def _files_of(workspace: Workspace, key: str) -> list[str]:
    return [key, *workspace.store.keys(key.removesuffix(".onnx"))]
