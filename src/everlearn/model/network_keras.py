"""A trained network as a Keras model in one .h5 file: pixels of 0-255 in, the bundle's own answers out.

`cnn` networks are built again of Keras' layers, with their weights; over a `keras:` backbone the head is put on Keras'
own network. Both are checked against torch before anything is written. Needs Keras, whose backend may be torch.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from everlearn.errors import BadInput, Corrupt
from everlearn.model import bundle, networks_keras
from everlearn.model.cnn import Block, Cnn
from everlearn.model.library import parsed
from everlearn.model.network_bundle import judging, probes
from everlearn.model.trainable import Cosine, Standard

if TYPE_CHECKING:
    from everlearn.model.network_bundle import Trained

FACTS = "everlearn"
"""The file's attribute that says, as JSON, what its columns are and how an image is prepared."""


def export_h5(trained: Trained, path: Path, *, card: Mapping[str, Any] | None = None) -> None:
    """Write the network as a Keras model, whole or not at all.

    Raises BadInput for networks that have no equal in Keras, NotInstalled without Keras, Corrupt where Keras and torch
    disagree, StoreFault.
    """
    network, keras = trained.network, networks_keras.keras_itself("The .h5 format")
    if not isinstance(network.backbone, Cnn) and not network.spec.startswith("keras:"):
        raise BadInput(
            f"{network.spec} has no equal in Keras.", "Only cnn and keras: networks do; export it as onnx or pt."
        )
    with judging(network), torch.no_grad():
        model = _model(keras, trained)
    _check(model, trained)
    facts = bundle.facts(
        task=trained.task, classes=trained.classes, squares=[(network.size, network.fit)], batch=1,
        backbone=network.spec, basis_digest="", licence=network.licence, card=card or {},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras would rather write .keras
        file = Path(folder, "network.h5")
        model.save(file)
        import h5py

        with h5py.File(file, "a") as opened:
            opened.attrs[FACTS] = json.dumps(facts)
        bundle.write(Path(path), file.read_bytes())


def _check(model: Any, trained: Trained) -> None:
    network = trained.network
    images = probes(network)
    pixels = network.prepared(images) if network.frozen is None else network.frozen.prepare(images)
    found = model.predict(pixels.astype(np.float32), verbose=0)
    worst = float(np.abs(found - trained.table(images)).max())
    if trained.scale is not None:
        worst /= trained.scale.high - trained.scale.low
    if not worst <= bundle.TOLERANCE:
        raise Corrupt(f"The Keras network differs from torch by {worst:.2g}.", "Report this.")


def _model(keras: Any, trained: Trained) -> Any:
    network, layers = trained.network, keras.layers
    images = keras.Input((network.size, network.size, 3), name="images")
    if network.frozen is None:
        mean, std = (255 * one.flatten().numpy() for one in (network.mean, network.std))
        x = _emit(layers, network.backbone.get_submodule("layers"), _scaled(layers, images, mean, std))
        x = layers.GlobalAveragePooling2D()(x)
    else:
        loaded = networks_keras.load_keras(parsed(network.frozen.spec))
        how = loaded.preparation
        mean, std = np.array(how.mean), np.array(how.std)
        x = loaded.module(_scaled(layers, images, mean, std, bgr=how.bgr))
        x = _emit(layers, network.backbone, x)
    return keras.Model(images, _answers(layers, trained, x))


def _scaled(layers: Any, images: Any, mean: Any, std: Any, *, bgr: bool = False) -> Any:
    """x = (pixel - mean) / std, then the channels turned round where the network wants it: one 1 x 1 convolution, so
    that nobody can forget it."""
    scale, turn = np.diag(1 / std), np.eye(3)[::-1] if bgr else np.eye(3)
    layer = layers.Conv2D(3, 1, name="preprocessing", trainable=False)
    return _set(layer, images, [(scale @ turn).reshape(1, 1, 3, 3), (-mean / std) @ turn])


def _set(layer: Any, x: Any, weights: list[Any]) -> Any:
    found = layer(x)
    layer.set_weights([np.asarray(one, np.float32) for one in weights])
    return found


def _emit(layers: Any, module: nn.Module, x: Any) -> Any:
    """One torch module as Keras' layers, channels last."""
    if isinstance(module, nn.Sequential):
        for one in module:
            x = _emit(layers, one, x)
        return x
    if isinstance(module, Block):
        return layers.ReLU()(layers.Add()([_emit(layers, module.way, x), _emit(layers, module.short, x)]))
    if isinstance(module, nn.Conv2d):
        edge = int(module.padding[0])
        x = layers.ZeroPadding2D(edge)(x) if edge else x  # "same" would pad one side alone under a stride
        layer = layers.Conv2D(
            module.out_channels, module.kernel_size, strides=module.stride, use_bias=module.bias is not None
        )
        return _set(layer, x, [module.weight.permute(2, 3, 1, 0), *([] if module.bias is None else [module.bias])])
    if isinstance(module, nn.BatchNorm2d | Standard):
        layer = layers.BatchNormalization(epsilon=module.eps, center=module.affine, scale=module.affine)
        learned = [module.weight, module.bias] if module.affine else []
        return _set(layer, x, [*learned, module.running_mean, module.running_var])
    if isinstance(module, nn.GroupNorm):
        return _set(layers.GroupNormalization(module.num_groups, epsilon=module.eps), x, [module.weight, module.bias])
    if isinstance(module, nn.AvgPool2d):
        return layers.AveragePooling2D(2, padding="same")(x)  # a last odd row is averaged with itself, as torch does
    if isinstance(module, nn.Linear):
        return _set(layers.Dense(module.out_features), x, [module.weight.T, module.bias])
    return layers.ReLU()(x) if isinstance(module, nn.ReLU) else x


def _answers(layers: Any, trained: Trained, x: Any) -> Any:
    head, scale = trained.network.head, trained.scale
    if isinstance(head, Cosine):
        x = layers.UnitNormalization()(x)
        kernel: Tensor = head.scale * functional.normalize(head.weight)
        bias = torch.zeros(len(kernel))
    else:
        kernel, bias = head.weight, head.bias
    x = _set(layers.Dense(len(kernel)), x, [kernel.T / trained.temperature, bias / trained.temperature])
    if scale is None:
        return layers.Activation("sigmoid" if trained.several else "softmax", name=bundle.PROBABILITIES)(x)
    x = layers.Rescaling(scale.deviation, scale.mean - scale.low)(x)
    x = layers.ReLU(max_value=scale.high - scale.low)(x)
    return layers.Rescaling(1.0, scale.low, name=bundle.VALUE)(x)
