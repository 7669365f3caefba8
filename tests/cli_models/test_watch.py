"""The wheel turns by itself: on whole new files, on the clock, on drift; never on the same refused file twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everlearn import stages
from everlearn.catalog import answers
from everlearn.catalog.tables import now
from everlearn.workspace import Workspace
from tests.cli_models.conftest import SETTINGS, Everlearn, digits, scans, write

Make = Callable[..., Everlearn]


def _watched(make: Make, *sources: Path | str, more: str = "") -> Everlearn:
    lines = [f"collect: {{sources: {json.dumps([str(one) for one in sources])}, labels_from: folder}}\n", more]
    return make(settings=SETTINGS + "".join(lines))


def _taken(ever: Everlearn) -> int:
    counts = ever("data")["counts"]
    return sum(counts.values())


def test_new_files_turn_the_wheel_once(make: Make, tmp_path: Path) -> None:
    ever = _watched(make, tmp_path / "door")
    digits(tmp_path / "door", (1, 7), 20)
    turn = ever("watch", "--turns", 1)
    assert len(ever.lines) == 1
    assert turn["collected"] == 40
    assert turn["model"] == "v1.0"
    assert set(turn) >= {"turn", "collected", "validated", "model", "gates", "decision", "reason"}
    watcher = stages.Watcher(Workspace.open(ever.workspace))
    assert [watcher.reason() for _ in range(3)] == [None] * 3
    write(tmp_path / "door/1/new.png", scans()[0][500])
    assert [watcher.reason() for _ in range(2)] == [None, "1 new file"]


def test_a_folder_that_appears_later_and_one_that_is_gone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ever = _watched(make, "../there", tmp_path / "later", tmp_path / "never")
    watcher = stages.Watcher(Workspace.open(ever.workspace))
    assert [watcher.reason() for _ in range(2)] == [None] * 2
    digits(tmp_path / "later", (1, 7), 15)
    digits(tmp_path / "there", (4,), 15)
    turn = ever("watch", "--turns", 1)
    assert turn["collected"] == 45
    rejected = ever("run", code=None)
    assert rejected["refused"] == 1  # the folder that is not there is told of, and stops nothing


def test_a_growing_file_is_left_alone_until_it_is_whole(make: Make, tmp_path: Path) -> None:
    ever = _watched(make, tmp_path / "door")
    digits(tmp_path / "door", (1, 7), 15)
    whole = write(tmp_path / "whole.png", scans()[0][500]).read_bytes()
    growing = tmp_path / "door/1/growing.png"
    workspace = Workspace.open(ever.workspace)
    watcher = stages.Watcher(workspace)
    for part in (100, 200, 300):  # it grows from look to look
        growing.write_bytes(whole[:part])
        os.utime(growing, (part, part))
        reason = watcher.reason()
    assert reason == "30 new files"
    from everlearn import loop
    from everlearn.types import SILENT

    loop.turn(workspace, SILENT, ready=watcher.ready)
    watcher.turned()
    assert _taken(ever) == 30
    growing.write_bytes(whole)
    assert [watcher.reason() for _ in range(2)] == [None, "1 new file"]
    loop.turn(workspace, SILENT, ready=watcher.ready)
    watcher.turned()
    assert _taken(ever) == 31
    assert ever("data")["counts"]["quarantined"] == 0
    assert watcher.reason() is None


def test_a_refused_file_is_news_once(make: Make, tmp_path: Path) -> None:
    ever = _watched(make, tmp_path / "door")
    (tmp_path / "door").mkdir()
    (tmp_path / "door/empty.jpg").write_bytes(b"")
    turn = ever("watch", "--turns", 1)
    assert (turn["decision"], turn["refused"]) == ("nothing new", 1)
    workspace = Workspace.open(ever.workspace)
    watcher = stages.Watcher(workspace)
    reasons = []
    for _ in range(5):
        reasons.append(watcher.reason())
        if reasons[-1]:
            watcher.turned()
    assert reasons == [None, "1 new file", None, None, None]
    (tmp_path / "door/empty.jpg").write_bytes(write(tmp_path / "a.png", scans()[0][5]).read_bytes())
    assert [watcher.reason() for _ in range(2)] == [None, "1 new file"]


def test_labels_that_come_later_are_news(make: Make, tmp_path: Path) -> None:
    door = digits(tmp_path / "door", (1, 7), 3, flat=True)
    lines = "".join(f"{path.name},\n" for path in sorted(door.glob("*.png")))
    (door / "labels.csv").write_text("path,label\n" + lines)
    ever = make(settings=SETTINGS + f"collect: {{sources: ['{door}'], labels_from: csv}}\n")
    ever("run", code=None)
    watcher = stages.Watcher(Workspace.open(ever.workspace))
    assert [watcher.reason() for _ in range(3)] == [None] * 3
    (door / "labels.csv").write_text("path,label\n" + lines.replace(",\n", ",one\n"))
    assert [watcher.reason() for _ in range(2)] == [None, "1 new file"]


def test_several_new_files_may_be_asked_for(make: Make, tmp_path: Path) -> None:
    ever = _watched(make, tmp_path / "door")
    settings = ever.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("watch: {", "watch: {min_new: 5, "))
    digits(tmp_path / "door", (1,), 4)
    watcher = stages.Watcher(Workspace.open(ever.workspace))
    assert [watcher.reason() for _ in range(3)] == [None] * 3
    digits(tmp_path / "door", (7,), 1)
    assert [watcher.reason() for _ in range(2)] == [None, "5 new files"]


def test_the_clock_turns_whatever_has_come_in(taught: Everlearn) -> None:
    settings = taught.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("watch: {", "watch: {every_minutes: 0.001, "))
    assert taught("watch", "--turns", 2)["decision"] == "nothing new"
    assert [turn["decision"] for turn in taught.lines] == ["nothing new"] * 2


@pytest.mark.parametrize(("sure", "drifted"), [(0.3, True), (None, False)])
def test_unsure_answers_are_a_reason_once(taught: Everlearn, sure: float | None, drifted: bool) -> None:
    workspace = Workspace.open(taught.workspace)
    from everlearn.stages import answering, prove
    from everlearn.types import SILENT

    champion = answering.named(workspace, "champion").version
    ids = [one.id for one in prove.test_side(workspace)]
    usual = answering.answerer(workspace, champion).table(ids, SILENT).max(axis=1)
    rows = [
        {"id": f"{n:016x}", "at": now(), "version": champion.name, "content": f"{n:032x}", "key": None, "label": "1",
         "value": None, "confidence": sure if sure is not None else float(usual[n % len(usual)]), "camera": "door"}
        for n in range(200)
    ]  # fmt: skip
    with workspace.catalog.write() as tx:
        answers.keep(tx, rows)
    watcher = stages.Watcher(workspace)
    first, second = watcher.reason(), watcher.reason()
    assert (first is not None and first.startswith("recorded answers have drifted")) is drifted
    assert second is None
    later = [{**row, "id": f"{n + 1000:016x}", "at": now()} for n, row in enumerate(rows)]
    with workspace.catalog.write() as tx:
        answers.keep(tx, later[:-1])
    assert watcher.reason() is None, "some of these answers were looked at before"
    with workspace.catalog.write() as tx:
        answers.keep(tx, later[-1:])
    assert (watcher.reason() is not None) is drifted


def test_ctrl_c_ends_with_130(taught: Everlearn) -> None:
    command = [sys.executable, "-c", "from everlearn.cli import main; main()", "-w", str(taught.workspace), "watch"]
    watching = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = taught.workspace / "training_logs"
    before = {path for path in log.rglob("*") if path.is_file()}
    while watching.poll() is None and {path for path in log.rglob("*") if path.is_file()} == before:
        pass  # until it has begun
    watching.send_signal(signal.SIGINT)
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
