"""Versions of the model: registered, tagged, promoted past the gates, rolled back; every act enters the history."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn import faults
from everlearn.catalog import versions
from everlearn.catalog.tables import now
from everlearn.catalog.versions import CHAMPION, NEWEST, Version
from everlearn.errors import AnswerIsNo, BadInput, Missing
from everlearn.naming import render_model_name
from everlearn.store import LocalStore
from everlearn.workspace import VERSIONS

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from everlearn.workspace import Workspace

RESERVED = (*NEWEST, CHAMPION)
ALIAS = "alias:"


def register(
    workspace: Workspace, name: str, files: Mapping[str, bytes | Path], facts: Mapping[str, Any], reason: str
) -> Version:
    """Store a model and enter it as a version. files: ending (`.onnx`, `/card.json`, …) to content; the ONNX file is
    named after the version and the day, the rest lies in the folder of that name. facts: the catalog's columns.

    Files come first, then the row: a crash leaves files that no version names, which `doctor` removes.
    """
    major, minor = (int(part) for part in name[1:].split("."))
    key = f"{VERSIONS}/{render_model_name(major, minor, now())}"
    stem = key.removesuffix(".onnx")
    for ending, content in files.items():
        target = key if ending == ".onnx" else stem + ending
        if isinstance(content, Path):
            with content.open("rb") as file:
                workspace.store.put(target, file)
        else:
            workspace.store.put(target, io.BytesIO(content))
        faults.point("registry.stored")
    with workspace.catalog.write() as tx:
        entered = versions.add(tx, {**facts, "name": name, "key": key})
        versions.record(tx, "registered", name, reason, previous=entered.parent)
        faults.point("registry.before_commit")
    faults.point("registry.committed")
    return entered


def bundle_file(workspace: Workspace, version: Version, ending: str) -> bytes:
    """One file of a version's bundle. Raises Missing."""
    key = version.key if ending == ".onnx" else version.key.removesuffix(".onnx") + ending
    with workspace.store.open(key) as file:
        return file.read()


def card(workspace: Workspace, version: Version) -> dict[str, Any]:
    """The model's card: what it is, what it learned from, how it scored."""
    found = json.loads(bundle_file(workspace, version, "/card.json"))
    assert isinstance(found, dict)
    return found


def promote(workspace: Workspace, name: str, *, force: bool = False, reason: str = "") -> Version:
    """Make a version the champion: past its gates, or by force with a reason, which is recorded. The champion stays
    the champion, and nothing is recorded. Raises AnswerIsNo where its newest evaluation did not let it pass, or was
    held against another champion; BadInput for a retired one or a force without a reason."""
    if force and not reason.strip():
        raise BadInput("promote --force needs a reason.", "Say why: --reason '…'")
    with workspace.catalog.write() as tx:
        version = versions.get(tx, name)
        if version.retired:
            raise BadInput(f"{version.name} is retired: it knows samples that were forgotten.", "Choose a newer one.")
        current = versions.champion(tx)
        if current is not None and current.name == version.name:
            return version
        why_not, said = _why_not(tx, version, current)
        if why_not and not force:
            remedy = f"everlearn evaluate --model {version.name}, or: everlearn promote --force --reason '…'"
            raise AnswerIsNo(f"{version.name} is not promoted: {why_not}", remedy)
        _crown(tx, version.name, "promoted", reason or said, forced=bool(force and why_not))
    faults.point("registry.promoted")
    return version


def _why_not(tx: Connection, version: Version, current: Version | None) -> tuple[str | None, str]:
    """Why a version may not be promoted, or None; and what its newest evaluation said."""
    done = versions.evaluations(tx, version.name)
    if not done:
        return "it was never evaluated.", ""
    decision, against = done[-1]["result"]["decision"], done[-1]["champion"]
    if decision["outcome"] != "promote":
        return decision["reason"], decision["reason"]
    if against != (current.name if current else None) and current is not None:
        return f"it was not held against {current.name}, which is the champion now.", decision["reason"]
    return None, decision["reason"]


def hold(workspace: Workspace, name: str, reason: str) -> None:
    """Write down that a version was not promoted, and why."""
    with workspace.catalog.write() as tx:
        versions.record(tx, "held", name, reason)


def rollback(workspace: Workspace, reason: str = "") -> Version:
    """Make the champion before this one the champion again. Raises BadInput where there was none."""
    with workspace.catalog.write() as tx:
        current = versions.champion(tx)
        if current is None:
            raise BadInput("There is no champion to roll back from.", "Promote one: everlearn promote")
        previous = _before(tx, current.name)
        if previous is None:
            raise BadInput(f"No champion came before {current.name} that is still there.", "See: everlearn history")
        _crown(tx, previous, "rolled back", reason or f"rolled back from {current.name}")
        return versions.get(tx, previous)


