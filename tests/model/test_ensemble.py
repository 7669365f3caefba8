"""An ensemble is one file that answers like its members put together in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from everlearn.errors import BadInput, Corrupt
from everlearn.learn.ensemble import BOOSTED, METHODS, Competence, Ensemble
from everlearn.learn.exact.head import Head
from everlearn.learn.stacking import Stack
from everlearn.model import ensemble
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.bundle import OnnxModel, export_head, probes
from tests.model.test_external import network as network_file

CLASSES = ("bird", "cat", "dog")


def memory(dimensions: int, seed: int, classes: tuple[str, ...] = CLASSES) -> ensemble.Memory:
    rng = np.random.default_rng(seed)
    basis = Basis(load_backbone("patches"), dimensions=dimensions, seed=seed)
    weights = rng.normal(size=(dimensions, len(classes))).astype(np.float32) / 300
    return ensemble.Memory(basis, Head("ridge", classes, weights, np.zeros(len(classes), np.float32)))


def network(tmp_path: Path, classes: tuple[str, ...] = ("cat", "dog")) -> ensemble.Network:
    member = memory(32, 7, classes)
    export_head(member.basis, member.head, tmp_path / "network.onnx", card={"name": "network"})
    return ensemble.Network(OnnxModel(tmp_path / "network.onnx"), CLASSES)


def combined(method: str, members: int, dimensions: int = 64) -> Ensemble:
    rng = np.random.default_rng(1)
    competence = Competence(rng.normal(size=(dimensions, members)).astype(np.float32), np.zeros(members, np.float32))
    weights = rng.dirichlet(np.ones(members)).astype(np.float32)
    stack = Stack(rng.normal(size=(members, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    return Ensemble(
        method, 1.7, competence if method == "dynamic" else None, (), {}, np.zeros(0, np.intp), weights=weights,
        stack=stack,
    )  # fmt: skip


@pytest.mark.parametrize("method", [*METHODS, BOOSTED])
def test_the_file_answers_like_its_members(tmp_path: Path, method: str) -> None:
    members = [memory(64, 0), memory(96, 1), network(tmp_path)]
    how = combined(method, 3)
    ensemble.export_ensemble(members, how, CLASSES, tmp_path / "whole.onnx", card={"name": "v1.0"})
    model = OnnxModel(tmp_path / "whole.onnx")
    assert model.classes == CLASSES
    images = probes()
    wanted = how.table([member.table(images) for member in members], members[0].basis.phi(images))
    assert np.allclose(model.table(images), wanted, atol=1e-4)
    assert np.allclose(wanted.sum(axis=1), 1, atol=1e-5)
    packed = [model.prepare([image])[0] for image in images]
    assert np.array_equal(model.table(packed), model.table(images)), "a prepared image is what it was"
    assert model.predict(images[:1])[0].label in CLASSES
    assert "patches + patches + network" in model.metadata["backbone"]


def test_a_class_that_a_network_does_not_know_has_no_share_of_it(tmp_path: Path) -> None:
    member = network(tmp_path)
    found = member.table(probes())
    assert (found[:, 0] == 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_two_networks_stand_in_one_graph(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(network_file().SerializeToString())
    members: list[ensemble.Member] = []
    for options in ("size=16", "size=16&mean=0&std=255"):
        basis = Basis(load_backbone(f"onnx:net.onnx?{options}", base=tmp_path), dimensions=64)
        members.append(ensemble.Memory(basis, memory(64, 0).head))
    ensemble.export_ensemble(members, combined("average", 2), CLASSES, tmp_path / "whole.onnx", card={})
    assert OnnxModel(tmp_path / "whole.onnx").squares[0][0] == 16


def test_members_that_look_alike_share_their_square(tmp_path: Path) -> None:
    members = [memory(64, 0), memory(96, 1)]
    how = combined("majority", 2)
    ensemble.export_ensemble(members, how, CLASSES, tmp_path / "whole.onnx", card={})
    model = OnnxModel(tmp_path / "whole.onnx")
    assert len(model.squares) == 1 and model.prepare(probes()).ndim == 4
    wanted = how.table([member.table(probes()) for member in members])
    assert np.allclose(model.table(probes()), wanted, atol=1e-4)


def averaging(opset: int) -> bytes:
    """A network of one matrix, whose mean is written as the operator set wants it."""
    weights = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    given = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    old = opset < 18
    nodes = [
        helper.make_node("ReduceMean", ["x"] if old else ["x", "axes"], ["m"], keepdims=0, **({"axes": [2, 3]} if old
                                                                                              else {})),
        helper.make_node("MatMul", ["m", "w"], ["f"]),
    ]  # fmt: skip
    x, f = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", ["N", 3, 16, 16]), ("f", ["N", 8])))  # fmt: skip
    graph = helper.make_graph(nodes, "network", [x], [f], given[: 1 if old else 2])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize("method", ["average", "vote", "stacking", "dynamic"])
def test_networks_of_any_operator_set_stand_in_one_graph(tmp_path: Path, method: str) -> None:
    for version in (13, 18):
        (tmp_path / f"net{version}.onnx").write_bytes(averaging(version))
    old, new = (
        ensemble.Memory(
            Basis(load_backbone(f"onnx:net{version}.onnx", base=tmp_path), dimensions=64), memory(64, 0).head
        )
        for version in (13, 18)
    )
    export_head(old.basis, old.head, tmp_path / "bundle.onnx", card={"name": "network"})
    members = [old, new, memory(32, 1), ensemble.Network(OnnxModel(tmp_path / "bundle.onnx"), CLASSES)]
    how = combined(method, 4)
    ensemble.export_ensemble(members, how, CLASSES, tmp_path / "whole.onnx", card={})
    wanted = how.table([member.table(probes()) for member in members], old.basis.phi(probes()))
    assert np.allclose(OnnxModel(tmp_path / "whole.onnx").table(probes()), wanted, atol=1e-4)


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    class Wrong(Ensemble):
        def table(self, tables, phi=None):  # type: ignore[no-untyped-def]
            return super().table(tables[::-1], phi)

    members = [memory(64, 0), memory(96, 1), memory(64, 2)]
    how = Wrong("dynamic", 1.0, combined("dynamic", 3).competence, (), {}, np.zeros(0, np.intp))
    with pytest.raises(Corrupt, match="differs"):
        ensemble.export_ensemble(members, how, CLASSES, tmp_path / "whole.onnx", card={})
    assert not (tmp_path / "whole.onnx").exists()


def test_rows_have_no_ensemble(tmp_path: Path) -> None:
    rows = Basis(load_backbone("features"), dimensions=64)
    member = ensemble.Memory(rows, memory(64, 0).head)
    with pytest.raises(BadInput, match="take images"):
        ensemble.export_ensemble([member, memory(64, 0)], combined("average", 2), CLASSES, tmp_path / "x", card={})
