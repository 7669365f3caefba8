"""The doorway, from end to end: a bucket of unlabelled snapshots becomes a trained, evaluated, registered detector in
one command, killed and resumed on the way, with nothing fetched twice."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from everlearn.catalog import runs, samples, scenes, versions
from everlearn.config import check
from everlearn.model.detecting.onnx import OnnxDetector
from everlearn.store import S3Store
from everlearn.workspace import Workspace
from tests import child, doorway
from tests.child import KILLED
from tests.proxy import Proxy, proxy
from tests.servers import S3Server

pytest.importorskip("ultralytics", reason="training YOLO needs ultralytics")

IMAGES = 48
KILLS = ["collect.committed:3", "label.committed:1", "detect.epoch:2", "registry.before_commit:1"]


@pytest.fixture
def door(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3_server) as between:
        for name, value in {**s3_server.environment(), "AWS_ENDPOINT_URL": between.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield between


def test_a_bucket_becomes_a_detector_in_one_run_that_is_killed_on_the_way(
    s3_server: S3Server, door: Proxy, tmp_path: Path
) -> None:
    bucket = f"door-{uuid.uuid4().hex[:8]}"
    s3_server.bucket(bucket)
    truth = doorway.snapshots(tmp_path / "photos", IMAGES)
    store = S3Store(f"s3://{bucket}")
    for path in sorted((tmp_path / "photos").iterdir()):
        store.put(f"in/{path.name}", io.BytesIO(path.read_bytes()))
    door.calm()
    teacher = doorway.teacher(tmp_path / "teacher.onnx")
    root = tmp_path / "workspace"
    settings = {
        "task": "detect", "collect": {"sources": [f"s3://{bucket}/in"], "parallel": 4},
        "detect": {"size": doorway.SIDE, "epochs": 2, "teachers": [f"onnx:{teacher}"], "trust": 0.5, "audit": 0.1},
        "validate": {"near_duplicates": False}, "track": {"plots": False},
        "gates": {"map50": 0.0, "precision": None, "recall": None, "f1": None, "diversity": None},
    }  # fmt: skip
    Workspace.create(root, check(settings, root / "everlearn.yaml"))

    environment = {
        **s3_server.environment(),
        "AWS_ENDPOINT_URL": door.endpoint,
    }  # children are forked from an older one
    for fault in KILLS:
        code, _ = child.everlearn(tmp_path, "-w", root, "run", fault=fault, environment=environment)
        assert code == KILLED, fault
    code, said = child.everlearn(tmp_path, "-w", root, "run", environment=environment)
    assert code == 0, said
    assert said["decision"] == "promoted"
    assert set(door.gets().values()) == {1}  # nothing was fetched twice
    assert len(door.gets()) == IMAGES

    workspace = Workspace.open(root)
    with workspace.catalog.read() as tx:
        counts = samples.counts(tx)
        (version,) = versions.every(tx)
        trainings = runs.every(tx, kind="train")
        learned = [one for batch in samples.batches(tx) for one in batch if one.status == "learned"]
        drawn = scenes.of(tx, [one.id for one in learned])
    assert counts["queued"] + counts["learned"] == IMAGES  # the audit waits for a person, all else was labelled
    assert counts["queued"] > 0
    assert len(trainings) == 1  # one training, killed in its first epoch and at its end, went on
    assert trainings[0].status == "done"
    assert version.learner == "yolo"
    assert version.metrics["map50"] is not None
    boxes = {(round(one.x, 5), round(one.y, 5)) for scene in drawn.values() for one in scene.boxes}
    assert boxes <= {(round(one.x, 5), round(one.y, 5)) for one in truth.values()}
    assert all(one.label_by == "auto" for one in learned)

    again, said = child.everlearn(
        tmp_path, "-w", root, "run", environment=environment
    )  # nothing is new: nothing is done
    assert (again, said["decision"]) == (0, "nothing new")
    assert sum(door.gets().values()) == IMAGES

    model = root / version.key
    detector = OnnxDetector(model)
    assert detector.classes == (doorway.RED,)
    assert "AGPL" in detector.licence
    report = next((root / "model_updates/evaluations").glob("evaluation_v1.0_*[0-9].json"))
    assert json.loads(report.read_text())["metrics"]["map50"]["value"] == version.metrics["map50"]
    secrets = [s3_server.secret_key.encode()]
    for path in root.rglob("*"):
        if path.is_file():
            assert not any(one in path.read_bytes() for one in secrets), path
    assert yaml.safe_load((root / "everlearn.yaml").read_text())["task"] == "detect"
