"""A version for other programs: a trained network's weights for torch and Keras, and a copy in int8."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from everlearn.model.bundle import OnnxModel, probes
from everlearn.model.trainable import from_stage_file
from tests import wheel

RECIPE = """
name: tiny
network: cnn:depth=2,width=8
size: 16
processes: 1
stages: [{name: only, epochs: 2, batch_size: 8}]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("exporting")
    workspace = wheel.make(folder / "workspace", backbone="patches:small", learn={"dimensions": 64})
    (folder / "tiny.yaml").write_text(RECIPE)
    source = wheel.write(folder / "images", wheel.good(each=14))
    for words in (("collect", source, "--labels-from", "folder"), ("validate",), ("learn",),
                  ("train", "--recipe", folder / "tiny.yaml")):  # fmt: skip
        done = wheel.run(workspace.root, *words)
        assert done.code == 0, (words, done)
    return workspace.root


def exported(root: Path, out: Path, *words: object) -> dict[str, Path]:
    done = wheel.run(root, "models", "export", out, *words)
    assert done.code == 0, done
    return {path.suffix: path for path in map(Path, done.values["files"]) if path.parent == out}


def test_weights_for_torch_are_the_version_s_network(trained: Path, tmp_path: Path) -> None:
    bundle = exported(trained, tmp_path / "onnx")
    file = exported(trained, tmp_path / "pt", "--format", "pt")
    assert set(file) == {".pt"}
    found = torch.load(file[".pt"], weights_only=True)
    assert {"network", "classes", "size", "task", "model_state_dict"} <= set(found)
    network = from_stage_file(file[".pt"])
    with torch.no_grad():
        pixels = torch.from_numpy(network.prepared(probes())).permute(0, 3, 1, 2) / 255
        own = (network(pixels) / found["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(OnnxModel(bundle[".onnx"]).table(probes()), own, atol=1e-4)


def test_the_same_for_keras(trained: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    if not find_spec("keras"):
        pytest.skip("no Keras")
    file = exported(trained, tmp_path / "h5", "--format", "h5")
    with h5py.File(file[".h5"]) as opened:
        facts = json.loads(opened.attrs["everlearn"])
    assert json.loads(facts["everlearn.card"])["learner"] == "staged:tiny"


def test_int8_is_told_beside_what_it_costs(trained: Path, tmp_path: Path) -> None:
    done = wheel.run(trained, "models", "export", tmp_path, "--int8")
    assert done.code == 0, done
    told = done.values["int8"]
    assert told["images"] > 0 and 0 <= told["agreement"] <= 1 and told["accuracy"] is not None
    (small,) = tmp_path.glob("*.int8.onnx")
    assert small.stat().st_size == told["bytes_int8"] < told["bytes"]
    assert OnnxModel(small).classes == ("0", "1", "2")


def test_what_a_version_has_not_is_said(trained: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--model", "v1.0", "--format", "pt"), "no trained network"),
        (("--model", "v1.0", "--int8"), "no trained network"),
        (("--format", "tflite"), "tflite is unknown"),
        (("--format", "pt", "--int8"), "weights alone"),
        (("--sums",), "holds no sums"),
    ):
        done = wheel.run(trained, "models", "export", tmp_path / "none", *words)
        assert done.code == 2 and said in done.values["error"]["message"], (words, done)
    assert not list(tmp_path.rglob("*"))