def retire(tx: Connection, name: str, reason: str) -> str:
    """Take a version out of service for good; returns its file's key. Its files are the caller's to remove."""
    version = versions.get(tx, name)
    versions.change(tx, version.name, retired=True)
    for alias in versions.aliases(tx).get(version.name, []):
        versions.unpoint(tx, alias)
        if alias == CHAMPION:
            versions.record(tx, "withdrawn", version.name, reason)
    versions.record(tx, "retired", version.name, reason)
    return version.key


def tag(workspace: Workspace, name: str, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Version:
    """Change a version's tags. A tag `alias:NAME` makes NAME an alias of it, or takes that alias away again. Raises
    BadInput for what cannot be a tag, Missing where a tag to remove is not there."""
    add, remove = set(add), set(remove)
    for word in add | remove:
        _check_tag(word)
    with workspace.catalog.write() as tx:
        version = versions.get(tx, name)
        there = {*version.tags, *(ALIAS + alias for alias in versions.aliases(tx).get(version.name, []))}
        if absent := remove - there:
            raise Missing(f"{version.name} has no tag {min(absent)}.", "See: everlearn models show")
        for word in remove:
            if word.startswith(ALIAS):
                versions.unpoint(tx, word.removeprefix(ALIAS))
        for word in sorted(add):
            if word.startswith(ALIAS):
                versions.point(tx, word.removeprefix(ALIAS), version.name)
        tags = {word for word in (set(version.tags) | add) - remove if not word.startswith(ALIAS)}
        versions.change(tx, version.name, tags=sorted(tags))
        return versions.get(tx, version.name)


def search(workspace: Workspace, *, tag: str | None = None, minimum: float | None = None) -> list[Version]:
    """Versions with this tag, and at least this accuracy (R² for `regress`, mAP50 for `detect`)."""
    with workspace.catalog.read() as tx:
        found = versions.every(tx)
    if tag is not None:
        found = [one for one in found if tag in one.tags]
    if minimum is not None:
        found = [one for one in found if _score(one) is not None and (_score(one) or 0) >= minimum]
    return found


def export(workspace: Workspace, version: Version, out: Path) -> list[Path]:
    """Copy a version's whole bundle to a folder, each file whole or not at all. Raises Missing for a retired version,
    StoreFault where the folder cannot be written."""
    if version.retired:
        raise Missing(f"The files of {version.name} are gone: it was retired.", "See: everlearn history")
    target = LocalStore(out.expanduser())
    written = []
    for key in [version.key, *workspace.store.keys(version.key.removesuffix(".onnx"))]:
        name = key.removeprefix(f"{VERSIONS}/")
        with workspace.store.open(key) as file:
            target.put(name, file)
        written.append(target.path(name))
    return written


def _crown(tx: Connection, name: str, action: str, reason: str, *, forced: bool = False) -> None:
    current = versions.champion(tx)
    versions.point(tx, CHAMPION, name)
    previous = current.name if current else None
    versions.record(tx, action, name, reason, previous=previous, forced=forced)


def _before(tx: Connection, name: str) -> str | None:
    """The champion before this one, along the promotions; a rollback is not a promotion."""
    usable = {one.name for one in versions.every(tx) if not one.retired}
    crowned = [line for line in versions.past(tx) if line["action"] == "promoted" and line["version"] == name]
    seen = {name}
    while crowned:
        previous = crowned[-1]["previous"]
        if previous is None or previous in seen:
            return None
        if previous in usable:
            return str(previous)
        seen.add(previous)
        crowned = [l for l in versions.past(tx) if l["action"] == "promoted" and l["version"] == previous]  # noqa: E741
    return None


def _check_tag(word: str) -> None:
    plain = word.removeprefix(ALIAS)
    if not plain or len(plain) > 60 or not all(c.isalnum() or c in "-_.: " for c in plain):
        raise BadInput(f"{word!r} cannot be a tag.", "Use up to 60 letters, digits, blanks and -_.:")
    if word.startswith(ALIAS) and (plain in RESERVED or plain[:2].lstrip("v").isdigit()):
        raise BadInput(f"{plain} cannot be an alias.", "promote makes the champion; versions name themselves.")
    if word.startswith(ALIAS) and plain.endswith(".onnx"):
        raise BadInput(f"{plain} cannot be an alias.", "A name that ends in .onnx is a file.")


def _score(version: Version) -> float | None:
    found = version.metrics or {}
    value = next((found[name] for name in ("accuracy", "r2", "map50") if found.get(name) is not None), None)
    return float(value) if isinstance(value, int | float) else None
