"""Versions: tags and aliases, promotion past the gates, rollback, history, and deployment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import onnxruntime
import pytest

from everlearn.cli.main import run
from tests.cli_models.conftest import Everlearn
from tests.servers import S3Server


def test_a_list_can_be_searched(taught: Everlearn) -> None:
    names = [one["version"] for one in taught("models")["models"]]
    assert names == ["v1.0", "v1.1"]
    best = max(one["metrics"]["accuracy"] for one in taught("models")["models"])
    found = taught("models", "--min-accuracy", best)["models"]
    assert {one["metrics"]["accuracy"] for one in found} == {best}
    assert len(found) == 1
    taught("models", "tag", "v1.0", "first day", "frozen")
    assert [one["version"] for one in taught("models", "--tag", "frozen")["models"]] == ["v1.0"]
    assert taught("models", "--tag", "frozen", "--min-accuracy", 1.1)["models"] == []
    assert taught("models", "tag", "1.0", "--remove", "frozen")["models"][0]["tags"] == ["first day"]
    assert taught.error("models", "tag", "v1.0", "--remove", "frozen")["code"] == "missing"


def test_an_alias_names_a_version_until_it_is_taken_away(taught: Everlearn) -> None:
    told = taught("models", "tag", "v1.0", "alias:stable")["models"][0]
    assert told["aliases"] == ["stable"]
    assert told["tags"] == []
    assert taught("models", "show", "stable")["models"][0]["version"] == "v1.0"
    assert taught("models", "show", "--model", "stable")["models"][0]["version"] == "v1.0"
    taught("models", "tag", "v1.1", "alias:stable")
    assert taught("models", "show", "stable")["models"][0]["version"] == "v1.1"
    taught("models", "tag", "v1.1", "--remove", "alias:stable")
    assert taught.error("models", "show", "stable")["code"] == "missing"
    for bad in ("alias:champion", "alias:newest", "alias:v9.9", "alias:a.onnx", "a/b", "", "x" * 61):
        assert taught.error("models", "tag", "v1.0", bad)["code"] == "bad_input"


def test_show_tells_licence_and_card(taught: Everlearn) -> None:
    shown = taught("models", "show", "newest")["models"][0]
    assert shown["version"] == "v1.1"
    assert shown["parent"] == "v1.0"
    assert shown["licence"]
    assert shown["card"]["classes"] == ["1", "4", "7", "8", "9"]
    assert shown["created_at"].endswith("Z")


def test_rollback_goes_back_along_the_champions(taught: Everlearn) -> None:
    assert taught("rollback", "--reason", "the door is dark")["champion"] == "v1.0"
    assert "before v1.0" in taught.error("rollback")["message"]
    assert taught("status")["champion"] == "v1.0"
    newest = taught("history")
    assert newest["champion"] == "v1.0"
    assert newest["history"][-1]["action"] == "rolled back"
    assert newest["history"][-1]["reason"] == "the door is dark"


def test_promoting_the_champion_again_changes_nothing(taught: Everlearn) -> None:
    before = taught("history")["history"]
    assert taught("promote", "v1.1")["champion"] == "v1.1"
    assert taught("history")["history"] == before
    assert taught("rollback")["champion"] == "v1.0"


def test_promotion_asks_for_an_evaluation_against_todays_champion(taught: Everlearn) -> None:
    taught("rollback")
    taught("promote", "v1.1")  # it was held against v1.0, which is the champion again
    taught("evaluate", "--model", "v1.0", code=None)
    error = taught.error("promote", "--model", "v1.0", code=1)
    assert error["code"] == "no"
    assert "v1.0 is not promoted" in error["message"]
    assert taught.error("promote", "v1.0", "--force")["code"] == "bad_input"
    assert taught("promote", "v1.0", "--force", "--reason", "v1.1 is too slow")["champion"] == "v1.0"
    last = taught("history")["history"][-1]
    assert (last["version"], last["forced"], last["reason"]) == ("v1.0", True, "v1.1 is too slow")
    taught("learn")
    assert taught("promote", "v1.1")["champion"] == "v1.1"


def test_history_tells_which_model_was_in_production_and_why(taught: Everlearn) -> None:
    lines = taught("history")["history"]
    first, second = (line for line in lines if line["action"] == "promoted")
    then = datetime.fromisoformat(first["at"])
    found = taught("history", "--at", first["at"])
    assert (found["champion"], found["at"]["reason"]) == ("v1.0", first["reason"])
    assert taught("history", "--at", second["at"])["champion"] == "v1.1"
    before = (then - timedelta(seconds=5)).isoformat()
    assert taught("history", "--at", before) | {"history": []} == {"history": [], "champion": None, "at": None}
    in_seoul = datetime.fromisoformat(second["at"]).timestamp()
    shifted = datetime.fromtimestamp(in_seoul, tz=ZoneInfo("Asia/Seoul")).isoformat()
    assert taught("history", "--at", shifted)["champion"] == "v1.1"
    assert taught.error("history", "--at", "yesterday")["code"] == "bad_input"


def _plain_answers(path: Path, number: int) -> tuple[list[str], np.ndarray]:
    """Classes, and answers for so many black images, as a user's program gets them: onnxruntime and the file alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    side = int(facts["everlearn.input_size"])
    images = np.zeros((number, side, side, 3), np.uint8)
    return json.loads(facts["everlearn.classes"]), session.run(None, {session.get_inputs()[0].name: images})[0]


