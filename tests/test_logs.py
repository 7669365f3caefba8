"""What is logged can be read back, survives a kill, goes away when it is old, and holds no secret."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn import logs
from everlearn.errors import AnswerIsNo, BadInput, StoreFault
from everlearn.naming import parse_log_name

LOG = logging.getLogger("everlearn.tests")
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    yield
    for handler in list(logs.LOGGER.handlers):
        logs.LOGGER.removeHandler(handler)
    logs.LOGGER.propagate = True
    logs.LOGGER.setLevel(logging.NOTSET)


def records(folder: Path, pattern: str = "everlearn-*.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://user:{SECRET}@host/name",
        f"postgresql://user:{SECRET}@x@host:5432/name?sslmode=require",
        f"https://{SECRET}@example.org/x.git",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"aws_secret_access_key : '{SECRET}'",
        f'{{"password": "{SECRET}", "user": "a"}}',
        f"{{'api-key': '{SECRET}'}}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"https://bucket.s3.amazonaws.com/a?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"Cookie: session={SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"a key cut off -----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_secrets_in_texts(text: str) -> None:
    assert SECRET not in logs.redact(text)
    assert logs.GONE in logs.redact(text)


@pytest.mark.parametrize(
    "token",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghij0123456789abcdef",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    ],
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    assert token not in logs.redact(f"using {token} now")


@pytest.mark.parametrize(
    "text",
    [
        "learned 120 samples in 3.2 s; 5 tokens a sample",
        "s3://bucket/prefix/key.jpg, 4f9a0c2b8d1e4f9a0c2b8d1e4f9a0c2b",
        "https://example.org/docs?page=2 answers",
        "time: 2025-07-04T13:30:22+00:00 user@example.org",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert logs.redact(text) == text


def test_secrets_of_the_environment_are_known_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MY_TOKEN", "short")
    assert logs.redact(f"signed with {SECRET}; the short way") == "signed with ***; the short way"
    assert "wJalr" not in logs.redact("in an address: wJalrXUtnFEMI%2FK7MDENG%2BbPxRfiCYEXAMPLEKEY")


@given(
    st.text(), st.text(alphabet=st.characters(min_codepoint=33, exclude_characters="\"'<>"), min_size=1, max_size=80)
)
def test_a_password_in_an_address_never_stays(before: str, password: str) -> None:
    hidden = "Zq7" + password + "Zq7"
    assert hidden not in logs.redact(f"{before} postgresql://someone:{hidden}@host/name") or any(
        character.isspace() for character in password
    )


def test_a_long_line_is_no_trap() -> None:
    for text in (
        "a" * 500_000,
        "://" * 100_000,
        "token" * 100_000,
        "-----BEGIN PRIVATE KEY-----" * 20_000,
        "eyJ" * 99_999,
    ):
        logs.redact(text)


# --- records --------------------------------------------------------------------------------------------------------


def test_machines_and_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("INFO", tmp_path)
    LOG.debug("not written")
    LOG.info("learned", extra={"samples": np.int64(3), "loss": float("nan"), "api_key": SECRET, "n_tokens": 5})
    LOG.warning("a name with\na line of its own and %s", f"password={SECRET}")
    first, second = records(tmp_path)
    assert (first["message"], first["level"], first["logger"]) == ("learned", "INFO", "everlearn.tests")
    assert (first["samples"], first["loss"], first["n_tokens"]) == (3, "nan", 5)
    assert second["message"] == "a name with\na line of its own and password=***"
    said = capsys.readouterr().err
    assert said == "everlearn: warning: a name with\\x0aa line of its own and password=***\n"
    assert SECRET not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))


def test_failures_have_a_file_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("WARNING", tmp_path)
    try:
        raise OSError(f"cannot reach postgresql://u:{SECRET}@host")
    except OSError:
        LOG.exception("lost")
    (failure,) = records(tmp_path, "errors/errors-*.jsonl")
    assert failure["error"]["type"] == "OSError"
    assert "test_logs.py" in failure["error"]["traceback"]
    assert records(tmp_path) == [failure]
    assert SECRET not in json.dumps(failure) + capsys.readouterr().err


def test_setting_up_again_replaces(tmp_path: Path) -> None:
    for _ in range(3):
        logs.setup("INFO", tmp_path)
    LOG.info("once")
    assert len(records(tmp_path)) == 1
    logs.setup("INFO", None)
    LOG.info("nowhere")
    assert len(records(tmp_path)) == 1


def test_a_log_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    logs.setup("INFO", tmp_path / "file")
    LOG.info("one")
    LOG.info("two")
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_processes_share_a_file(tmp_path: Path) -> None:
    script = (
        "import logging, sys; from pathlib import Path; from everlearn import logs\n"
        "logs.setup('INFO', Path(sys.argv[1]))\n"
        "for n in range(200): logging.getLogger('everlearn.x').info('%s', 'x' * 3000)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert [len(record["message"]) for record in records(tmp_path)] == [3000] * 400


def test_old_logs_go_and_other_files_stay(tmp_path: Path) -> None:
    old = ["everlearn-20200101.jsonl", "errors/errors-20200101.jsonl"]
    old += ["experiments/training_learn_20200101.json", "metrics/training_learn_20200101.csv"]
    kept = ["experiments/training_learn_20990101.json", "notes.txt", "experiments/mine.json"]
    for name in [*old, *kept]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        age = 40 if "2099" not in name else 20
        os.utime(path, (time.time() - age * 86_400,) * 2)
    logs.setup("INFO", tmp_path, retention_days=30)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_has_a_document_and_numbers(tmp_path: Path) -> None:
    logs.setup("INFO", tmp_path)
    with logs.run(tmp_path, "learn", {"task": "classify"}) as run:
        run.params({"backbone": "patches", "password": SECRET})
        for step in range(3):
            run.metrics({"accuracy": np.float64(0.9 + step / 100), "loss": float("nan")}, step)
        run.artifact(tmp_path / "model.onnx")
        run.note(samples=12)
    document = json.loads(run.path.read_text())
    assert document["status"] == "done"
    assert document["seconds"] >= 0
    assert document["params"] == {"backbone": "patches", "password": "***"}
    assert document["metrics"]["accuracy"] == pytest.approx(0.92)
    assert (document["samples"], document["task"]) == (12, "classify")
    parsed = parse_log_name(run.path.name)
    assert parsed and parsed[0] == "learn"
    rows = list(csv.DictReader(run.csv.open()))
    assert [(row["step"], row["name"]) for row in rows][:3] == [("0", "accuracy"), ("0", "loss"), ("1", "accuracy")]
    assert float(rows[-2]["value"]) == pytest.approx(0.92)
    assert [record["message"] for record in records(tmp_path)] == ["learn began", "learn done"]


def test_two_runs_of_a_day_do_not_meet(tmp_path: Path) -> None:
    paths = [logs.RunLog(tmp_path, "한글/../실험").path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "experiments" for path in paths)
    assert sorted(path.name for path in (tmp_path / "experiments").iterdir()) == sorted(path.name for path in paths)


def test_how_a_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("INFO", tmp_path)
    expected = {
        "fault": ValueError("x"),
        "input": BadInput("no"),
        "gate": AnswerIsNo("no"),
        "stop": KeyboardInterrupt(),
    }
    status = {}
    for name, error in expected.items():
        with pytest.raises(type(error)), logs.run(tmp_path, name) as run:
            raise error
        status[name] = json.loads(run.path.read_text())["status"]
    assert status == {"fault": "failed", "input": "failed", "gate": "ended", "stop": "interrupted"}
    failures = records(tmp_path, "errors/errors-*.jsonl")
    assert [failure["error"]["code"] for failure in failures] == ["fault", "bad_input"]
    assert capsys.readouterr().err == "", "people are told by who catches the error"


def test_a_killed_run_leaves_valid_json(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from everlearn import logs\n"
        "run = logs.RunLog(Path(sys.argv[1]), 'learn')\n"
        "print('ready', flush=True)\n"
        "for n in range(10**9): run.note(n=n, filler='x' * 20_000); run.metrics({'n': n}, n)\n"
    )
    for delay in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    documents = sorted((tmp_path / "experiments").glob("training_*.json"))
    assert len(documents) == 3
    assert all(json.loads(path.read_text())["status"] == "running" for path in documents)
    for path in (tmp_path / "metrics").glob("*.csv"):
        assert all(len(row) == 4 for row in csv.reader(path.open()))


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "experiments").write_text("in the way")
    with pytest.raises(StoreFault, match="experiments cannot be written"):
        logs.RunLog(tmp_path, "learn")
