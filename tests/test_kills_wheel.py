"""Killed anywhere while learning, proving, deploying or forgetting: nothing is lost, `doctor` brings folders and
catalog into step, and running again reaches what an undisturbed run reaches, to the last bit.

Kills come in chains: each is followed by `doctor` and a look at everything, then the command runs again into the next.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from everlearn.image import decode, encode_jpeg
from everlearn.workspace import Workspace
from tests import wheel
from tests.child import KILLED, everlearn, start
from tests.wheel import File, good, learned, make, members, run, standing, turn, world, write

KIM = "kim"
SETTINGS = {"label": {"precision": 0.5}}  # so low that few images are enough for a promise

RUN = [
    "collect.stored:1", "store.temp_written:2", "store.renamed:2", "collect.stored:3", "collect.before_commit:1",
    "files.before_commit:1", "collect.committed:1", "files.committed:2", "collect.before_commit:2",
    "files.copied:1", "files.copied:3", "files.before_commit:2", "files.committed:1", "files.removed:1",
    "files.removed:2", "validate.committed:1", "files.copied:2", "validate.committed:2", "files.before_commit:3",
    "features.computed:1", "features.kept:1", "learn.snapshot:1", "live.before_save:1",
    "memory.written:1", "memory.renamed:1", "live.saved:1", "learn.marked:1", "store.temp_written:1",
    "registry.stored:1", "registry.stored:4", "registry.stored:5", "registry.before_commit:1", "registry.committed:1",
    "evaluate.stored:1", "evaluate.committed:1",
]  # fmt: skip
"""In the order in which a turn passes them, so that each is passed again after the kill before."""
AUGMENT = ["augment.stored:1", "store.renamed:3", "augment.stored:5", "files.before_commit:1", "augment.committed:1"]
LEARN = ["learn.snapshot:1", "features.kept:1", "memory.written:1", "live.saved:1", "registry.stored:2",
         "registry.before_commit:1"]  # fmt: skip
FORGET = [
    "forget.journal:1", "files.before_commit:1", "files.copied:1", "files.before_commit:2", "files.committed:2",
    "forget.withdrawn:1", "learn.snapshot:1", "memory.written:1", "memory.renamed:1", "learn.marked:1",
    "registry.stored:2", "registry.before_commit:1", "registry.committed:1", "evaluate.stored:1",
    "evaluate.committed:1", "registry.promoted:1", "forget.learned:1", "forget.rows_erased:1",
    "forget.file_removed:1", "forget.erased:1",
    "forget.certified:1",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace after one turn (base/workspace), what comes next (base/next), and some images without labels."""
    folder = tmp_path_factory.mktemp("kills")
    files = [*world(), *(File(KIM, f"kim_{n}.png", one.data) for n, one in enumerate(good(("4",), 12)))]
    beside = [File("0", f"beside_{n}.jpg", encode_jpeg(decode(one.data).pixels, 90))
              for n, one in enumerate(good(("4",), 6))]  # fmt: skip
    files += beside
    random.Random(1).shuffle(files)
    files.sort(key=lambda one: one not in beside and one.label != KIM)
    workspace = make(folder / "workspace", **SETTINGS)
    first, after = files[:70], files[70:]
    after += [one for one in first if one.name.startswith("copy")]
    assert turn(workspace.root, write(folder / "first", first)).code == 0
    write(folder / "next", after)
    (folder / "unlabelled").mkdir()
    for number, one in enumerate(good(("0", "1", "2"), 22)):
        if one.id not in standing(workspace):
            (folder / "unlabelled" / f"{number}.png").write_bytes(one.data)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "workspace", tmp_path / "workspace"))


def undisturbed(base: Path, tmp_path: Path, *commands: Sequence[object]) -> Path:
    """A copy on which these commands were run, each to its end."""
    other = Path(shutil.copytree(base / "workspace", tmp_path / "undisturbed"))
    for words in commands:
        assert run(other, *words).code in (0, 1)
    return other


def mended(root: Path, kept: set[str]) -> None:
    """`doctor` loses nothing, folders and catalog agree, and a second `doctor` finds nothing to mend."""
    found = run(root, "doctor", "--deep")
    assert (found.code, found.values["lost"]) == (0, [])
    wheel.assert_in_step(Workspace.open(root), sorted(kept))
    assert run(root, "doctor").values["mended"] == []


def killed_in(
    tmp_path: Path, root: Path, chain: Sequence[str], *words: object, kept: set[str], code: tuple[int, ...] = (0,)
) -> dict[str, Any]:
    """Run a command into one kill after another, then to its end; returns what it said."""
    for fault in chain:
        ended, said = everlearn(tmp_path, "-w", root, *words, fault=fault)
        assert ended == KILLED, (fault, ended, said)
        mended(root, kept)
    ended, said = everlearn(tmp_path, "-w", root, *words)
    assert ended in code, said
    return said


def same(a: Path, b: Path) -> None:
    """Two workspaces hold the same and have learned the same."""
    assert standing(Workspace.open(a)) == standing(Workspace.open(b))
    assert [(one.id, one.label, one.split, one.fold) for one in members(Workspace.open(a))] == [
        (one.id, one.label, one.split, one.fold) for one in members(Workspace.open(b))
    ]
    assert learned(Workspace.open(a)) == learned(Workspace.open(b))
    wheel.assert_in_step(Workspace.open(a), sorted(standing(Workspace.open(b))))


def test_run(base: Path, root: Path, tmp_path: Path) -> None:
    words = ("run", base / "next", "--labels-from", "folder")
    killed_in(tmp_path, root, RUN, *words, kept=set(standing(Workspace.open(root))), code=(0, 1))
    same(root, undisturbed(base, tmp_path, words))


