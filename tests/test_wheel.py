"""Whole turns through the command line: the result depends on the set of samples alone, two processes do not disturb
each other, and small or odd beginnings are met with a clear word."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.dataset.build import side_of
from everlearn.errors import BadConfig, Busy
from everlearn.image import encode_png
from everlearn.workspace import Workspace
from tests import wheel
from tests.wheel import File, good, learned, make, run, standing, turn, world, write


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(digests, how every sample stands) of one turn on the whole world."""
    base = tmp_path_factory.mktemp("at_once")
    workspace = make(base / "workspace")
    done = turn(workspace.root, write(base / "all", world()))
    assert done.values["quarantined"].keys() >= {"near_duplicate", "blurry", "dark", "truncated", "too_small"}
    found = standing(workspace)
    statuses = {one[0] for one in found.values()}
    assert statuses == {"labelled", "quarantined", "queued"}
    assert any(one[5] is not None for one in found.values()), "no label is held wrong, so nothing is shown"
    return learned(workspace), found


def portions(files: Sequence[File], number: int, seed: int) -> list[list[File]]:
    shuffled = list(files)
    random.Random(seed).shuffle(shuffled)
    return [shuffled[at::number] for at in range(number)]


def class_by_class(files: Sequence[File], seed: int) -> list[list[File]]:
    classes = sorted({one.label for one in files})
    random.Random(seed).shuffle(classes)
    return [[one for one in files if one.label == name] for name in classes]


def in_turns(base: Path, parts: Sequence[Sequence[File]], **settings: Any) -> Workspace:
    workspace = make(base / "workspace", **settings)
    for number, part in enumerate(parts):
        done = turn(workspace.root, write(base / f"part{number}", part))
        assert done.code in (0, 1), done.said
    return workspace


def test_ten_turns_are_one(tmp_path: Path, at_once: tuple[Any, Any]) -> None:
    workspace = in_turns(tmp_path, portions(world(), 10, seed=1))
    assert (learned(workspace), standing(workspace)) == at_once
    wheel.assert_in_step(workspace)


@pytest.mark.parametrize("seed", range(2))
def test_class_by_class(tmp_path: Path, at_once: tuple[Any, Any], seed: int) -> None:
    workspace = in_turns(tmp_path, class_by_class(world(), seed))
    assert (learned(workspace), standing(workspace)) == at_once


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_any_order(tmp_path: Path, at_once: tuple[Any, Any], seed: int) -> None:
    workspace = in_turns(tmp_path, portions(world(), 10, seed))
    assert (learned(workspace), standing(workspace)) == at_once


def test_turns_held_by_the_data_gates(tmp_path: Path) -> None:
    """The first portions hold too much of one class; nothing is learned until the data is good, then all of it."""
    gates = {"gates": {"class_balance": 0.9, "label_accuracy": None, "accuracy": 0.3, "precision": None,
                       "recall": None, "f1": None, "quality": 0.3, "diversity": None}}  # fmt: skip
    files = [*good(each=14), *(one for one in world() if one.name.startswith(("near", "wrong", "says")))]
    zeros = [one for one in files if one.label == "0"]
    rest = [one for one in files if one.label != "0"]
    workspace = make(tmp_path / "workspace", **gates)
    held = [turn(workspace.root, write(tmp_path / f"held{n}", part))
            for n, part in enumerate((zeros + rest[:2], rest[2:4]))]  # fmt: skip
    assert [one.code for one in held] == [1, 1]
    assert all("class_balance" in one.values["reason"] for one in held)
    assert run(workspace.root, "models").values["models"] == []
    turn(workspace.root, write(tmp_path / "rest", rest[4:]))
    (tmp_path / "once").mkdir()
    once = in_turns(tmp_path / "once", [files], **gates)
    assert (learned(workspace), standing(workspace)) == (learned(once), standing(once))


