"""Stages one after another: each saved, each from the best so far, a killed one going on, cached features like none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everlearn.augment.training import augmenter
from everlearn.errors import BadInput, Corrupt
from everlearn.learn.fit import Quiet, fit
from everlearn.learn.network import checkpoint, staged
from everlearn.learn.network.loading import Data
from everlearn.learn.network.recipe import Augmentation, Optimizer, Recipe, Stage
from everlearn.learn.network.runtime import runtime
from everlearn.learn.network.staged import Job, Trained, train
from everlearn.model.trainable import build, from_stage_file
from tests.learn.test_fit import SIDE, TRAIN, VALIDATION, apart, bars, equal, weights

NETWORK = "cnn:depth=2,width=8,dropout=0.1"
KEYS = {
    "stage_idx", "stage_name", "stage_description", "model_state_dict", "val_loss", "val_accuracy", "stage_config",
    "training_time", "network", "classes", "size", "task",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stage(name: str, rate: float = 0.01, **changes: Any) -> Stage:
    return Stage(**{"name": name, "description": f"About {name}.", "epochs": 2, "batch_size": 15,
                    "optimizer": Optimizer(learning_rate=rate), **changes})  # fmt: skip


def recipe(*stages: Stage, **changes: Any) -> Recipe:
    return Recipe(network=NETWORK, size=SIDE, stages=stages, **changes)


THREE = recipe(
    stage("one"), stage("two", augmentation=Augmentation(rotation=20, noise=0.1)), stage("three", ema=0.5, dropout=0.4)
)


class Said(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def job(folder: Path, of: Recipe, **changes: Any) -> Job:
    about = {"network": NETWORK, "classes": ["a", "b", "c"], "size": SIDE, "task": "classify"}
    return Job(of, folder, about, {"recipe": of.model_dump(mode="json")}, **changes)


def trained(folder: Path, of: Recipe = THREE, *, warm: bool = False, **options: Any) -> tuple[nn.Module, list[Trained]]:
    net = options.pop("net", None) or build(NETWORK, classes=3, size=SIDE, seed=of.seed)
    sides = (options.pop("train", TRAIN), options.pop("validation", VALIDATION))
    options = {"run": runtime(cpu=True), **options}
    return net, train(job(folder, of, warm=warm), net, *sides, augmenter, **options)


def test_every_stage_is_saved(tmp_path: Path) -> None:
    net, done = trained(tmp_path)
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {
        "stage_1_one.pt", "best_model_stage_1.pt", "stage_2_two.pt", "best_model_stage_2.pt", "stage_3_three.pt",
        "best_model_stage_3.pt",
    }  # fmt: skip
    for one in done:
        for file, loss, accuracy in ((one.file, one.last_loss, one.last_accuracy),
                                     (one.best_file, one.val_loss, one.val_accuracy)):  # fmt: skip
            found = torch.load(tmp_path / file, weights_only=True)
            assert found.keys() >= KEYS
            assert (found["stage_idx"], found["stage_name"]) == (one.number, one.name)
            assert (found["val_loss"], found["val_accuracy"]) == (loss, accuracy)
            assert found["stage_config"]["optimizer"]["learning_rate"] == 0.01
            assert from_stage_file(tmp_path / file).classes == 3
    kept = max(one.number for one in done if one.kept)
    assert equal(weights(net), checkpoint.load(tmp_path / f"best_model_stage_{kept}.pt")["model_state_dict"])


def test_what_is_kept_is_never_worse_than_before(tmp_path: Path) -> None:
    """A stage that ruins the network is saved, and what comes after it begins with what was best."""
    ruined = recipe(stage("one", epochs=6), stage("ruins", rate=30.0), stage("three", rate=1e-9))
    watch = Said()
    _, done = trained(tmp_path, ruined, watch=watch)
    one, ruins, three = done
    assert one.kept
    assert not ruins.kept
    assert ruins.kept_accuracy == one.val_accuracy
    assert ruins.improvement == 0
    assert three.val_accuracy == one.val_accuracy
    assert math.isnan(one.improvement)
    assert checkpoint.load(tmp_path / ruins.best_file)["val_accuracy"] == ruins.val_accuracy < one.val_accuracy
    assert any("stay those of before" in text for text in watch.said)
    best = [best.kept_accuracy for best in done]
    assert best == sorted(best)


def test_a_stage_whose_loss_becomes_no_number(tmp_path: Path) -> None:
    net, done = trained(tmp_path, recipe(stage("one"), stage("explodes", rate=1e18), stage("three")))
    assert [one.stopped for one in done] == ["epochs", "diverged", "epochs"]
    assert not done[1].kept
    assert all(torch.isfinite(one).all() for one in net.state_dict().values())
    for path in tmp_path.glob("best*.pt"):
        assert all(torch.isfinite(one).all() for one in checkpoint.load(path)["model_state_dict"].values())
    _, done = trained(tmp_path / "all", recipe(stage("one", rate=1e18), stage("two", rate=1e18)))
    assert [one.kept for one in done] == [False, False]


@pytest.mark.parametrize(("threshold", "stages"), [(-1.0, 3), (2.0, 2), (0.0, 3)])
def test_improvement_threshold(tmp_path: Path, threshold: float, stages: int) -> None:
    """Of the second stage on; negative: every stage."""
    watch = Said()
    _, done = trained(tmp_path, THREE.model_copy(update={"improvement_threshold": threshold}), watch=watch)
    if threshold == 0.0:
        stages = 2 if done[1].improvement < 0 else 3
    assert len(done) == stages
    assert any("improvement_threshold" in text for text in watch.said) == (stages == 2)


def test_a_warm_network_is_kept_where_nothing_is_better(tmp_path: Path) -> None:
    net, first = trained(tmp_path / "first", recipe(stage("one", epochs=6)))
    before = weights(net)
    again, done = trained(tmp_path / "again", recipe(stage("ruins", rate=30.0)), warm=True, net=net)
    assert not done[0].kept
    assert done[0].kept_accuracy == pytest.approx(first[0].val_accuracy)
    assert done[0].improvement == 0
    assert equal(weights(again), before)


class Stop(BaseException):
    pass


def interrupted(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch, of: Recipe = THREE) -> None:
    """Train until step `at` of all; every step is saved."""
    steps = 0

    def point(name: str) -> None:
        nonlocal steps
        steps += name == "train.saved"
        if steps == at:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(staged.faults, "point", point)
        with pytest.raises(Stop):
            trained(folder, of, save_seconds=0.0)


def test_one_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, whole = trained(tmp_path / "whole")
    for at in (1, 5, 10, 13):  # within the first epoch, at its end, in the second stage, in the third
        interrupted(tmp_path / str(at), at, monkeypatch)
        again, done = trained(tmp_path / str(at), net=build(NETWORK, classes=3, size=SIDE, seed=99))
        assert equal(weights(again), weights(net)), at
        for a, b in zip(done, whole, strict=True):
            assert (a.val_loss, a.val_accuracy, a.kept, a.best_epoch) == (
                b.val_loss,
                b.val_accuracy,
                b.kept,
                b.best_epoch,
            )
            for name in (a.file, a.best_file):
                files = [checkpoint.load(tmp_path / where / name)["model_state_dict"] for where in (str(at), "whole")]
                assert equal(*files)


def test_what_was_begun_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, 3, monkeypatch)
    other = THREE.model_copy(update={"seed": 5})
    with pytest.raises(BadInput, match=r"recipe\.seed: 0, now 5") as error:
        trained(tmp_path, other)
    assert "--anew" in error.value.remedy
    found = checkpoint.load(tmp_path / "last.pt")
    checkpoint.save(tmp_path / "last.pt", {**found, "processes": 2})
    with pytest.raises(BadInput, match="processes: 2, now 1"):
        trained(tmp_path)
    _, done = trained(tmp_path, other, force=True)
    assert len(done) == 3


def test_a_damaged_state_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, 3, monkeypatch)
    found = checkpoint.load(tmp_path / "last.pt")
    for broken in ({}, {**found, "done": None}, {**found, "best": 3}):
        checkpoint.save(tmp_path / "last.pt", broken)
        with pytest.raises(Corrupt, match="damaged"):
            trained(tmp_path)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cached_features_are_like_going_through_the_backbone(tmp_path: Path, dropout: float) -> None:
    """A frozen backbone is gone through once; the head learns the same as through the whole network."""
    frozen = stage("head", freeze="backbone", dropout=dropout, epochs=3)
    seen: list[int] = []

    class Counts(nn.Module):
        """How many images the backbone has seen."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            found: Tensor = self.inner(images)
            return found

    net = build(NETWORK, classes=3, size=SIDE, seed=1)
    whole = build(NETWORK, classes=3, size=SIDE, seed=1)
    whole.set_dropout(dropout)
    whole.freeze("backbone")
    found = fit(whole, TRAIN, VALIDATION, frozen, seed=1, run=runtime(cpu=True))
    net.backbone.layers = Counts(net.backbone.layers)  # type: ignore[assignment,arg-type,union-attr]
    about = job(tmp_path, recipe(frozen, seed=0))
    done = train(about, net, TRAIN, VALIDATION, augmenter, run=runtime(cpu=True))
    assert sum(seen) == len(TRAIN) + len(VALIDATION), "each image once, whatever the epochs"
    assert done[0].val_loss == pytest.approx(found.val_loss, rel=1e-5)
    assert done[0].val_accuracy == found.val_accuracy
    assert apart(weights(net.head), weights(whole.head)) < 1e-5
    assert not list(tmp_path.glob(".features*")), "they are gone afterwards"


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.0123.part").write_bytes(b"half")
    trained(tmp_path, recipe(stage("one", epochs=1)))
    assert not list(tmp_path.glob(".*"))


def test_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, SIDE, SIDE, 3), dtype=np.uint8)
    level = rng.normal(size=40).astype(np.float32)
    images = (images * 0.3 + (level * 30 + 90)[:, None, None, None]).clip(0, 255).astype(np.uint8)
    data = Data(images, level)
    one = stage("one", loss={"name": "mse"}, epochs=12)
    net = build(NETWORK, classes=1, size=SIDE)
    _, done = trained(
        tmp_path, recipe(one), net=net, train=data.some(np.arange(30)), validation=data.some(np.arange(30, 40))
    )
    assert done[0].val_accuracy > 0.5, "R²"


def test_what_a_stage_came_to_can_be_written_as_json(tmp_path: Path) -> None:
    _, done = trained(tmp_path, recipe(stage("one")), train=bars(30))
    assert repr(Trained.from_json(json.loads(json.dumps(done[0].to_json())))) == repr(done[0])
