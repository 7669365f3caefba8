"""Networks of timm and torchvision, without their classifier, as ONNX. Imported only when one is converted."""

from __future__ import annotations

import difflib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from everlearn.errors import BadConfig, BadInput, NotInstalled
from everlearn.model.external import Preparation
from everlearn.model.library import OUTPUT, UNTRAINED, Asked, Network, digest_of, drawn, find_weights
from everlearn.model.pixels import FILTERS, Fit

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_OPSET = 18  # torch's exporter's own; another would be converted afterwards
_INCEPTION = {"transform_input": True, "init_weights": False}  # its weights want it, which a file cannot say


@dataclass(frozen=True, eq=False)
class Loaded:
    """A library's network without its classifier: (N, 3, size, size) float32 -> (N, D).

    licence: of its weights; path: the file that they came from, None where the library fetched or drew them.
    """

    module: Any
    architecture: str
    licence: str
    preparation: Preparation
    path: Path | None


def timm(asked: Asked) -> Network:
    """A network of timm (Wightman 2019, github.com/huggingface/pytorch-image-models)."""
    return _network(asked, load_timm(asked))


def torchvision(asked: Asked) -> Network:
    """A classifier of torchvision, up to the input of its last linear layer."""
    return _network(asked, load_torchvision(asked))


def load_timm(asked: Asked, **given: Any) -> Loaded:
    """given: options of the network's own, as `img_size` of transformers."""
    library = _library(asked, "timm")
    if not library.is_model(asked.name):
        raise _unknown(asked, library.list_models())
    names = [asked.name + ending for ending in ENDINGS]
    path = None if asked.untrained else find_weights(names)
    given["pretrained"] = not asked.untrained
    if path is not None:
        given["pretrained_cfg_overlay"] = {"state_dict": _tensors(path)}
    elif not asked.untrained:
        cfg = library.get_pretrained_cfg(asked.name)
        if cfg is None or not cfg.has_weights:
            raise asked.no_weights(names, "it offers none for this network.")
    try:
        network = library.create_model(asked.name, **given)  # whole: without its classifier gaps would go unnoticed
        network.reset_classifier(0)
    except (OSError, RuntimeError) as error:
        raise _unfit(path, asked, error) if path else asked.no_weights(names, error) from None
    says = library.data.resolve_model_data_config(network)
    channels, height, width = says["input_size"]
    if channels != 3 or height != width:
        raise BadInput(f"{asked.spec} takes {channels} x {height} x {width} pixels.", "Only colour squares are taken.")
    size = asked.size or height
    crop = int(size / says["crop_pct"]) if says["crop_mode"] == "center" else None
    licence = network.pretrained_cfg.get("license") or "not stated by timm"
    architecture = network.pretrained_cfg.get("architecture") or asked.name.partition(".")[0]
    how = _preparation(size, says["mean"], says["std"], says["interpolation"], crop)
    return Loaded(network, architecture, licence, how, path)


def load_torchvision(asked: Asked) -> Loaded:
    _library(asked, "torchvision")
    from torchvision import models

    if asked.name not in (there := models.list_models(module=models)):
        raise _unknown(asked, there)
    table = models.get_model_weights(asked.name)
    wanted = asked.options.get("weights")
    if not (asked.untrained or wanted is None or wanted in table.__members__):
        raise BadConfig(f"backbone {asked.spec}: no weights {wanted}.", f"Known: {', '.join(table.__members__)}, none.")
    weights = table.DEFAULT if wanted is None or asked.untrained else table[wanted]  # type: ignore[index]
    names = [weights.url.rpartition("/")[2]]
    names += [asked.name + ending for ending in ENDINGS] if wanted is None else []
    path = None if asked.untrained else find_weights(names)
    extra = _INCEPTION if asked.name in ("googlenet", "inception_v3") and (path or asked.untrained) else {}
    try:
        network = models.get_model(asked.name, weights=None if path or asked.untrained else weights, **extra)
    except (OSError, RuntimeError) as error:
        raise asked.no_weights(names, error) from None
    if path:
        try:
            network.load_state_dict(_tensors(path))
        except RuntimeError as error:
            raise _unfit(path, asked, error) from None
    _behead(asked, network)
    says = weights.transforms()
    size = asked.size or says.crop_size[0]
    crop = round(size * says.resize_size[0] / says.crop_size[0])
    stated = weights.meta.get("license", "not stated by torchvision, whose code is BSD-3-Clause")
    how = _preparation(size, says.mean, says.std, says.interpolation.value, crop)
    return Loaded(network, asked.name, stated, how, path)


