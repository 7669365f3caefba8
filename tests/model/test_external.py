"""`onnx:` backbones: small networks made here, real weights where they lie beside the repository."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from everlearn.errors import BadConfig, BadInput, Missing, NotInstalled
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis


def network(shape=("N", 3, 16, 16), *, kind=TensorProto.FLOAT, outputs=("flat",), opset=13) -> onnx.ModelProto:
    """The mean of each of four filters' answers."""
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    shapes = {"flat": ["N", 4], "maps": ["N", 4, 14, 14]}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.fixture
def saved(tmp_path):
    def save(model: onnx.ModelProto, name: str = "net.onnx") -> Path:
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path

    return save


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8) for n in range(count)]


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_features_are_the_networks_own(saved, opset):
    model = network(opset=opset)
    backbone = load_backbone("onnx:net.onnx?mean=127.5&std=127.5", base=saved(model))
    basis = Basis(backbone, dimensions=64)
    assert (backbone.size, backbone.dimensions) == (16, 4)
    images = pictures(3)
    import onnxruntime

    x = (backbone.prepare(images).astype(np.float32) - 127.5) / 127.5
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.transpose(0, 3, 1, 2)})[0]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = basis.features(images)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=0.01)


def test_an_images_features_do_not_depend_on_its_neighbours(saved):
    basis = Basis(load_backbone("onnx:net.onnx", base=saved(network())), dimensions=64)
    images = pictures(9)
    phi = basis.phi(images)
    for n in (0, 4, 8):
        np.testing.assert_array_equal(phi[n], basis.phi([images[n]])[0])


def test_the_digest_is_of_the_file_and_the_options_not_of_the_path(saved):
    folder = saved(network())
    saved(network(), "copy.onnx")
    digests = [
        load_backbone(f"onnx:{spec}", base=folder).digest for spec in ("net.onnx", "copy.onnx", "net.onnx?bgr=1")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_weights_folder_is_searched_first(saved, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERLEARN_WEIGHTS", str(saved(network())))
    assert load_backbone("onnx:net.onnx", base=tmp_path / "elsewhere").dimensions == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(("N", 3)), "N x 3 x H x W"),
        (network(("N", 5, 16, 16)), "N x 3 x H x W"),
        (network(("N", 3, 16, 20)), "16x20"),
        (network(kind=TensorProto.UINT8), "floats|not an ONNX model"),
        (network(outputs=("maps",)), "no output of the graph is a vector"),
    ],
)
def test_graphs_that_do_not_fit(saved, model, message):
    with pytest.raises(BadInput, match=message):
        load_backbone("onnx:net.onnx", base=saved(model))


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 1000, b"\x08\x07" * 50])
def test_files_that_are_no_model(tmp_path, data):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(BadInput):
        load_backbone("onnx:net.onnx", base=tmp_path)


def test_weights_in_other_files_are_refused(saved):
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(BadInput):
        load_backbone("onnx:net.onnx", base=saved(model))


def test_weights_in_other_files_are_refused_in_branches_too(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret.bin")
    branches = [
        helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], weights)
        for node, weights in (
            (helper.make_node("Add", ["flat", "outside"], ["z"]), [outside]),
            (helper.make_node("Identity", ["flat"], ["z"]), []),
        )
    ]
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(
        helper.make_node("If", ["always"], ["out"], then_branch=branches[0], else_branch=branches[1])
    )
    model.graph.output[0].name = "out"
    with pytest.raises(BadInput, match="in other files"):
        load_backbone("onnx:net.onnx", base=saved(model))


@pytest.mark.parametrize(
    "query", ["colour=1", "size=0x10", "size=-5", "std=0", "mean=1,2", "mean=nan", "output=nothing"]
)
def test_options_that_cannot_be(saved, query):
    with pytest.raises(BadConfig, match="onnx:net"):
        load_backbone(f"onnx:net.onnx?{query}", base=saved(network()))


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(Missing, match="EVERLEARN_WEIGHTS"):
        load_backbone("onnx:net.onnx", base=tmp_path)
    with pytest.raises(NotInstalled, match="onnx:FILE"):
        load_backbone("yolo:door.pt")
    for spec in ("", "onnx:", "patchs", "onnx"):
        with pytest.raises(BadConfig, match="Choose patches"):
            load_backbone(spec)


def test_real_weights(shared):
    spec = "onnx:mobilenet_v2_1.0_224_float.onnx?mean=127.5&std=127.5&output=features1280&licence=Apache-2.0"
    backbone = load_backbone(spec, base=shared / "weights")
    assert (backbone.size, backbone.dimensions, backbone.licence) == (224, 1280, "Apache-2.0")
    basis = Basis(backbone, dimensions=256)
    images = pictures(3)
    np.testing.assert_array_equal(basis.phi(images)[1], basis.phi(images[1:2])[0])
