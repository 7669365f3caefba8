"""`tune`, `train --find-rate` and what they refuse, through the command line."""

from __future__ import annotations

from pathlib import Path

import torch

from everlearn.config import Config
from everlearn.image import encode_png
from everlearn.learn.network import recipe as recipes
from everlearn.workspace import Workspace
from tests.cli.command import Everlearn
from tests.make import add_image, picture

torch.set_num_threads(1)
SMALL = ("--set", "network=cnn:depth=1,width=4", "--set", "size=12", "--set", "stages.*.epochs=1")
TWO = ("--space", "learning_rate=0.001..0.1:log", "--trials", "2", "--sampler", "random")


def test_tune_and_find_rate(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w", Config(dataset={"validation": 0.3}))  # type: ignore[arg-type]
    for number in range(40):
        pixels = picture(number) // 2 + 120 * (number % 2)
        add_image(workspace, encode_png(pixels), "light" if number % 2 else "dark", camera=f"cam{number % 3}")
    ever = Everlearn(workspace.root)

    found = ever("tune", *SMALL, *TWO)
    assert {"run", "best", "value", "baseline", "gain", "trials", "recipe", "importance"} <= set(found)
    assert [one["number"] for one in found["trials"]] == [0, 1] and found["gain"] == found["value"] - found["baseline"]
    assert set(found["trials"][1]) >= {"values", "value", "status", "run", "seconds", "epochs", "error"}
    assert recipes.load(Path(found["recipe"])).network == "cnn:depth=1,width=4"
    assert "trial 1: learning_rate" in ever.stderr

    second = ever("tune", "--recipe", "five-stage", "--stage", "augmentation", *SMALL[:4], "--quick", *TWO)
    stages = recipes.load(Path(second["recipe"])).stages
    assert second["stage"] == "augmentation" and len(stages) == 5 and {one.epochs for one in stages} == {1}

    rate = ever("train", "--find-rate", *SMALL)
    assert 1e-5 <= rate["rate"] <= 1 and Path(rate["picture"]).is_file()
    assert ever("models")["models"] == [], "a sweep and a search make no version"

    assert "--study" in ever("tune", "--storage", "sqlite:///x.db", code=2)["error"]["remedy"]
    assert "auto" in ever("train", "--minutes", "3", code=2)["error"]["remedy"]
    assert "no field" in ever("tune", "--space", "nothing.at.all=1..2", code=2)["error"]["message"]
    assert ever("tune", "--stage", "nope", code=2)["error"]["code"] == "bad_config"
