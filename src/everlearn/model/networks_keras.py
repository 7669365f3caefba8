"""Networks of Keras Applications, without their classifier, as ONNX. Imported only when one is converted."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from everlearn.errors import BadConfig, BadInput, NotInstalled
from everlearn.model.external import Preparation
from everlearn.model.library import OUTPUT, UNTRAINED, Asked, Network, digest_of, drawn, find_weights

ENDINGS = (".weights.h5", ".keras", ".h5")
_PROBE = 100.0  # a pixel's value


@dataclass(frozen=True, eq=False)
class Loaded:
    """A Keras network with global average pooling: (N, size, size, 3) float32 -> (N, D)."""

    module: Any
    architecture: str
    licence: str
    preparation: Preparation


def keras(asked: Asked) -> Network:
    """A network of Keras Applications with global average pooling."""
    loaded = load_keras(asked)
    digest = digest_of(np.asarray(one) for one in loaded.module.get_weights())
    graph = _onnx(asked, loaded.module)
    return Network(graph, loaded.architecture, digest, loaded.licence, loaded.preparation)


def load_keras(asked: Asked) -> Loaded:
    """The network itself. Raises as `library.load_network`."""
    library = keras_itself(f"backbone {asked.spec}")
    builders = {name: one for name, one in vars(library.applications).items() if name[:1].isupper() and callable(one)}
    if asked.name not in builders:
        near = difflib.get_close_matches(asked.name, builders, 3)
        known = f"Near: {', '.join(near)}." if near else "See keras.io/api/applications."
        raise BadConfig(f"backbone {asked.spec}: Keras has no network {asked.name}.", known)
    if asked.options.get("weights", "imagenet") not in ("imagenet", "none"):
        raise BadConfig(f"backbone {asked.spec}: no such weights.", "Choose weights=imagenet or weights=none.")
    builder = builders[asked.name]
    width = _width(asked)
    size = asked.size or _own_size(asked, builder, width)
    names = [asked.name + ending for ending in ENDINGS]
    path = None if asked.untrained else find_weights(names)
    weights = None if path or asked.untrained else "imagenet"
    try:
        network = builder(include_top=False, pooling="avg", weights=weights, input_shape=(size, size, 3), **width)
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if type(error) is Exception or isinstance(error, OSError):
            raise asked.no_weights(names, error) from None
        raise _refused(asked, error) from None
    if path:
        try:
            network.load_weights(path)
        except Exception as error:  # h5py and Keras raise whatever the file makes them raise
            reason = " ".join(str(error).split())[:200]
            raise BadInput(f"{path} does not fit {asked.spec}: {reason}", "Give its weights without the top.") from None
    licence = "not stated by Keras, whose code is Apache-2.0"
    if asked.untrained:
        _draw(network)
        licence = UNTRAINED
    elif path:
        licence += f" (from {path.name})"
    how = _preparation(size, sys.modules[builder.__module__].preprocess_input)
    architecture = asked.name + "".join(f" {key} {value}" for key, value in width.items())
    return Loaded(network, architecture, licence, how)


def keras_itself(what: str) -> Any:
    """The library. what: needs it. Raises NotInstalled."""
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ and importlib.util.find_spec("torch"):
        os.environ["KERAS_BACKEND"] = "torch"  # which is there; Keras would look for TensorFlow
    try:
        __import__("onnxscript")
        return __import__("keras")
    except ImportError as error:
        raise NotInstalled(
            f"{what} needs {error.name}, which is not installed.", "pip install 'everlearn[keras]'"
        ) from None


def _width(asked: Asked) -> dict[str, float]:
    try:
        return {"alpha": float(asked.options["alpha"])} if "alpha" in asked.options else {}
    except ValueError:
        raise BadConfig(f"backbone {asked.spec}: alpha is no number.", "Example: alpha=0.5") from None


def _own_size(asked: Asked, builder: Any, width: dict[str, float]) -> int:
    """The side that a network's classifier was made for."""
    try:
        return int(builder(weights=None, **width).input_shape[1])
    except Exception as error:
        raise _refused(asked, error) from None


def _refused(asked: Asked, error: Exception) -> BadInput:
    reason = " ".join(str(error).split())[:200]
    return BadInput(f"{asked.spec} cannot be made: {reason}", "Try another size, or leave alpha out.")


def _preparation(size: int, preprocess: Any) -> Preparation:
    """A network's own preprocessing is x = (pixel - mean) / std, some with the channels turned round: it is asked."""
    black = _asked(preprocess, 0, 0, 0)
    bgr = bool(_asked(preprocess, _PROBE, 0, 0)[0] == black[0])
    slope = (_asked(preprocess, _PROBE, _PROBE, _PROBE) - black) / _PROBE

    def rounded(values: Any) -> tuple[float, ...]:
        """In the order of RGB, where they are in the network's own; + 0.0 makes -0.0 a 0.0."""
        return tuple(round(float(one), 4) + 0.0 for one in (values[::-1] if bgr else values))

    return Preparation(size, rounded(-black / slope), rounded(1 / slope), bgr=bgr)


def _asked(preprocess: Any, *pixel: float) -> Any:
    return np.asarray(preprocess(np.array(pixel, np.float32).reshape(1, 1, 1, 3)), np.float64).ravel()


def _draw(network: Any) -> None:
    """Random weights in place, the same on every machine."""
    generator = np.random.default_rng(0)
    for one in network.weights:
        if len(one.shape) > 1:
            shape = tuple(one.shape)
            outputs = shape[-1] if shape[-1] > 1 else shape[-2]  # of a depthwise kernel the inputs are the outputs
            one.assign(drawn(shape, int(np.prod(shape)) // outputs, generator))


def _onnx(asked: Asked, network: Any) -> onnx.ModelProto:
    """images (N, size, size, 3) float32 -> features (N, D)."""
    from everlearn.model.networks_torch import quiet, without_notes

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder, "network.onnx")
        try:
            network(np.zeros((1, *network.input_shape[1:]), np.float32))  # the exporter wants it called once
            network.export(path, format="onnx", verbose=False)
            model = without_notes(onnx.load(path))
        except Exception as error:  # of Keras, its backend or the exporter
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise BadInput(
                f"{asked.spec} cannot be converted to ONNX: {reason}", "With KERAS_BACKEND=torch it can."
            ) from None
    (answer,) = model.graph.output
    model.graph.node.append(onnx.helper.make_node("Identity", [answer.name], [OUTPUT]))
    answer.name = OUTPUT
    return model