def test_what_a_person_says_in_between(tmp_path: Path, at_once: tuple[Any, Any]) -> None:
    """Labels of queued images, releases from quarantine: said early or late, and between which turns, is all one."""
    _, found = at_once
    queued = sorted(id for id, how in found.items() if how[0] == "queued")
    blurred = sorted(id for id, how in found.items() if how[3] == "blurry")
    twins = sorted(id for id, how in found.items() if how[3] == "near_duplicate")
    words = [["label", queued[0], "2"], ["label", queued[-1], "0"], ["release", blurred[0]], ["release", twins[0]]]

    def played(name: str, parts: Sequence[Sequence[File]], when: Callable[[int], int]) -> Workspace:
        workspace = make(tmp_path / name / "workspace")
        said: set[int] = set()
        for number, part in enumerate(parts):
            turn(workspace.root, write(tmp_path / name / f"part{number}", part))
            for at, word in enumerate(words):
                if at not in said and number >= when(at) and run(workspace.root, *word).code == 0:
                    said.add(at)
        assert len(said) == len(words)
        run(workspace.root, "run")
        return workspace

    late = played("late", [world()], lambda at: 0)
    early = played("early", portions(world(), 4, seed=3), lambda at: at % 3)
    assert learned(late) != at_once[0]
    assert (learned(early), standing(early)) == (learned(late), standing(late))


def test_augmented_copies_in_between(tmp_path: Path) -> None:
    """Copies made after each portion, and copies made at the end, are the same copies and give the same memory."""
    found = []
    for name, parts in (("one", [world()]), ("three", portions(world(), 3, seed=4))):
        workspace = make(tmp_path / name / "workspace")
        for number, part in enumerate(parts):
            turn(workspace.root, write(tmp_path / name / f"part{number}", part))
            assert run(workspace.root, "augment", "--copies", "1").code == 0
        run(workspace.root, "run")
        found.append(learned(workspace))
    assert found[0] == found[1]


def test_numbers_too(tmp_path: Path) -> None:
    """A workspace that predicts numbers, with contradicting ones and near duplicates."""
    settings = {"task": "regress", "learn": {"dimensions": 64, "target": {"low": 0.0, "high": 9.0, "step": 0.5}}}
    found = []
    for name, number in (("one", 1), ("four", 4)):
        (tmp_path / name).mkdir()
        workspace = in_turns(tmp_path / name, portions(world(), number, seed=8), **settings)
        found.append((learned(workspace), standing(workspace)))
    assert found[0] == found[1]


def test_changed_settings_are_learned_again(tmp_path: Path) -> None:
    """Other folds, another split and another width: the memory is that of a workspace which always had them."""
    parts = portions(good(), 2, seed=5)
    workspace = in_turns(tmp_path, parts)
    path = workspace.root / "everlearn.yaml"
    for old, new in (("folds: 5", "folds: 4"), ("split: a", "split: b"), ("dimensions: 64", "dimensions: 80")):
        text = path.read_text()
        assert text.count(f"  {old}\n") == 1
        path.write_text(text.replace(f"  {old}\n", f"  {new}\n"))
        run(workspace.root, "run")
    other = make(tmp_path / "other", learn={"folds": 4, "dimensions": 80}, dataset={"split": "b"})
    turn(other.root, write(tmp_path / "all", good()))
    assert learned(workspace) == learned(other)


def test_forgetting_is_the_joint_models(tmp_path: Path) -> None:
    """Class by class costs no accuracy that learning all at once would not: same answers on the same test images."""
    files = good(("0", "1", "2", "3"), 20)
    step = in_turns(tmp_path / "step", class_by_class(files, seed=6))
    joint = in_turns(tmp_path / "joint", [files])
    assert learned(step) == learned(joint)
    told = [run(one.root, "evaluate", "--model", _newest(one)).values for one in (step, joint)]
    for name in ("accuracy", "precision", "recall", "f1", "ece", "classes", "images"):
        assert told[0][name] == told[1][name], name
    assert told[0]["forgetting"] is not None


def _newest(workspace: Workspace) -> str:
    return str(run(workspace.root, "status").values["newest"])


# two at once


def process(root: Path, *words: object) -> subprocess.Popen[str]:
    start = "import sys; from everlearn.cli.main import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "-w", str(root), "--json", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once(tmp_path: Path) -> None:
    """One waits for the other; together they give what one turn on everything gives."""
    files = good(each=10)
    halves = portions(files, 2, seed=7)
    workspace = make(tmp_path / "workspace")
    both = [process(workspace.root, "run", write(tmp_path / f"half{n}", half), "--labels-from", "folder")
            for n, half in enumerate(halves)]  # fmt: skip
    ended = [one.communicate(timeout=240) for one in both]
    assert all(one.returncode in (0, 1) for one in both), ended
    assert sorted(json.loads(out)["turn"] for out, _ in ended) == [1, 2]
    once = in_turns(tmp_path / "once", [files])
    assert (learned(workspace), standing(workspace)) == (learned(once), standing(once))
    wheel.assert_in_step(workspace)