def test_augment(base: Path, root: Path, tmp_path: Path) -> None:
    words = ("augment", "--copies", "2")
    kept = set(standing(Workspace.open(root)))
    killed_in(tmp_path, root, AUGMENT, *words, kept=kept)
    killed_in(tmp_path, root, LEARN, "learn", kept=kept)
    same(root, undisturbed(base, tmp_path, words, ("learn",)))


def test_automatic_labels(base: Path, root: Path, tmp_path: Path) -> None:
    commands = [("collect", base / "unlabelled", "--labels-from", "none"), ("validate",), ("label", "--auto")]
    for words in commands[:2]:
        assert run(root, *words).code == 0
    chain = ["features.kept:1", "files.copied:1", "files.before_commit:1", "files.committed:1"]
    killed_in(tmp_path, root, chain, *commands[2], kept=set(standing(Workspace.open(root))))
    other = undisturbed(base, tmp_path, *commands)
    assert any(how[2] == "auto" for how in standing(Workspace.open(root)).values())
    for one in (root, other):
        run(one, "run")
    same(root, other)


def test_evaluate_promote_deploy(base: Path, root: Path, tmp_path: Path) -> None:
    words = ("run", base / "next", "--labels-from", "folder")
    assert run(root, *words).code in (0, 1)
    kept = set(standing(Workspace.open(root)))
    chain = ["store.renamed:1", "evaluate.stored:1", "evaluate.committed:1"]
    killed_in(tmp_path, root, chain, "evaluate", "--model", "v1.1", kept=kept)
    other = "v1.0" if run(root, "status").values["champion"] == "v1.1" else "v1.1"
    force = ("promote", other, "--force", "--reason", "a test")
    killed_in(tmp_path, root, ["registry.promoted:1"], *force, kept=kept)
    assert run(root, "status").values["champion"] == other
    place = tmp_path / "deployed"
    chain = ["store.temp_written:1", "deploy.copied:1", "deploy.switched:1", "deploy.recorded:1"]
    killed_in(tmp_path, root, chain, "deploy", "--to", place, kept=kept)
    model = next(iter((root / "model_updates/versions").glob(f"*{other}*.onnx"))).read_bytes()
    assert (place / "model.onnx").read_bytes() == model
    assert run(root, "predict", base / "next", "--model", place / "model.onnx").code == 0
    same(root, undisturbed(base, tmp_path, words))


@pytest.mark.parametrize("finished_by", ["forget", "doctor", "run"])
def test_forget(base: Path, root: Path, tmp_path: Path, finished_by: str) -> None:
    """Interrupted, it is finished by the same command, by `doctor` and by `run`."""
    gone = {id for id, how in standing(Workspace.open(root)).items() if how[1] == KIM}
    kept = set(standing(Workspace.open(root))) - gone
    forget = ("forget", "--label", KIM)
    other = undisturbed(base, tmp_path, forget)
    chain = FORGET if finished_by == "doctor" else FORGET[::3]
    words = forget
    for fault in chain:
        ended, said = everlearn(tmp_path, "-w", root, *words, fault=fault)
        assert ended == KILLED, (fault, ended, said)
        words = forget if finished_by == "forget" else (finished_by,)
    ended, said = everlearn(tmp_path, "-w", root, *words)
    assert ended in (0, 1), said
    assert not (root / ".everlearn/forgetting.json").exists()
    mended(root, kept)
    assert not gone & set(standing(Workspace.open(root)))
    same(root, other)
    certificates = list((root / "model_updates/evaluations").glob("certificate_*.json"))
    assert len(certificates) == 1
    assert run(root, "verify", certificates[0]).values["verified"]
    assert not [path for path in root.rglob("*") if path.is_file() and KIM.encode() in path.read_bytes()]


def at_random(base: Path, root: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """Kills of `run` at any moment, then a run to the end."""
    rng = random.Random(seed)
    words = ("run", base / "next", "--labels-from", "folder")
    kept = set(standing(Workspace.open(root)))
    for _ in range(kills):
        process = start(tmp_path / "said.json", "-w", root, *words)
        time.sleep(rng.uniform(0.05, 1.5))
        process.kill()
        process.join(60)
        mended(root, kept)
    assert everlearn(tmp_path, "-w", root, *words)[0] in (0, 1)
    same(root, undisturbed(base, tmp_path, words))


def test_real_kills(base: Path, root: Path, tmp_path: Path) -> None:
    at_random(base, root, tmp_path, kills=8, seed=1)


# the full matrix


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_real_kills(base: Path, root: Path, tmp_path: Path, seed: int) -> None:
    at_random(base, root, tmp_path, kills=20, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("fault", sorted(set(RUN)))
def test_run_killed_once(base: Path, root: Path, tmp_path: Path, fault: str) -> None:
    words = ("run", base / "next", "--labels-from", "folder")
    killed_in(tmp_path, root, [fault], *words, kept=set(standing(Workspace.open(root))), code=(0, 1))
    same(root, undisturbed(base, tmp_path, words))


@pytest.mark.soak
@pytest.mark.parametrize("fault", sorted(set(FORGET)))
def test_forget_killed_once(base: Path, root: Path, tmp_path: Path, fault: str) -> None:
    forget = ("forget", "--label", KIM)
    kept = {id for id, how in standing(Workspace.open(root)).items() if how[1] != KIM}
    assert everlearn(tmp_path, "-w", root, *forget, fault=fault)[0] == KILLED
    mended(root, kept)
    assert everlearn(tmp_path, "-w", root, *forget)[0] in (0, 2)  # 2: `doctor` has finished it, nothing is left
    same(root, undisturbed(base, tmp_path, forget))
