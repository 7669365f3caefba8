"""The queue, answered at a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from everlearn.cli.main import run
from tests.cli.command import Everlearn, ever, picture

__all__ = ["ever"]


@pytest.fixture
def waiting(ever: Everlearn, tmp_path: Path) -> list[str]:
    """Four contradictions in the queue, in the order in which review asks."""
    for n in range(4):
        for label in "ab":
            picture(tmp_path / "images" / label / f"{n}.png", n)
    ever.init()
    ever("collect", tmp_path / "images", "--labels-from", "folder")
    ever("validate")
    return [one["sample"] for one in ever("review")["items"]]


def _at_a_terminal(ever: Everlearn, typed: str) -> subprocess.CompletedProcess[str]:
    keyboard, screen = pty.openpty()
    program = [sys.executable, "-c", "from everlearn.cli import main; main()", "-w", str(ever.workspace), "review"]
    process = subprocess.Popen(program, stdin=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(screen)
    os.write(keyboard, typed.encode())
    out, err = process.communicate(timeout=120)
    os.close(keyboard)
    return subprocess.CompletedProcess(program, process.returncode, out, err)


def test_the_queue_is_answered_at_a_terminal(ever: Everlearn, waiting: list[str]) -> None:
    """A label; Enter where nothing is suggested; s; a label that cannot be; q."""
    done = _at_a_terminal(ever, "a\n\ns\n\x00\nq\n")
    assert done.returncode == 0, done.stderr
    assert "Answered 1; 3 wait." in done.stdout
    labelled = ever("data", "--status", "labelled")["samples"]
    assert [(one["sample"], one["label"]) for one in labelled] == [(waiting[0], "a")]
    assert ever("label", "--history", waiting[0])["history"][-1]["by"] == "person"


def test_the_end_of_input_ends_the_review(ever: Everlearn, waiting: list[str]) -> None:
    done = _at_a_terminal(ever, "한국어\n\x04")
    assert done.returncode == 0, done.stderr
    assert "Answered 1; 3 wait." in done.stdout
    assert ever("data", "--status", "labelled")["samples"][0]["label"] == "한국어"


def test_an_empty_queue_says_so(ever: Everlearn, capsys: pytest.CaptureFixture[str]) -> None:
    ever.init()
    capsys.readouterr()
    assert run(["-w", str(ever.workspace), "review"]) == 0
    assert capsys.readouterr().out == "Nothing waits for a person.\n"


def test_without_a_terminal_it_is_listed(ever: Everlearn, waiting: list[str]) -> None:
    said = ever("review", "--limit", 3)
    assert said["queued"] == 4
    assert [one["sample"] for one in said["items"]] == waiting[:3]
    for one in said["items"]:
        assert set(one) == {"sample", "reason", "label", "suggestion", "urgency", "path"}
        assert Path(one["path"]).is_file()