def test_deployed_files_are_whole_recorded_and_work_alone(taught: Everlearn, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = taught("deploy", "--to", "door")
    assert done["champion"] == "v1.1"
    model = tmp_path / "door/model.onnx"
    assert done["path"] == str(model)
    classes, answers = _plain_answers(model, 3)
    assert classes == ["1", "4", "7", "8", "9"]
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    card = json.loads((tmp_path / "door/model.json").read_text())
    assert card["name"] == "v1.1"
    assert card["evaluation"]["accuracy"] == taught("models", "show", "v1.1")["models"][0]["metrics"]["accuracy"]
    assert card["evaluation"]["decision"]["outcome"] == "promote"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    new = model.read_bytes()
    taught("rollback")
    assert taught("deploy")["path"] == str(model)  # where it was last, wherever this is called from
    assert _plain_answers(model, 1)[0] == ["1", "4", "7"]
    assert model.read_bytes() != new
    assert [line["version"] for line in taught("history")["history"] if line["action"] == "deployed"] == [
        "v1.1",
        "v1.0",
    ]


def test_deploy_to_a_bucket(taught: Everlearn, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.bucket("edge")
    assert taught("deploy", "--to", f"{bucket}/cameras/")["path"] == f"{bucket}/cameras/model.onnx"
    own = next((taught.workspace / "model_updates/versions").glob("model_v1.1_*.onnx")).read_bytes()
    assert (s3_server.root / "edge/cameras/model.onnx").read_bytes() == own
    taught("rollback")
    assert taught("deploy")["version"] == "v1.0"
    assert (s3_server.root / "edge/cameras/model.onnx").read_bytes() != own
    assert taught.error("deploy", "--to", "s3://not-there-at-all")["code"] == "store"


def test_what_cannot_be_deployed_or_exported(taught: Everlearn, tmp_path: Path) -> None:
    assert taught.error("deploy")["code"] == "bad_input"  # no place was ever named
    (tmp_path / "file").write_text("")
    assert taught.error("deploy", "--to", tmp_path / "file")["code"] == "store"
    assert taught.error("models", "export", tmp_path / "file")["code"] == "store"
    assert taught.error("deploy", "--to", tmp_path / "x", "--model", "v7.7")["code"] == "missing"


def test_export_is_the_whole_bundle_with_the_sums_on_request(taught: Everlearn, tmp_path: Path) -> None:
    files = [Path(path) for path in taught("models", "export", tmp_path / "out")["files"]]
    assert {path.suffix for path in files} == {".onnx", ".npz", ".txt", ".json", ".md"}
    assert all(path.is_file() and path.stat().st_mode & 0o044 for path in files)
    files = [Path(path) for path in taught("models", "export", tmp_path / "sums", "--sums", "--model", "1.0")["files"]]
    from everlearn.learn.exact.memory import ExactMemory

    memory, facts = ExactMemory.load(next(path for path in files if path.suffix == ".sums"))
    assert memory.digest() == facts["digest"] == taught("models", "show", "v1.0")["models"][0]["memory_digest"]


def test_without_a_model_everything_says_what_to_do(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ever = make()
    assert ever("models")["models"] == []
    assert ever("history") == {"history": [], "champion": None, "at": None}
    for words in (["evaluate"], ["promote"], ["deploy", "--to", "x"], ["models", "show"], ["predict", "."]):
        assert ever.error(*words)["code"] == "missing", words
    assert ever.error("rollback")["code"] == "bad_input"
    assert run(["-w", str(ever.workspace), "models"]) == 0
    assert "everlearn run" in capsys.readouterr().out


@pytest.mark.parametrize(("point", "switched"), [("deploy.copied", False), ("deploy.switched", True)])
def test_a_killed_deployment_leaves_the_old_model_or_the_new_one(
    taught: Everlearn, tmp_path: Path, point: str, switched: bool
) -> None:
    taught("deploy", "--to", tmp_path / "app", "--model", "v1.0")
    model = tmp_path / "app/model.onnx"
    old = model.read_bytes()
    command = [sys.executable, "-c", "from everlearn.cli import main; main()", "-w", str(taught.workspace), "deploy"]
    killed = subprocess.run(command, env={**os.environ, "EVERLEARN_FAULT": point}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (model.read_bytes() != old) is switched
    assert _plain_answers(model, 1)[0] == list("14789" if switched else "147")
    done = taught("deploy")
    assert _plain_answers(model, 1)[0] == list("14789")
    assert json.loads(Path(done["card"]).read_text())["name"] == "v1.1"
    assert [line["version"] for line in taught("history")["history"] if line["action"] == "deployed"] == [
        "v1.0",
        "v1.1",
    ]


def test_going_back_names_the_places_that_hold_another_version(
    taught: Everlearn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught("deploy", "--to", tmp_path / "door")
    capsys.readouterr()
    assert run(["-w", str(taught.workspace), "rollback"]) == 0
    assert f"{tmp_path / 'door' / 'model.onnx'} still holds v1.1: everlearn deploy" in capsys.readouterr().out
    taught("deploy")
    capsys.readouterr()
    assert run(["-w", str(taught.workspace), "promote", "v1.0", "--force", "--reason", "it is right"]) == 0
    assert "still holds" not in capsys.readouterr().out
