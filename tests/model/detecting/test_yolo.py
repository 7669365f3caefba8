"""Ultralytics' YOLO behind the protocol: quiet, safe, resumable, growing, taught by what it was."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing
from everlearn.model.detecting import labels, remembering, weights
from everlearn.model.detecting.remembering import Answers
from everlearn.model.detecting.training import LICENCE, DetectionEpoch, DetectionJob, Unwatched, licence_said
from tests.scenes import scene, write

yolo = pytest.importorskip("everlearn.model.detecting.yolo")
CLASSES = ("circle", "square")
IMAGES = [scene(seed, side=90)[0] for seed in range(3)]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write(folder, 8, CLASSES, side=64)
    return folder / "data.yaml"


def job(data: Path, folder: Path, **more: Any) -> DetectionJob:
    asked = {"size": 64, "epochs": 3, "batch": 4, "plots": False, "settings": {"close_mosaic": 1}, **more}
    return DetectionJob("yolo11n.yaml", CLASSES, str(data), str(folder), **asked)


# --- quiet and offline ----------------------------------------------------------------------------------------------

ALONE = """
import os, socket, sys
asked = []
def forbidden(*a, **k):
    asked.append(a)
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = forbidden
import numpy as np, torch, cv2, logging
save, options, threads, words = torch.save, np.get_printoptions(), cv2.getNumThreads(), dict(os.environ)
from everlearn.model.detecting import yolo
from everlearn.model.detecting.training import DetectionJob
torch.set_num_threads(1)
data, out = sys.argv[1:]
yolo.train(DetectionJob("yolo11n.yaml", ("circle", "square"), data, out, size=64, epochs=1, batch=4))
assert not asked, asked
assert (torch.save, np.get_printoptions(), cv2.getNumThreads()) == (save, options, threads)
assert not torch.are_deterministic_algorithms_enabled()
changed = {one for one in os.environ if os.environ[one] != words.get(one)}
assert not changed & {"OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "TF_CPP_MIN_LOG_LEVEL", "YOLO_VERBOSE"}, changed
from ultralytics.utils import SETTINGS
from ultralytics.utils.events import events
assert not events.enabled and not SETTINGS["sync"]
"""


def test_a_training_writes_only_into_its_folder_and_asks_nobody(data: Path, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    before = sorted(str(one) for one in data.parent.rglob("*"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "MPL", "YOLO", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(data), str(out)], capture_output=True, text=True,
        env={**kept, "HOME": str(home), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}, cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    assert done.stdout == ""
    assert [one for one in tmp_path.iterdir() if one.name.startswith("everlearn")] == []  # its settings are gone again
    assert sorted(str(one) for one in data.parent.rglob("*")) == before
    names = {one.name for one in out.iterdir()}
    assert {"results.csv", "results.png", "args.yaml", "labels.jpg", "train_batch0.jpg", "val_batch0_labels.jpg",
            "val_batch0_pred.jpg", "BoxPR_curve.png", "BoxF1_curve.png", "BoxP_curve.png", "BoxR_curve.png",
            "confusion_matrix.png", "confusion_matrix_normalized.png", "result.json"} <= names  # fmt: skip
    assert {one.name for one in (out / "weights").iterdir()} == {"best.pt", "last.pt"}


def test_the_licence_is_said() -> None:
    assert yolo.YoloDetector.build(classes=CLASSES, size=64).licence == LICENCE == "AGPL-3.0 (Ultralytics)"
    assert LICENCE in licence_said()


# --- training -------------------------------------------------------------------------------------------------------


class Killed(Unwatched):
    def __init__(self, at: tuple[int, int] | None = None, stop: int = 0) -> None:
        self.at, self.stop, self.epochs, self.begun = at, stop, [], []

    def begin(self, job: DetectionJob, facts: Any) -> None:
        self.begun.append(facts["begun_at"])

    def step(self, epoch: int, step: int, steps: int, loss: float, learning_rate: float) -> None:
        if (epoch, step) == self.at:
            raise KeyboardInterrupt

    def epoch(self, found: DetectionEpoch) -> bool | None:
        self.epochs.append(found)
        return found.epoch == self.stop


def state(path: Path) -> dict[str, Tensor]:
    return dict(weights.load(path).state)


def interrupted(_self: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everlearn.model.detecting import course

    whole = yolo.train(job(data, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        yolo.train(job(data, tmp_path / "killed"), Killed((2, 2)))
    assert (tmp_path / "killed/weights/resume.pt").exists()
    with pytest.raises(BadInput, match=r"lr0: 0\.002, now 0\.1"):
        yolo.train(job(data, tmp_path / "killed", lr0=0.1))
    drawn = torch.get_rng_state(), random.getstate()
    watch = Killed()
    with monkeypatch.context() as patch:
        patch.setattr(course.Course, "_finish", interrupted)  # all epochs done, nothing said
        with pytest.raises(KeyboardInterrupt):
            yolo.train(job(data, tmp_path / "killed"), watch)
    again = yolo.train(job(data, tmp_path / "killed"), watch)
    assert watch.begun == [1, 3] and [one.epoch for one in watch.epochs] == [2, 3]
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]  # nobody else's draws
    for name in ("best", "last"):
        one, other = state(getattr(whole, name)), state(getattr(again, name))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (again.best_epoch, again.map50_95) == (whole.best_epoch, whole.map50_95)
    assert [one.losses for one in again.history] == [one.losses for one in whole.history]
    rows = [
        [line.split(",")[:1] + line.split(",")[2:] for line in (tmp_path / name / "results.csv").read_text().split()]
        for name in ("whole", "killed")
    ]  # all but the time
    assert rows[0] == rows[1] and len(rows[0]) == 4
    watch = Killed()
    assert yolo.train(job(data, tmp_path / "whole"), watch) == whole and not watch.begun  # it is done
    with pytest.raises(BadInput, match="Another training"):
        yolo.train(job(data, tmp_path / "whole", seed=1))


def test_it_stops_when_asked(data: Path, tmp_path: Path) -> None:
    found = yolo.train(job(data, tmp_path / "run", epochs=5), Killed(stop=1))
    assert found.stopped == "asked" and len(found.history) == 1
    values = json.loads((tmp_path / "run/result.json").read_text())
    assert type(found).from_json(values, tmp_path / "run/weights") == found


def test_settings_are_checked_before_anything_is_done(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="Near: mosaic"):
        yolo.train(job(data, tmp_path / "a", settings={"mosaik": 1}))
    with pytest.raises(BadConfig, match="data is decided elsewhere"):
        yolo.train(job(data, tmp_path / "a", settings={"data": "https://somewhere"}))
    with pytest.raises(BadConfig, match="does not take"):
        yolo.train(job(data, tmp_path / "a", settings={"mosaic": 7.0}))
    with pytest.raises(BadConfig, match="multiples of 32: 64 or 96"):
        job(data, tmp_path / "a", size=70)
    with pytest.raises(Missing, match="no architecture"):
        yolo.YoloDetector.build("yolo11q7.yaml")
    written = DetectionJob.from_json(json.loads(json.dumps(job(data, tmp_path / "a").to_json())))
    assert written == job(data, tmp_path / "a")


def test_data_are_read_and_never_run(tmp_path: Path) -> None:
    write(tmp_path, 2, CLASSES, side=64)
    (tmp_path / "data.yaml").write_text(
        f"names: [circle, square]\ntrain: images\nval: nowhere\ndownload: |\n  open(r'{tmp_path}/ran', 'w')\n"
    )
    with pytest.raises(Missing, match="no images in"):
        yolo.train(job(tmp_path / "data.yaml", tmp_path / "run"))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(BadInput, match="names circle, square, and the job"):
        labels.read_data(tmp_path / "data.yaml", ("square", "circle"))
    bad = next((tmp_path / "labels").glob("*.txt"))
    bad.write_text("7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(BadInput, match="is no box of 2 classes"):
        labels.labels_of(labels.images_in([tmp_path / "images"]), 2)


# --- weights --------------------------------------------------------------------------------------------------------


def strangers(detector: Any, **more: Any) -> bytes:
    """As Ultralytics writes its .pt: the network itself as a pickle, in half precision."""
    file = io.BytesIO()
    network = detector.network.half()
    torch.save({"model": network, "ema": None, "train_args": {"imgsz": 64}, "version": "8.4.0", **more}, file)
    network.float()
    return file.getvalue()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_strangers_weights_are_read_without_running_anything(tmp_path: Path) -> None:
    made = yolo.YoloDetector.build("yolov8n.yaml", ("cat", "dog"), size=64, seed=3)
    opened = yolo.YoloDetector.open(strangers(made))
    assert opened.classes == ("cat", "dog") and opened.size == 64
    half = {
        key: one.half().float() if one.is_floating_point() else one for key, one in made.network.state_dict().items()
    }
    assert all(torch.equal(half[key], one) for key, one in opened.network.state_dict().items())
    with pytest.raises(BadInput, match=r"wants to run posix\.mkdir"):
        yolo.YoloDetector.open(strangers(made, optimizer=Evil(tmp_path / "ran")))
    with pytest.raises(Corrupt):
        yolo.YoloDetector.open(pickle.dumps(Evil(tmp_path / "ran")))
    # an architecture is data too, and Ultralytics would evaluate words in it
    for place in ("activation", "module"):
        kept = made.weights()
        layers: dict[str, Any] = json.loads(json.dumps(weights.plain(kept.yaml)))
        if place == "activation":
            layers["activation"] = f"__import__('os').mkdir('{tmp_path}/ran')"
        else:
            layers["backbone"][0][2] = "torch_safe_load"
        changed = weights.Weights(kept.spec, layers, kept.classes, 64, kept.state, LICENCE, "", {})
        with pytest.raises(BadInput, match="describes a network with"):
            yolo.YoloDetector.open(weights.to_bytes(changed))
        made.network.yaml = layers
        with pytest.raises(BadInput, match="describes a network with"):
            yolo.YoloDetector.open(strangers(made))
    assert not (tmp_path / "ran").exists()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (4 << 20))
    with pytest.raises(BadInput, match="unpacks to"):
        yolo.YoloDetector.open(packed.getvalue())
    with pytest.raises(Corrupt, match="no YOLO weights of ours"):
        yolo.YoloDetector.open(_torch({"state": OrderedDict()}))


def _torch(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_ultralytics_weights_are_fetched_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/yolo11n.pt").write_bytes(strangers(yolo.YoloDetector.build(classes=("cat",), size=64)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "far")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(weights, "ASSETS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = Path("yolo11n.pt")
    try:
        with pytest.raises(Missing, match="set EVERLEARN_WEIGHTS"):
            yolo.YoloDetector.open(asked)
        assert yolo.YoloDetector.open(asked, download=True).classes == ("cat",)
        with pytest.raises(Missing, match="cannot be fetched"):
            yolo.YoloDetector.open(Path("yolo11s.pt"), download=True)
        with pytest.raises(Missing, match="There is no"):
            yolo.YoloDetector.open(Path("mine.pt"), download=True)
    finally:
        server.shutdown()
        server.server_close()
    assert yolo.YoloDetector.open(tmp_path / asked).classes == ("cat",)  # kept, whatever folder was named


# --- growing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["yolo11n.yaml", "yolo26n.yaml"])
def test_growing_keeps_what_was_known_bit_for_bit(spec: str) -> None:
    many = tuple(f"other {number}" for number in range(88))  # so many make the class branch wider
    old = yolo.YoloDetector.build(spec, ("circle", "square", *many), size=64, seed=1)
    new = old.grown(("star", "square", "circle"))
    was, now = old.raw(IMAGES), new.raw(IMAGES)
    assert torch.equal(was[:, :4], now[:, :4])
    assert torch.equal(was[:, 4], now[:, 6]) and torch.equal(was[:, 5], now[:, 5])
    kept = yolo.YoloDetector.open(weights.to_bytes(new.weights()))
    assert kept.classes == ("star", "square", "circle") and torch.equal(kept.raw(IMAGES), now)
    back = kept.grown(("circle", "square"))
    assert torch.equal(back.raw(IMAGES)[:, 4], was[:, 4])
    state = old.network.state_dict()
    other = {**state, "model.0.conv.weight": torch.zeros(1)}  # of another architecture
    with pytest.raises(BadInput, match="do not fit"):
        weights.carried(state, old.classes, other, CLASSES, [])


# --- remembering ----------------------------------------------------------------------------------------------------


def _raw(classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, classes, 20, generator=generator), torch.randn(2, 64, 20, generator=generator)


def test_a_class_that_an_image_is_not_labelled_for_has_no_gradient() -> None:
    scores = _raw(3, 0)[0].permute(0, 2, 1).clone().requires_grad_()
    targets = torch.zeros_like(scores)
    known = remembering.labelled(["a.jpg", "b.jpg"], {"a.jpg": frozenset({0})}, 3)
    assert known is not None and known.tolist() == [[True, False, False], [True, True, True]]
    remembering.class_loss(scores, targets, known, None).sum().backward()
    gradient = scores.grad
    assert gradient is not None
    assert (gradient[0, :, 1:] == 0).all() and (gradient[0, :, 0] != 0).all() and (gradient[1] != 0).all()
    # a teacher who knows class 2, as its own class 0, is asked about it; nobody knows class 1
    said, boxes = _raw(1, 1)
    answers = Answers(said, boxes, remembering.places(("a", "b", "c"), ("c",)))
    scores.grad = None
    remembering.class_loss(scores, targets, known, answers).sum().backward()
    expected = scores.detach().sigmoid()[0, :, 2] - said[0, 0].sigmoid()
    assert (scores.grad[0, :, 1] == 0).all()
    torch.testing.assert_close(scores.grad[0, :, 2], expected)
    torch.testing.assert_close(scores.grad[1], scores.detach().sigmoid()[1])  # labelled: nobody is asked
    assert remembering.labelled(["c.jpg"], {"a.jpg": frozenset()}, 3) is None


def test_distillation_pulls_to_the_teacher_where_it_is_sure() -> None:
    said, sides = _raw(2, 2)
    said[:, :, 10:] = -20  # the teacher sees nothing there
    answers = Answers(said, sides, remembering.places(("new", "x", "y"), ("x", "y")))
    scores, boxes = (one.clone().requires_grad_() for one in _raw(3, 3))
    remembering.distillation(scores, boxes, answers).backward()
    assert scores.grad is not None and boxes.grad is not None
    assert (scores.grad[:, 0] == 0).all()  # of the new class nothing is said
    assert scores.grad[:, 1:, 10:].abs().max() < 1e-6 < scores.grad[:, 1:, :10].abs().min()
    assert boxes.grad[:, :, 10:].abs().max() < 1e-6 < boxes.grad[:, :, :10].abs().mean()
    same = remembering.distillation(torch.cat([said[:, :1], said], 1), sides, answers)
    other = remembering.distillation(torch.cat([said[:, :1], said], 1), sides.flip(1), answers)
    assert same < other
    hard = Answers(torch.full((2, 2, 20), 30.0), sides, answers.places)
    agreed = remembering.distillation(torch.full((2, 3, 20), 30.0), sides, hard)
    torch.testing.assert_close(agreed, torch.tensor(0.0), atol=1e-5, rtol=0)


def test_a_training_with_a_teacher_and_missing_labels(data: Path, tmp_path: Path) -> None:
    teacher = yolo.YoloDetector.build(classes=("square", "star"), size=64, seed=5)
    weights.save(tmp_path / "teacher.pt", teacher.weights())
    about = tmp_path / "about.json"
    images = sorted(one.name for one in (data.parent / "images").iterdir())
    about.write_text(json.dumps({images[0]: ["circle"], images[1]: []}))
    asked = job(
        data, tmp_path / "run", begin=str(tmp_path / "teacher.pt"), teacher=str(tmp_path / "teacher.pt"), epochs=1,
        about=str(about),
    )  # fmt: skip
    watch = Killed()
    found = yolo.train(asked, watch)
    assert set(watch.epochs[0].losses) == {"box_loss", "cls_loss", "dfl_loss", "distil_loss"}
    assert watch.epochs[0].losses["distil_loss"] > 0 and set(watch.epochs[0].val_losses) == {
        "box_loss", "cls_loss", "dfl_loss",
    }  # fmt: skip
    assert yolo.YoloDetector.open(found.best).classes == CLASSES
    frozen = yolo.YoloDetector.open(tmp_path / "teacher.pt")
    assert torch.equal(frozen.raw(IMAGES), teacher.raw(IMAGES))


# --- boxes and graphs -----------------------------------------------------------------------------------------------


def test_the_graph_says_what_the_network_says() -> None:
    from everlearn.model.detecting.onnx import OnnxDetector
    from everlearn.model.detecting.outputs import Outputs

    detector = yolo.YoloDetector.build(classes=CLASSES, size=96, seed=2)
    graph = detector.graph()
    data = graph.SerializeToString()
    assert str(Path(yolo.__file__).parents[3]).encode() not in data and not graph.metadata_props
    assert max(one.version for one in graph.opset_import if not one.domain) >= 17
    other = OnnxDetector(data, Outputs("yolo", CLASSES, (96, 96)))
    images = [*IMAGES, np.full((40, 200, 3), 90, np.uint8)]
    ours, theirs = detector.raw(images).numpy(), np.concatenate([other.raw([one])[0] for one in images])
    assert np.abs(ours - theirs).max() < 1e-3  # px
    for mine, its in zip(detector.detect(images), other.detect(images), strict=True):
        assert len(mine) == len(its) > 0
        for one, two in zip(mine, its, strict=True):
            assert one.label == two.label
            for side in ("x", "y", "width", "height", "confidence"):
                assert abs(getattr(one, side) - getattr(two, side)) < 1e-5


def test_a_mosaic_is_made_of_images_whose_labels_cover_the_same(tmp_path: Path) -> None:
    from ultralytics.cfg import get_cfg

    from everlearn.image import encode_jpeg
    from everlearn.model.detecting.pictures import Images

    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220)}
    for name, colour in colours.items():
        for number in range(4):
            picture = np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3))
            (tmp_path / f"images/{name}{number}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(picture), 95))
            (tmp_path / f"labels/{name}{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    about = {f"blue{number}.jpg": frozenset({0}) for number in range(4)}
    settings = get_cfg(overrides={"imgsz": 64, "mosaic": 1.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0})
    random.seed(0)
    found = Images([tmp_path / "images"], settings, {"names": {0: "a", 1: "b"}}, about, augment=True, batch=4)
    several = 0
    for place in [*range(len(found))] * 3:
        one = found[place]
        red, blue = ((one["img"][channel].float() > 150).float().mean() for channel in (0, 2))
        assert min(red, blue) == 0 < max(red, blue)
        assert (blue > 0) == ("blue" in one["im_file"])
        several += len(one["cls"]) > 1
    assert several  # they are mosaics indeed
