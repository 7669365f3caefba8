"""Forgetting leaves nothing behind, what remains is what would be without, and every forgery of that is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from everlearn import track
from everlearn.catalog import runs, snapshots, versions
from everlearn.image import decode, encode_jpeg, encode_png
from everlearn.learn.exact.memory import ExactMemory
from everlearn.workspace import Workspace
from tests import wheel
from tests.wheel import File, good, learned, make, members, run, standing, turn, world, write

KIM = "Kim Min-su"
"""A name that nothing else has."""


def kims(number: int = 10, first: int = 0) -> list[File]:
    """One person's pictures: fours, under that person's name."""
    return [
        replace(one, label=KIM, name=f"minsu_{n}.png") for n, one in enumerate(good(("4",), number + first)[first:])
    ]


def everything() -> list[File]:
    """The world, Kim's pictures, and near duplicates of them: one Kim's own, one that somebody else took."""
    files = [*world(), *kims()]
    for at, (label, name) in {1: (KIM, "minsu_again.jpg"), 2: ("0", "visitor.jpg"), 3: ("1", "guest.jpg")}.items():
        files.append(File(label, name, encode_jpeg(decode(kims()[at].data).pixels, 90)))
    blurred = cv2.GaussianBlur(decode(kims()[4].data).pixels, (0, 0), 9)
    return [*files, File(KIM, "minsu_blurred.png", encode_png(blurred))]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace that has learned everything in two turns, augmented, recorded answers and deployed a model."""
    base = tmp_path_factory.mktemp("taught")
    workspace = make(base / "workspace")
    files = everything()
    turn(workspace.root, write(base / "one", files[::2]))
    assert run(workspace.root, "augment", "--copies", "1").code == 0
    turn(workspace.root, write(base / "two", files[1::2]))
    run(workspace.root, "predict", str(base / "one" / KIM), "--record")
    run(workspace.root, "evaluate", "--model", "v1.0")
    run(workspace.root, "deploy", "--to", str(base / "deployed"))
    wheel.assert_in_step(workspace)
    yield workspace.root
    shutil.rmtree(base)


@pytest.fixture
def root(taught: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(taught, tmp_path / "workspace"))


