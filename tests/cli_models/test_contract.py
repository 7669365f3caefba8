"""What scripts rely on: the keys of each command, the exit codes, errors as JSON, and help that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from everlearn.cli.main import run
from tests.cli_models.conftest import Everlearn, digits

RUN = {"turn", "collected", "validated", "model", "gates", "decision", "reason", "memory_digest", "accuracy",
       "forgetting", "scores", "quarantined", "labelled", "queued", "samples", "report"}  # fmt: skip
MINE = ("learn", "evaluate", "compare", "predict", "feedback", "regressions", "models", "deploy", "promote", "rollback",
        "history", "run", "watch", "status", "doctor")  # fmt: skip


def test_a_turn_always_has_its_keys(make: Callable[..., Everlearn], tmp_path: Path) -> None:
    ever = make()
    empty = ever("run")
    assert set(empty) >= RUN
    assert (empty["decision"], empty["model"], empty["accuracy"]) == ("nothing new", None, None)
    held = ever("run", digits(tmp_path / "few", (1,), 2), "--labels-from", "folder", code=None)
    assert set(held) >= RUN
    assert held["decision"] in ("held", "promoted")
    assert ever("status")["turns"] == 2


def test_held_turns_exit_1_and_nothing_new_exits_0(taught: Everlearn, tmp_path: Path) -> None:
    settings = taught.workspace / "everlearn.yaml"
    settings.write_text(settings.read_text().replace("accuracy: 0.6", "accuracy: 1.01"))
    held = taught("run", digits(tmp_path / "more", (1, 4), 20, first=100), "--labels-from", "folder", code=1)
    assert set(held) >= RUN
    assert held["decision"] == "held"
    assert "accuracy" in held["reason"]
    assert taught("status")["champion"] == "v1.1"
    assert taught("run")["decision"] == "nothing new"


def test_every_command_has_its_keys(taught: Everlearn, tmp_path: Path) -> None:
    keys = {
        "status": {"workspace", "task", "samples", "classes", "champion", "newest", "counts", "last_decision"},
        "doctor": {"mended", "lost", "checked"},
        "models": {"models"},
        "history": {"history", "champion", "at"},
        "regressions": {"cases"},
        "learn": {"model", "learner", "samples", "seconds", "memory_digest", "model_digest"},
    }
    for command, wanted in keys.items():
        assert set(taught(command)) >= wanted, command
    assert set(taught("deploy", "--to", tmp_path / "app")) >= {"champion", "version", "path", "card"}
    assert taught("promote")["champion"] == "v1.1"
    assert taught("rollback")["champion"] == "v1.0"
    for line in taught("history")["history"]:
        assert datetime.fromisoformat(line["at"]).tzinfo is not None
        assert set(line) >= {"action", "version", "previous", "reason", "forced", "who", "at"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["compare", "v1.0"], "usage"),
        (["compare", "v1.0", "v3.0"], "missing"),
        (["predict"], "usage"),
        (["feedback", "--right"], "usage"),
        (["models", "show", "v3.0"], "missing"),
        (["models", "--min-accuracy", "high"], "usage"),
        (["promote", "v1.0", "--model", "v1.1"], "bad_input"),
        (["deploy", "--to", "ftp://host/x"], "bad_config"),
        (["watch", "--turns", "0"], "usage"),
        (["run", "/not/there"], "missing"),
        (["evaluate", "--model", ""], "missing"),
    ],
)
def test_errors_are_json_and_exit_2(taught: Everlearn, words: list[str], code: str) -> None:
    error = taught.error(*words)
    assert error["code"] == code, error
    assert error["remedy"]


@pytest.mark.parametrize("command", MINE)
def test_help_says_what_each_option_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()[2].strip()) > 20
    options = re.findall(r"^  (?:-\w, )?--[a-z-]+.*\n?.*$", told, re.MULTILINE)
    assert options
    assert all(len(one.split()) > 3 for one in options), options