def test_who_holds_it_is_said(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    words = "import sys, time; from everlearn.workspace import Workspace\n" \
            "with Workspace.open(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", words, str(workspace.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {other.pid}"), workspace.lock(wait=0.2):
            pytest.fail("two hold it")
    finally:
        other.kill()
        other.wait()
    with workspace.lock(wait=5):  # a killed process holds nothing
        pass


# small and odd beginnings


def test_an_empty_workspace(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    done = run(workspace.root, "run")
    assert (done.code, done.values["decision"]) == (0, "nothing new")


def test_an_empty_source(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    (tmp_path / "empty").mkdir()
    done = turn(workspace.root, tmp_path / "empty")
    assert (done.code, done.values["decision"]) == (0, "nothing new")


def test_nothing_is_labelled(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    for number, one in enumerate(good(each=3)):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(one.data)
    done = run(workspace.root, "run", tmp_path / "flat", "--labels-from", "none")
    assert (done.code, done.values["decision"]) == (0, "nothing new")
    assert done.values["queued"] == 9
    assert "label" in done.values["reason"]


def test_nothing_on_the_test_side(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace", dataset={"test": 0.0, "validation": 0.0})
    done = turn(workspace.root, write(tmp_path / "files", good(each=3)))
    assert (done.code, done.values["decision"]) == (1, "held")
    assert "test side" in done.values["reason"] and "dataset.test" in done.values["reason"]
    wheel.assert_in_step(workspace)


def test_everything_on_the_test_side(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace", dataset={"test": 0.9, "validation": 0.0})
    files = [one for one in good(each=6) if side_of(one.id, workspace.config.dataset) == "test"]
    assert len(files) > 10
    done = turn(workspace.root, write(tmp_path / "files", files))
    assert (done.code, done.values["decision"], done.values["model"]) == (1, "held", None)
    assert "test side" in done.values["reason"] and "dataset.test" in done.values["reason"]
    wheel.assert_in_step(workspace)


def test_one_class(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    done = turn(workspace.root, write(tmp_path / "files", good(("0",), 40)))
    assert (done.code, done.values["accuracy"]) == (0, 1.0)
    predicted = run(workspace.root, "predict", tmp_path / "files" / "0")
    assert predicted.code == 0


def test_one_image(tmp_path: Path) -> None:
    workspace = make(tmp_path / "workspace")
    done = turn(workspace.root, write(tmp_path / "files", good(("0",), 1)))
    assert done.code == 1
    assert "test side" in done.values["reason"]
    assert turn(workspace.root, write(tmp_path / "more", good(("0", "1"), 14))).code == 0


def test_images_of_one_colour_only(tmp_path: Path) -> None:
    """Nothing fit to learn from came in: nothing is learned, and the reasons are told."""
    workspace = make(tmp_path / "workspace")
    files = [File("0", f"{n}.png", encode_png(np.full((32, 32, 3), n, np.uint8))) for n in range(3)]
    done = turn(workspace.root, write(tmp_path / "files", files))
    assert (done.code, done.values["decision"], done.values["validated"]) == (0, "nothing new", 0)
    assert sum(done.values["quarantined"].values()) == 3


def test_a_source_that_vanished(tmp_path: Path) -> None:
    """Of the configured sources it stops nothing; named on the command line it is an error."""
    source = write(tmp_path / "files", good(each=10))
    gone = write(tmp_path / "gone", good(("3",), 2))
    workspace = make(tmp_path / "workspace", collect={"sources": [str(gone), str(source)]})
    shutil.rmtree(gone)
    done = run(workspace.root, "run")
    assert done.code == 0 and done.values["collected"] == 30 and str(gone) in done.said
    done = turn(workspace.root, gone)
    assert done.code == 2 and str(gone) in done.values["error"]["message"]
    assert run(workspace.root, "run").code == 0


def test_a_workspace_does_not_change_its_task(tmp_path):
    """A regressor must not take the place of a classifier."""
    workspace = make(tmp_path / "workspace")
    turn(workspace.root, write(tmp_path / "photos", good()))
    file = workspace.root / "everlearn.yaml"
    file.write_text(file.read_text().replace("task: classify", "task: regress", 1))
    with pytest.raises(BadConfig, match=r"task is regress.*made for classify"):
        Workspace.open(workspace.root).catalog  # noqa: B018
