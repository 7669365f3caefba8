"""A workspace whose files lie in a bucket or whose catalog is on a server is the same workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli_models.conftest import Everlearn, digits
from tests.servers import S3Server

Story = dict[str, object]


def _story(ever: Everlearn, data: Path) -> Story:
    """Two days, answers, feedback, forgetting and its proof; what must be the same wherever the workspace lies."""
    told: Story = {}
    for day, classes in enumerate(((1, 4, 7), (8, 9))):
        turn = ever("run", digits(data / f"day{day}", classes, 25), "--labels-from", "folder")
        told[f"day {day}"] = [turn[key] for key in ("decision", "collected", "memory_digest", "model_digest", "reason")]
    answers = ever("predict", digits(data / "new", (1, 8), 5, first=80, flat=True), "--record")["predictions"]
    told["answers"] = [(one["label"], one["confidence"]) for one in answers]
    told["sample"] = ever("feedback", answers[0]["id"], "--label", "7")["sample"]
    told["doctor"] = [ever("doctor", "--deep")[key] for key in ("mended", "lost")]
    done = ever("forget", "--label", "4")
    assert ever("verify", done["certificate"])["verified"] is True
    assert Path(done["certificate"]).is_file()
    found = ever("status")
    told["status"] = {key: found[key] for key in ("counts", "classes", "champion", "memory_digest", "last_decision")}
    evaluated = ever("evaluate", code=None)
    told["evaluate"] = {key: evaluated[key] for key in ("accuracy", "model", "forgetting", "images", "classes")}
    told["history"] = [(line["action"], line["version"]) for line in ever("history")["history"]]
    assert ever("models", "export", data / "out")["files"]
    assert ever("doctor", "--deep")["lost"] == []
    return told


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("here")
    return _story(Everlearn(folder / "workspace").init(), folder)


def _compared(found: Story, here: Story) -> None:
    assert found.keys() == here.keys()
    for name, value in here.items():
        assert found[name] == value, name


def test_files_in_a_bucket(here: Story, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.bucket("elsewhere")
    ever = Everlearn(tmp_path / "workspace").init("--store", f"{bucket}/site one")
    _compared(_story(ever, tmp_path), here)
    root = s3_server.root / "elsewhere/site one"
    assert list(root.glob("model_updates/versions/*.onnx"))
    assert len(list(root.glob("new_data/validated/*.png"))) > 60
    report = ever("evaluate", code=None)["report"]
    assert report.startswith(f"{bucket}/site one/model_updates/evaluations/")
    assert (s3_server.root / report.removeprefix("s3://")).is_file()
    assert not list(ever.workspace.rglob("*.png"))  # nothing of the data stays on this machine


def test_catalog_on_a_server(here: Story, tmp_path: Path, postgres_url: str) -> None:
    ever = Everlearn(tmp_path / "workspace").init("--catalog", postgres_url)
    _compared(_story(ever, tmp_path), here)
    assert not (ever.workspace / "catalog.db").exists()


def test_both_elsewhere(
    here: Story, tmp_path: Path, s3_server: S3Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVERLEARN_STORE", f"{s3_server.bucket('both')}/w")
    monkeypatch.setenv("EVERLEARN_CATALOG", postgres_url)
    ever = Everlearn(tmp_path / "workspace").init()
    turn = ever("run", digits(tmp_path / "day0", (1, 4, 7), 25), "--labels-from", "folder")
    assert turn["memory_digest"] == here["day 0"][2]  # type: ignore[index]
    assert not (ever.workspace / "catalog.db").exists()
    (tmp_path / "again").mkdir()
    moved = Everlearn(tmp_path / "again/workspace")
    (ever.workspace).rename(moved.workspace)  # the folder is little more than its settings
    assert moved("status")["champion"] == "v1.0"
    assert moved("evaluate")["accuracy"] is not None


def test_a_wrong_address_is_told_at_once(tmp_path: Path, make_url: Callable[[], str]) -> None:
    error = Everlearn(tmp_path / "a").error("init", tmp_path / "b", "--catalog", make_url())
    assert error["code"] == "store"
    assert "secret" not in str(error)


@pytest.fixture
def make_url() -> Callable[[], str]:
    return lambda: "postgresql+psycopg://user:secret@127.0.0.1:1/nothing"
