"""Runs are written to the catalog, to training_logs/ and to every mirror at once, and read back from each."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everlearn import track
from everlearn.catalog import runs
from everlearn.config import Config, Track
from everlearn.errors import BadConfig, NotInstalled, StoreFault
from everlearn.track import mirrors
from everlearn.workspace import Workspace

CONFIG = {"name": "five-stage", "seed": 3, "stages": [{"name": "baseline", "optimizer": {"learning_rate": 0.01}}]}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty database, whose tables take seconds to make."""
    path: Path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(path).search_experiments()
    return path


def client(path: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{path}")


def made(folder: Path, tables: Path | None = None, **settings: Any) -> Workspace:
    workspace = Workspace.create(folder / "w", Config(track=Track(**settings)))
    if tables:
        (workspace.root / "training_logs/mlflow").mkdir()
        shutil.copy(tables, workspace.root / "training_logs/mlflow/mlflow.db")
    return workspace


def picture(folder: Path, name: str = "curves.png") -> Path:
    Image.fromarray(np.full((6, 8, 3), 200, np.uint8)).save(folder / name)
    return folder / name


def told(workspace: Workspace, picture: Path, **options: Any) -> str:
    """A small run."""
    with track.run(workspace, "train", config=CONFIG, snapshot=1, **options) as run:
        run.params({"device": "cpu", "note": "password=hunter22"})
        run.metrics({"val_loss": 0.5, "recall/홍길동": 1.0}, step=1)
        run.metrics({"val_loss": 0.25, "odd": float("nan")}, step=2)
        run.artifact(picture)
        run.note({"stages": ["baseline"]}, version="v1.0")
    return run.name


def test_the_catalog_and_the_logs_have_every_run(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    name = told(workspace, picture(workspace.root))
    with workspace.catalog.read() as tx:
        one = runs.get(tx, name)
        found = runs.series(tx, name)
    assert (one.kind, one.status, one.snapshot, one.version) == ("train", "done", 1, "v1.0")
    assert one.config["stages"] == CONFIG["stages"]
    assert one.config["device"] == "cpu"
    assert one.result == {"artifacts": ["curves.png"], "stages": ["baseline"]}
    assert found["val_loss"] == [(1, 0.5), (2, 0.25)]
    assert found["recall/홍길동"] == [(1, 1.0)]
    (document,) = (workspace.root / "training_logs/experiments").iterdir()
    kept = json.loads(document.read_text())
    assert kept["experiment"] == name
    assert kept["params"]["stages.baseline.optimizer.learning_rate"] == 0.01
    assert kept["status"] == "done"
    rows = list(csv.DictReader((workspace.root / f"training_logs/metrics/{document.stem}.csv").open()))
    assert [(row["step"], row["name"]) for row in rows] == [("1", "val_loss"), ("2", "val_loss"), ("2", "odd")]
    for path in workspace.root.rglob("*"):
        assert not path.is_file() or b"hunter22" not in path.read_bytes(), path
    assert "홍길동" not in document.read_text() + str(rows)  # people stand in the catalog alone


def test_how_a_run_ends_is_kept(tmp_path: Path) -> None:
    workspace = made(tmp_path)

    def ended(error: BaseException | None, status: str | None = None) -> runs.Run:
        with suppress(KeyboardInterrupt, StoreFault), track.run(workspace, "train", mirrored=False) as run:
            run.status = status or run.status  # type: ignore[assignment]
            if error:
                raise error
        with workspace.catalog.read() as tx:
            return runs.get(tx)

    assert ended(None).status == "done"
    assert ended(None, "pruned").status == "pruned"
    assert ended(KeyboardInterrupt()).status == "interrupted"
    failed = ended(StoreFault("The disk is full at '/home/kim/x'.", "Free some."))
    assert (failed.status, failed.result) == ("failed", {"error": "The disk is full at …. Free some."})
    assert failed.ended_at is not None
    assert not list((workspace.root / "training_logs/experiments").iterdir())  # not mirrored


def test_an_interrupted_run_goes_on_under_its_name_in_all_places(tmp_path: Path, tables: Path) -> None:
    workspace = made(tmp_path, tables, to=["mlflow"])
    with suppress(KeyboardInterrupt), track.run(workspace, "train", config={"seed": 1}) as run:
        run.metrics({"val_loss": 0.5}, 1)
        raise KeyboardInterrupt
    with track.run(workspace, "train", resume=run.name, config={"seed": 2}) as again:
        again.metrics({"val_loss": 0.25}, 2)
    assert again.name == run.name
    with workspace.catalog.read() as tx:
        assert runs.get(tx).status == "done"
        assert runs.series(tx, run.name) == {"val_loss": [(1, 0.5), (2, 0.25)]}
        (number,) = {one.result["mirrors"]["mlflow"] for one in runs.every(tx)}
    client = client_of(workspace)
    assert [point.value for point in client.get_metric_history(number, "val_loss")] == [0.5, 0.25]
    assert client.get_run(number).info.status == "FINISHED"


def client_of(workspace: Workspace) -> Any:
    return client(workspace.root / "training_logs/mlflow/mlflow.db")


def test_what_another_process_writes_is_passed_on_to_the_mirrors(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    with track.run(workspace, "train") as run:
        run.metrics({"val_loss": 0.5}, 1)
        code = (
            "import sys; from everlearn import track; from everlearn.workspace import Workspace\n"
            "with track.follow(Workspace.open(sys.argv[1]), sys.argv[2]) as run:\n"
            "    run.metrics({'val_loss': 0.4}, 2); run.metrics({'val_loss': 0.3, 'recall/x': 1.0}, 3)"
        )
        subprocess.run([sys.executable, "-c", code, str(workspace.root), run.name], check=True)
        with workspace.catalog.read() as tx:
            assert runs.get(tx).status == "running"
    (file,) = (workspace.root / "training_logs/metrics").iterdir()
    rows = list(csv.DictReader(file.open()))
    assert [(row["step"], row["value"]) for row in rows] == [("1", "0.5"), ("2", "0.4"), ("3", "0.3")]


# --- each mirror, read back -----------------------------------------------------------------------------------------


def test_a_run_in_mlflow_is_read_back(tmp_path: Path, tables: Path) -> None:
    workspace = made(tmp_path, tables, to=["mlflow"])
    name = told(workspace, picture(tmp_path))
    client = client_of(workspace)
    (found,) = client.search_runs([client.get_experiment_by_name("everlearn").experiment_id])
    assert found.info.run_name == name
    assert found.info.status == "FINISHED"
    assert found.data.params["stages.baseline.optimizer.learning_rate"] == "0.01"
    assert found.data.params["note"] == "password=***"
    assert [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "val_loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["curves.png"]
    with workspace.catalog.read() as tx:
        kept = runs.get(tx, name)
    where = [workspace.root / folder for folder in track.files_of(name, kept.result)]
    assert [path.name for path in where[-1].rglob("*.png")] == ["curves.png"]  # forgetting finds it


def test_children_stand_under_their_parent(tmp_path: Path, tables: Path) -> None:
    workspace = made(tmp_path, tables, to=["mlflow"])
    with track.run(workspace, "crossval") as above, track.run(workspace, "fold", parent=above.name) as fold:
        pass
    with workspace.catalog.read() as tx:
        ids = {one.name: one.result["mirrors"]["mlflow"] for one in runs.every(tx)}
        assert runs.get(tx, fold.name).parent == above.name
    assert client_of(workspace).get_run(ids[fold.name]).data.tags["mlflow.parentRunId"] == ids[above.name]


def test_a_run_in_tensorboard_is_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workspace = made(tmp_path, to=["tensorboard"])
    name = told(workspace, picture(tmp_path))
    events = EventAccumulator(str(workspace.root / "training_logs/tensorboard" / name))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("val_loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Tags()["images"] == ["curves"]
    assert (events.Images("curves")[0].width, events.Images("curves")[0].height) == (8, 6)
    assert set(events.Tags()["scalars"]) == {"val_loss", "odd"}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A proxy that everything to the network must pass, in other processes too; what came to it."""
    came: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                other, _ = server.accept()
            except OSError:
                return
            came.append(other.recv(200).decode(errors="replace"))
            other.close()

    threading.Thread(target=listen, daemon=True).start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    yield came
    server.close()


def records(path: Path) -> Iterator[Any]:
    """What a .wandb file holds: LevelDB's log format, a head of 7 bytes before it."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_a_run_in_wandb_offline_is_read_back_and_nothing_goes_out(
    tmp_path: Path, outside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    workspace = made(tmp_path, to=["wandb"], wandb="online")  # the environment says offline
    name = told(workspace, picture(tmp_path, "images_train.png"))
    folder = workspace.root / "training_logs/wandb" / name
    (file,) = folder.rglob("*.wandb")
    found = list(records(file))
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    assert [(row["_step"], row["val_loss"]) for row in history] == [(1, 0.5), (2, 0.25)]
    (begun,) = (one.run for one in found if one.WhichOneof("record_type") == "run")
    assert (begun.run_id, begun.display_name, begun.project, begun.host) == (name, name, "everlearn", "")
    config = {
        item.key or "/".join(item.nested_key): item.value_json
        for one in found
        for item in one.config.update
    }  # fmt: skip
    assert json.loads(config["stages.baseline.optimizer.learning_rate"]) == 0.01
    assert "hunter22" not in str(found)
    (kept,) = folder.rglob("images_train.png")
    assert not kept.is_symlink()
    assert kept.read_bytes() == (tmp_path / "images_train.png").read_bytes()
    assert outside == []


def test_all_at_once(tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    workspace = made(tmp_path, tables, to=["tensorboard", "mlflow", "wandb", "mlflow"])
    lines: list[str] = []
    name = told(workspace, picture(tmp_path), say=lines.append)
    assert lines == []
    with workspace.catalog.read() as tx:
        kept = [workspace.root / folder for folder in track.files_of(name, runs.get(tx, name).result)]
    assert [folder.exists() for folder in kept] == [False, False, True, True, True]  # no checkpoints, no plots here


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Failing:
    """A mirror that breaks off."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def params(self, values: Any) -> None:
        self.told.append("params")

    def metrics(self, values: Any, step: int) -> None:
        self.told.append("metrics")
        raise OSError("no route to https://kim:hunter22@host")

    def artifact(self, path: Path) -> None:
        self.told.append("artifact")

    def finish(self, status: str = "done") -> None:
        self.told.append(f"finish {status}")
        raise RuntimeError


def test_a_mirror_that_fails_is_said_once_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    monkeypatch.setattr(mirrors, "TensorBoard", lambda folder: failing)
    workspace = made(tmp_path, to=["tensorboard"])
    lines: list[str] = []
    name = told(workspace, picture(tmp_path), say=lines.append)
    (line,) = lines
    assert line.startswith("tensorboard failed and is left out from here on, while the run goes on: no route to")
    assert "hunter22" not in line
    assert failing.told == ["params", "params", "metrics", "finish failed"]
    with workspace.catalog.read() as tx:
        assert runs.get(tx, name).status == "done"
        assert len(runs.series(tx, name)["val_loss"]) == 2


def test_a_server_that_is_not_there_costs_the_mirror_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    workspace = made(tmp_path, to=["mlflow"], mlflow="http://127.0.0.1:1")
    lines: list[str] = []
    told(workspace, picture(tmp_path), say=lines.append)
    assert [line.split()[0] for line in lines] == ["mlflow"]


def test_what_is_not_installed_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, module, extra in (
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow.tracking", "mlflow"),
        ("tensorboard", "torch.utils.tensorboard", "train"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        workspace = made(tmp_path / part, to=[part])
        with pytest.raises(NotInstalled, match=rf"pip install 'everlearn\[{extra}\]'"), track.run(workspace, "train"):
            pytest.fail("it began")
        with workspace.catalog.read() as tx:
            assert runs.get(tx).status == "failed"


def test_numbers_wait_for_a_catalog_that_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = made(tmp_path)
    write = runs.metrics
    with track.run(workspace, "train", mirrored=False) as run:
        monkeypatch.setattr(runs, "metrics", lambda *told: (_ for _ in ()).throw(StoreFault("the server is away")))
        run.metrics({"val_loss": 0.5}, 1)
        run.metrics({"val_loss": 0.4}, 2)
        monkeypatch.setattr(runs, "metrics", write)
        run.metrics({"val_loss": 0.3}, 3)
    with workspace.catalog.read() as tx:
        assert runs.series(tx, run.name) == {"val_loss": [(1, 0.5), (2, 0.4), (3, 0.3)]}


def test_pictures_of_people_stay_here_unless_wished(tmp_path: Path) -> None:
    class Client:
        def __init__(self) -> None:
            self.sent: list[str] = []

        def log_artifact(self, run: str, path: str) -> None:
            self.sent.append(Path(path).name)

    for pictures, sent in ((False, ["curves.png"]), (True, ["images_train.png", "curves.png"])):
        mirror = object.__new__(mirrors.MLflow)  # as with a server
        mirror.id, mirror._client, mirror._pictures = "1", Client(), pictures
        for name in ("images_train.png", "curves.png"):
            mirror.artifact(tmp_path / name)
        assert mirror._client.sent == sent


def test_a_password_does_not_belong_into_the_settings() -> None:
    from everlearn.config import check

    with pytest.raises(BadConfig) as error:
        check({"track": {"mlflow": "http://kim:hunter22@host:5000"}}, Path("everlearn.yaml"))
    assert "MLFLOW_TRACKING_PASSWORD" in str(error.value)
    assert "hunter22" not in str(error.value)


# --- following a training -------------------------------------------------------------------------------------------


def test_a_training_is_followed_over_its_stages(tmp_path: Path) -> None:
    from everlearn.learn.fit import Epoch

    workspace = made(tmp_path)
    with track.run(workspace, "train", mirrored=False) as run:
        follow = track.Follow(run)
        for stage, epochs in ((1, 2), (2, 3)):
            follow.begin(None, {"device": "cpu", "batch": 32 * stage})
            for epoch in range(1, epochs + 1):
                follow.step(epoch, 1, 1, 0.5, 0.1)
                accuracy = float("nan") if stage == 2 else 0.5
                assert follow.epoch(Epoch(epoch, 1.0 / epoch, accuracy, 0.5, 0.75, 0.01, 2.0, 100.0)) is None
            follow.end(None)
        again = track.Follow(run, stages=2, epochs=5)
        again.begin(None, {})
        again.epoch(Epoch(1, 0.1, 0.9, 0.2, 0.9, 0.01, 2.0, 100.0))
    with workspace.catalog.read() as tx:
        found = runs.series(tx, run.name)
        config = runs.get(tx, run.name).config
    assert found["stage"] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)]
    assert [value for _, value in found["train_loss"]] == [1.0, 0.5, 1.0, 0.5, 1 / 3, 0.1]
    assert [step for step, _ in found["train_accuracy"]] == [1, 2, 6]
    assert config["facts.2.batch"] == 64


def test_settings_are_told_flat() -> None:
    told = {"a": {"b": 1}, "stages": [{"name": "x", "lr": 0.1}, {"lr": 0.2}], "sizes": [1, 2], "none": None}
    assert track.flat(told) == {
        "a.b": 1, "stages.x.name": "x", "stages.x.lr": 0.1, "stages.2.lr": 0.2, "sizes": "[1, 2]", "none": None,
    }  # fmt: skip


def test_tracking_is_light_until_it_is_used() -> None:
    code = (
        "import sys, everlearn.track; "
        "assert not {'mlflow', 'wandb', 'torch', 'tensorboard'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