def raw(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def phi(root: Path, ids: list[str]) -> list[bytes]:
    (path,) = root.glob(".everlearn/features-*.db")
    with closing(sqlite3.connect(path)) as file:
        return [row[0] for id in ids for row in file.execute("SELECT value FROM phi WHERE id = ?", (id,))]


def test_nothing_is_left(root: Path) -> None:
    before = standing(Workspace.open(root))
    gone = [one.id for one in everything() if one.label == KIM]
    gone = sorted({id for id in gone if id in before})
    with closing(sqlite3.connect(root / "catalog.db")) as catalog:
        marks = ",".join("?" * len(gone))
        children = catalog.execute(f"SELECT id FROM sample WHERE parent_id IN ({marks})", gone).fetchall()
    gone += [row[0] for row in children]
    features = phi(root, gone)
    pictures = [path.read_bytes() for path in root.glob("new_data/*/*") if any(id in path.name for id in gone)]
    pictures += [one.data for one in kims()]
    assert children and len(features) >= 8 and len(set(gone)) > len(children) > 0
    assert sum(KIM.encode() in data for data in raw(root).values()) > 5

    done = run(root, "forget", "--label", KIM)

    assert done.code == 0
    assert done.values["forgotten"] == len(set(gone))
    assert any("takes the place of" in line for line in done.values["notes"])
    assert any("deploy again" in line and "deployed/model.onnx" in line for line in done.values["notes"])
    for path, data in raw(root).items():
        assert KIM.encode() not in data, path
        assert KIM.replace(" ", "_").encode() not in data, path
        assert KIM.replace(" ", "_") not in path.name and KIM not in path.name
        assert b"minsu" not in data, path
        assert not [id for id in gone if id.encode() in data or id[:8].encode() in path.name.encode()], path
        assert not [picture for picture in pictures if picture in data], path
        assert not [value for value in features if value in data], path
    assert not (root / "new_data/augmented/preview.png").exists()
    wheel.assert_in_step(Workspace.open(root))


def test_models_that_knew_them_go(root: Path) -> None:
    before = run(root, "status").values["champion"]
    run(root, "forget", "--label", KIM)
    with Workspace.open(root).catalog.read() as tx:
        known = {one.name: one for one in versions.every(tx)}
        champion = versions.champion(tx)
        reports = [one["report_key"] for one in versions.evaluations(tx) if one["report_key"]]
    assert champion is not None and champion.name != before and not champion.retired
    assert known[before].retired
    assert KIM not in json.dumps(run(root, "show", champion.name).values)
    files = {path.name for path in (root / "model_updates/versions").rglob("*") if path.is_file()}
    assert {name for name in files if name.endswith(".onnx")} == {Path(champion.key).name}
    assert {path.name for path in (root / "model_updates/evaluations").glob("*.html")} == {
        Path(key).name.replace(".html", ending) for key in reports for ending in (".html", ".ko.html")
    }


def test_runs_that_knew_them_keep_their_numbers_and_nothing_else(root: Path) -> None:
    workspace = Workspace.open(root)
    with workspace.catalog.write() as tx:
        held = max(number for (number,) in tx.execute(sa.text("SELECT number FROM snapshot")))
        long_ago = runs.begin(tx, "train", snapshot=0, config={"classes": ["4", KIM]})
        knew = runs.begin(tx, "train", snapshot=held, config={"classes": ["4", KIM]})
        fold = runs.begin(tx, "fold", parent=knew)
        after = runs.begin(tx, "train", snapshot=0, config={"from": f"{knew}/stage_1_baseline"})
        taught = runs.begin(tx, "distill", snapshot=0, config={"names": [versions.newest(tx).name]})
        unsure = runs.begin(tx, "train")
        runs.note(tx, knew, {"mirrors": {"mlflow": "4711"}, "recall": {KIM: 0.5, "4": 1.0}})
        runs.metrics(tx, knew, 1, {"val_loss": 0.5, f"recall/{KIM}": 0.5, "recall/4": 1.0})
    names = (long_ago, knew, fold, after, taught, unsure)
    folders = {name: [root / one for one in track.files_of(name, {})] for name in names}
    folders[knew].append(root / "training_logs/mlflow/artifacts/4711")
    for folder in (one for some in folders.values() for one in some):
        folder.mkdir(parents=True)
        (folder / "kept.pt").write_bytes(KIM.encode() if folder.name != long_ago else b"")
    run(root, "forget", "--label", KIM)
    assert all(folder.exists() for folder in folders.pop(long_ago))
    assert not any(folder.exists() for some in folders.values() for folder in some)
    with workspace.catalog.read() as tx:
        assert runs.get(tx, knew).config == {"classes": ["4"]}
        assert runs.get(tx, knew).result["recall"] == {"4": 1.0}
        assert runs.series(tx, knew) == {"val_loss": [(1, 0.5)], "recall/4": [(1, 1.0)]}
    assert KIM.encode() not in (root / "catalog.db").read_bytes()


def test_forgotten_is_as_never_seen(root: Path, tmp_path: Path) -> None:
    """The digests after are those of a workspace that never saw them; so is how everything else stands. With copies
    that were augmented, too, once both have made them."""
    rest = write(tmp_path / "rest", [one for one in everything() if one.label != KIM])
    seen, never = make(tmp_path / "seen"), make(tmp_path / "never")
    turn(seen.root, write(tmp_path / "all", everything()))
    before = learned(seen)
    done = run(seen.root, "forget", "--label", KIM)
    turn(never.root, rest)
    assert done.values["before"] == before[0]
    assert done.values["after"] == learned(never)[0] != before[0]
    assert learned(seen) == learned(never)
    assert standing(seen) == standing(never)

    run(root, "forget", "--label", KIM)
    for one in (root, never.root):
        assert run(one, "augment", "--copies", "1").code == 0
        run(one, "run")
    assert learned(never) == learned(Workspace.open(root))
    originals = [{id: how for id, how in standing(Workspace.open(one)).items() if how[2] != "parent"}
                 for one in (root, never.root)]  # fmt: skip
    assert originals[0] == originals[1]


def test_near_duplicates_are_decided_again(root: Path) -> None:
    visitor = next(one.id for one in everything() if one.name == "visitor.jpg")
    twin = standing(Workspace.open(root))[visitor][4]
    chosen = kims()[2].id if twin is not None else visitor
    other = visitor if twin is not None else kims()[2].id
    run(root, "forget", "--sample", chosen)
    assert standing(Workspace.open(root))[other][3] is None
    assert other in {one.id for one in members(Workspace.open(root))}


def test_it_does_not_come_back(root: Path, tmp_path: Path) -> None:
    run(root, "forget", "--label", KIM)
    again = [replace(one, label="0", name=f"stranger_{n}.png") for n, one in enumerate(kims())]
    done = run(root, "collect", write(tmp_path / "again", again), "--labels-from", "folder")
    assert (done.values["collected"], done.values["suppressed"]) == (0, len(again))
    assert not {one.id for one in again} & standing(Workspace.open(root)).keys()


def test_answers_and_their_images_go(root: Path) -> None:
    with closing(sqlite3.connect(root / "catalog.db")) as catalog:
        (answers,) = catalog.execute("SELECT count(*) FROM answer").fetchone()
    assert answers > 0
    run(root, "forget", "--label", KIM)
    with closing(sqlite3.connect(root / "catalog.db")) as catalog:
        assert catalog.execute("SELECT count(*) FROM answer").fetchone() == (0,)


def test_the_certificate_tells_nobody(root: Path) -> None:
    ids = [one.id for one in kims()]
    done = run(root, "forget", "--label", KIM)
    text = Path(done.values["certificate"]).read_text()
    body = json.loads(text)
    assert KIM not in text and not [id for id in ids if id in text or id[:8] in text]
    assert len(body["removed"]) == done.values["forgotten"] and body["chosen_by"] == ["label"]
    again = run(root, "forget", "--sample", members(Workspace.open(root))[0].id)
    assert not set(body["marks"]) & set(json.loads(Path(again.values["certificate"]).read_text())["marks"])


# what is chosen


def selected(root: Path, *words: str) -> set[str]:
    before = standing(Workspace.open(root)).keys()
    assert run(root, "forget", *words).code == 0
    return set(before - standing(Workspace.open(root)).keys())


@pytest.mark.parametrize("how", ["camera", "source", "until", "since", "samples"])
def test_what_is_chosen_goes_and_the_rest_stays(tmp_path: Path, how: str) -> None:
    """Of files that are only new, quarantined, or learned: two sources, two cameras, two days."""
    workspace = make(tmp_path / "workspace")
    old, new = [File(o.label, f"20240101_1200{n:02}.png", o.data) for n, o in enumerate(good(each=8))], kims(3)
    write(tmp_path / "old", old), write(tmp_path / "new", new)
    run(workspace.root, "collect", tmp_path / "old", "--labels-from", "folder", "--camera", "door")
    run(workspace.root, "validate")
    run(workspace.root, "collect", tmp_path / "new", "--labels-from", "folder", "--camera", "hall")
    words = {
        "camera": ["--camera", "hall"], "source": ["--source", str(tmp_path / "new")],
        "since": ["--since", "2025-01-01"], "until": ["--until", "2025-01-01"],
        "samples": [w for one in new for w in ("--sample", one.id[:12])],
    }  # fmt: skip
    chosen = old if how == "until" else new
    rest = new if how == "until" else old
    assert selected(workspace.root, *words[how]) == {one.id for one in chosen}
    assert standing(workspace).keys() == {one.id for one in rest}
    wheel.assert_in_step(workspace)


def test_a_source_goes_with_all_that_was_seen_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that two folders hold came from both, whichever was collected first; a name alike is another folder."""
    workspace = make(tmp_path / "workspace")
    first, both, other = good(each=4)[:8], kims(3), good(each=6)[12:]
    write(tmp_path / "first", [*first, *both]), write(tmp_path / "new", both), write(tmp_path / "new_too", other)
    for name in ("first", "new", "new_too"):
        run(workspace.root, "collect", tmp_path / name, "--labels-from", "folder")
    monkeypatch.chdir(tmp_path)
    assert selected(workspace.root, "--source", "new") == {one.id for one in both}
    assert standing(workspace).keys() == {one.id for one in [*first, *other]}


def test_forgetting_without_a_model(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    files = [*good(each=4), *kims(3)]
    write(tmp_path / "files", [*files, File(KIM, "minsu_black.png", encode_png(np.zeros((32, 32, 3), np.uint8)))])
    run(workspace.root, "collect", tmp_path / "files", "--labels-from", "folder")
    run(workspace.root, "validate")
    done = run(workspace.root, "forget", "--label", KIM)
    assert (done.code, done.values["forgotten"], done.values["before"], done.values["after"]) == (0, 4, None, None)
    assert run(workspace.root, "verify", done.values["certificate"]).values["verified"]
    assert not [path for path, data in raw(workspace.root).items() if b"minsu" in data]


def test_forgetting_everything(root: Path) -> None:
    done = run(root, "forget", "--until", "2100-01-01")
    assert done.code == 0 and done.values["after"] is None
    assert not (root / "model_updates/checkpoints/memory.sums").exists()
    workspace = Workspace.open(root)
    assert not standing(workspace) and not list(root.glob("new_data/*/*.png"))
    assert run(root, "status").values["champion"] is None
    verified = run(root, "verify", done.values["certificate"])
    assert (verified.code, verified.values["verified"]) == (0, True)
    wheel.assert_in_step(workspace)


def test_what_remains_is_all_on_the_test_side(root: Path) -> None:
    keep = {one.id for one in members(Workspace.open(root)) if one.split == "test"}
    words = [w for id in sorted(standing(Workspace.open(root)).keys() - keep) for w in ("--sample", id)]
    done = run(root, "forget", *words)
    assert done.code == 0 and done.values["after"] is None
    assert run(root, "verify", done.values["certificate"]).code == 0


def test_no_test_image_remains(root: Path) -> None:
    test = [one.id for one in members(Workspace.open(root)) if one.split == "test"]
    words = [w for id in test for w in ("--sample", id)]
    done = run(root, "forget", *words)
    assert done.code == 0 and any("not evaluated" in line for line in done.values["notes"])
    assert run(root, "verify", done.values["certificate"]).code == 0
    assert run(root, "status").values["champion"] is not None


def test_nothing_chosen_or_nothing_there(root: Path) -> None:
    before = standing(Workspace.open(root))
    assert run(root, "forget").code == 2
    assert run(root, "forget", "--label", "nobody").code == 2
    assert standing(Workspace.open(root)) == before


def test_automatic_labels_by_models_that_knew_them_are_taken_back(root: Path, tmp_path: Path) -> None:
    unknown = next(one for one in good(("0", "1", "2"), 30) if one.id not in standing(Workspace.open(root)))
    folder = tmp_path / "unknown"
    folder.mkdir()
    (folder / "x.png").write_bytes(unknown.data)
    run(root, "collect", folder, "--labels-from", "none")
    run(root, "validate")
    with closing(sqlite3.connect(root / "catalog.db")) as catalog, catalog:
        (champion,) = catalog.execute("SELECT version FROM alias WHERE name = 'champion'").fetchone()
        words = "INSERT INTO label_event (sample_id, label, by, version, at, revoked) VALUES (?, ?, ?, ?, ?, 0)"
        catalog.execute(words, (unknown.id, "0", "auto", champion, "2025-01-01 00:00:00.000000"))
    workspace = Workspace.open(root)
    with workspace.catalog.write() as tx:
        from everlearn.catalog import labels

        labels.settle(tx, [unknown.id])
    run(root, "run")
    assert unknown.id in {one.id for one in members(Workspace.open(root))}
    done = run(root, "forget", "--label", KIM)
    assert any("automatic labels" in line for line in done.values["notes"])
    assert unknown.id not in {one.id for one in members(Workspace.open(root))}
    assert standing(Workspace.open(root))[unknown.id][1] is None


# verify


@pytest.fixture(scope="module")
def forgotten(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace that has forgotten, and its certificate's name."""
    root = Path(shutil.copytree(taught, tmp_path_factory.mktemp("forgotten") / "workspace"))
    return root, Path(run(root, "forget", "--label", KIM).values["certificate"]).name


@pytest.fixture
def certified(forgotten: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path]:
    root = Path(shutil.copytree(forgotten[0], tmp_path / "workspace"))
    return root, root / "model_updates/evaluations" / forgotten[1]


def test_a_certificate_verifies(certified: tuple[Path, Path]) -> None:
    root, path = certified
    for words in ([], ["--from-images"]):
        done = run(root, "verify", path, *words)
        assert (done.code, done.values["verified"]) == (0, True), done.values


def test_it_still_verifies_later(certified: tuple[Path, Path], tmp_path: Path) -> None:
    """After more was learned, after something else was forgotten, and after both; each certificate for itself."""
    root, path = certified
    turn(root, write(tmp_path / "more", good(("5",), 8)))
    assert run(root, "verify", path).values["verified"]
    second = run(root, "forget", "--label", "5").values["certificate"]
    assert run(root, "verify", path).values["verified"] and run(root, "verify", second).values["verified"]
    third = run(root, "forget", "--sample", members(Workspace.open(root))[0].id).values["certificate"]
    for one in (path, second, third):
        found = run(root, "verify", one, "--from-images")
        assert found.values["verified"], found.values


def _statement(words: str, *values: Any) -> Callable[[Path, Path], None]:
    def change(root: Path, _: Path) -> None:
        with closing(sqlite3.connect(root / "catalog.db")) as file, file:
            assert file.execute(words, values).rowcount == 1

    return change


def one_pixel(root: Path, _: Path) -> None:
    path = next(one for one in sorted(root.glob("new_data/validated/*.png")))
    pixels = decode(path.read_bytes()).pixels.copy()
    pixels[5, 5, 0] ^= 1
    path.write_bytes(encode_png(pixels))


def one_augmented_pixel(root: Path, _: Path) -> None:
    path = next(one for one in sorted(root.glob("new_data/augmented/*.png")) if one.name != "preview.png")
    pixels = decode(path.read_bytes()).pixels.copy()
    pixels[5, 5, 0] ^= 1
    path.write_bytes(encode_png(pixels))


def one_image_less(root: Path, _: Path) -> None:
    next(iter(root.glob("new_data/validated/*.png"))).unlink()


def _feature(split: str) -> Callable[[Path, Path], None]:
    def change(root: Path, _: Path) -> None:
        id = next(one.id for one in members(Workspace.open(root)) if (one.split == "test") == (split == "test"))
        (path,) = root.glob(".everlearn/features-*.db")
        with closing(sqlite3.connect(path)) as file, file:
            (value,) = file.execute("SELECT value FROM phi WHERE id = ?", (id,)).fetchone()
            changed = np.frombuffer(value, np.int8).copy()
            changed[7] += 1
            file.execute("UPDATE phi SET value = ? WHERE id = ?", (changed.tobytes(), id))

    return change


def one_byte_of_the_sums(root: Path, _: Path) -> None:
    path = root / "model_updates/checkpoints/memory.sums"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def one_count(root: Path, _: Path) -> None:
    """A well-formed memory, with its checksum, that holds one sample more."""
    path = root / "model_updates/checkpoints/memory.sums"
    memory, metadata = ExactMemory.load(path)
    memory.counts[memory.classes[0]][0] += 1
    memory.save(path, metadata)


def one_sum(root: Path, _: Path) -> None:
    path = root / "model_updates/checkpoints/memory.sums"
    memory, metadata = ExactMemory.load(path)
    memory.sums[memory.classes[0]] = memory.sums[memory.classes[0]].copy()
    memory.sums[memory.classes[0]][0, 3] += 1
    memory.save(path, metadata)


def no_memory(root: Path, _: Path) -> None:
    (root / "model_updates/checkpoints/memory.sums").unlink()


def still_there(root: Path, path: Path) -> None:
    """A forgotten sample that came back into the catalog behind Everlearn's back."""
    with closing(sqlite3.connect(root / "catalog.db")) as file, file:
        file.execute("DELETE FROM suppressed")
    folder = write(root.parent / "back", kims(1))
    assert run(root, "collect", folder, "--labels-from", "folder").values["collected"] == 1


def _certificate(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def forge(_: Path, path: Path) -> None:
        body = json.loads(path.read_text())
        change(body)
        path.write_text(json.dumps(body))

    return forge


NEWEST = "(SELECT max(number) FROM snapshot)"
A_MEMBER = f"SELECT sample_id FROM member WHERE removed IS NULL AND added <= {NEWEST} ORDER BY sample_id LIMIT 1"
FORGERIES: dict[str, Callable[[Path, Path], None]] = {
    "one pixel": one_pixel,
    "one pixel of an augmented image": one_augmented_pixel,
    "one image less": one_image_less,
    "one feature": _feature("train"),
    "one feature of the test side": _feature("test"),
    "one label": _statement(f"UPDATE sample SET label = label || 'x' WHERE id = ({A_MEMBER})"),
    "one label of the snapshot": _statement(
        f"UPDATE member SET label = label || 'x' WHERE removed IS NULL AND sample_id = ({A_MEMBER})"
    ),
    "one fold": _statement(f"UPDATE member SET fold = fold + 1 WHERE removed IS NULL AND sample_id = ({A_MEMBER})"),
    "one member left out": _statement(f"DELETE FROM member WHERE removed IS NULL AND sample_id = ({A_MEMBER})"),
    "one sample left out": _statement(f"DELETE FROM sample WHERE id = ({A_MEMBER})"),
    "one byte of the sums": one_byte_of_the_sums,
    "one count": one_count,
    "one sum": one_sum,
    "no memory": no_memory,
    "one that came back": still_there,
    "a retired model in service": _statement("UPDATE version SET retired = 0 WHERE name = 'v1.0'"),
    "certificate: one id less": _certificate(lambda body: body["removed"].pop()),
    "certificate: one mark less": _certificate(lambda body: body["marks"].pop()),
    "certificate: another digest": _certificate(lambda body: body.update(memory_after="0" * 64)),
    "certificate: one more remains": _certificate(lambda body: body.update(remaining=body["remaining"] + 1)),
    "certificate: another time": _certificate(lambda body: body.update(at="2020-01-01T00:00:00Z")),
    "certificate: a new word": _certificate(lambda body: body.update(note="all is well")),
    "certificate: no seal": _certificate(lambda body: body.pop("seal")),
    "certificate: a seal in Korean": _certificate(lambda body: body.update(seal="봉인")),
    "certificate: nonsense": _certificate(lambda body: body.update(snapshot="x", marks=[[1]], retired=3, salt="?")),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_found(certified: tuple[Path, Path], forgery: str) -> None:
    root, path = certified
    FORGERIES[forgery](root, path)
    done = run(root, "verify", path)
    assert (done.code, done.values["verified"]) == (1, False), done.values
    assert [check for check in done.values["checks"] if not check["pass"] and check["why"]]


def test_features_are_computed_again_from_the_images(certified: tuple[Path, Path]) -> None:
    """A cache that was changed together with its marks, the sums and the records passes all but `--from-images`."""
    from everlearn.learn import features as room

    root, path = certified
    member = next(one for one in members(Workspace.open(root)) if one.split == "test")
    (cache,) = root.glob(".everlearn/features-*.db")
    with closing(sqlite3.connect(cache)) as file, file:
        (value,) = file.execute("SELECT value FROM phi WHERE id = ?", (member.id,)).fetchone()
        changed = bytes([value[0] ^ 1]) + value[1:]
        file.execute(
            "UPDATE phi SET value = ?, mark = ? WHERE id = ?", (changed, room._mark(member.id, changed), member.id)
        )
    assert run(root, "verify", path).code == 0
    assert run(root, "verify", path, "--from-images").code == 1


def test_not_a_certificate(certified: tuple[Path, Path], tmp_path: Path) -> None:
    root, _ = certified
    (tmp_path / "x.json").write_text("[]")
    assert run(root, "verify", tmp_path / "x.json").code == 2
    assert run(root, "verify", tmp_path / "none.json").code == 2


def test_a_snapshot_that_lost_members_says_so(certified: tuple[Path, Path]) -> None:
    root, _ = certified
    with Workspace.open(root).catalog.read() as tx:
        assert sum(snapshots.reduced(tx).values()) > 0
        assert all(KIM not in one.classes for one in snapshots.every(tx))