def _library(asked: Asked, name: str) -> Any:
    try:
        __import__("onnxscript")  # what torch writes ONNX with
        return __import__(name)
    except ImportError as error:
        raise NotInstalled(
            f"backbone {asked.spec} needs {error.name}, which is not installed.", "pip install 'everlearn[train]'"
        ) from None


def _unknown(asked: Asked, names: Sequence[str]) -> BadConfig:
    near = difflib.get_close_matches(asked.name.partition(".")[0], names, 3)
    return BadConfig(
        f"backbone {asked.spec}: {asked.kind} has no network {asked.name}.",
        f"Near: {', '.join(near)}." if near else f"See the list of {asked.kind}'s networks.",
    )


def _unfit(path: Path, asked: Asked, error: BaseException) -> BadInput:
    reason = " ".join(str(error).split())[:200]
    return BadInput(f"{path} does not fit {asked.spec}: {reason}", "Give the weights of this network.")


def _tensors(path: Path) -> dict[str, Any]:
    """A state by name, from safetensors or a torch file of tensors alone: nothing in it is run. Raises BadInput."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):  # as training scripts write it
            found = found.get(wrapper, found)
        if not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise ValueError("it holds other things than tensors")
        return found
    except Exception as error:  # unpickling and safetensors raise whatever the bytes make them raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise BadInput(f"{path} is no file of tensors: {reason}", "Save it as .safetensors.") from None


def _behead(asked: Asked, network: Any) -> None:
    """Let the input of the last linear layer be the answer."""
    import torch

    linear = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    if not linear:
        raise BadInput(f"{asked.spec} has no linear classifier to leave out.", "Export it yourself: onnx:FILE")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, torch.nn.Identity())


def _preparation(size: int, mean: Sequence[float], std: Sequence[float], filter: str, crop: int | None) -> Preparation:
    """The library's figures, on pixels of 0-255; rounded, so that their float noise is in no digest."""

    def pixels(shares: Sequence[float]) -> tuple[float, ...]:
        return tuple(round(255 * float(one), 6) for one in shares)

    return Preparation(size, pixels(mean), pixels(std), fit=Fit(filter if filter in FILTERS else "bicubic", crop))


def _network(asked: Asked, loaded: Loaded) -> Network:
    network, licence = loaded.module.eval().requires_grad_(False), loaded.licence
    if asked.untrained:
        _draw(network)
        licence = UNTRAINED
    elif loaded.path is not None:
        licence += f" (from {loaded.path.name}; as the library states for its own)"
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights = digest_of(value.cpu().numpy() for value in state.values())
    how = loaded.preparation
    return Network(_onnx(asked, network, how.size), loaded.architecture, weights, licence, how)


def _draw(network: Any) -> None:
    """Random weights in place, the same on every machine."""
    import torch

    generator = np.random.default_rng(0)
    for name, value in network.named_parameters():
        if value.ndim > 1:
            value.copy_(torch.from_numpy(drawn(tuple(value.shape), value[0].numel(), generator)))
        elif name.endswith("bias"):
            value.zero_()


def _onnx(asked: Asked, network: Any, size: int) -> onnx.ModelProto:
    """images (N, 3, size, size) float32 -> features (N, D)."""
    import torch

    return converted(network, torch.zeros(2, 3, size, size), OUTPUT, f"{asked.spec} at {size} px")


def converted(network: Any, example: Any, output: str, name: str) -> onnx.ModelProto:
    """A torch module in evaluation mode as a graph: images, like `example` and of any number, -> `output`.

    Raises BadInput where it cannot be converted.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder, "network.onnx")
        try:
            torch.onnx.export(
                network, (example,), path, dynamo=True, opset_version=_OPSET, verbose=False,
                input_names=["images"], output_names=[output], dynamic_shapes=({0: torch.export.Dim("N")},),
                external_data=False,
            )  # fmt: skip
        except Exception as error:  # what the exporter raises, whatever stood in its way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise BadInput(f"{name} cannot be converted to ONNX: {reason}", _HELP) from None
        return without_notes(onnx.load(path))


_HELP = "Choose another size, or export it yourself: onnx:FILE"


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's remarks on each node, among them names of folders on this machine."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter talks of itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
