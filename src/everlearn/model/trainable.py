"""Networks that can be trained, by their spec.

    cnn                                        from scratch, on any machine
    cnn:depth=4,width=32,dropout=0.2,norm=batch,head=cosine
    timm:NAME   torchvision:NAME               with their pretrained weights; NAME?pretrained=no: from scratch
    onnx:FILE   keras:NAME   patches           a backbone that stays as it is; learned is a head on its features
    patches?hidden=256&dropout=0.2             the same with one hidden layer

Images come as (N, 3, S, S) in 0..1; what a network's weights expect of them (mean, deviation) is inside. A network over
a frozen backbone takes that backbone's features (N, D) instead: each image goes through the backbone once, not once in
every epoch (`Network.rows`).

Weights follow from the seed alone, whatever was drawn before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast
from urllib.parse import parse_qsl, urlencode

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from everlearn.errors import BadConfig, Corrupt, Missing
from everlearn.model import pixels
from everlearn.model.backbone import load_backbone, runs
from everlearn.model.cnn import NORMS, Cnn, Norm
from everlearn.model.graph import in_batches, threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from everlearn.model.backbone import GraphBackbone
    from everlearn.types import Image

Freeze = Literal["none", "backbone", "half"]

SCRATCH = "none: its weights are learned from your images alone"
_LIBRARIES = ("timm", "torchvision")
HEADS = ("linear", "cosine")
_MEAN, _STD = 0.5, 0.25  # of the pixels of images, about; for networks that begin from nothing
_SMALL = 0.01  # deviation of a new class's weights, times that of the old ones
_HELP = "Choose cnn, cnn:depth=4,width=32, timm:NAME, torchvision:NAME, or a backbone: onnx:FILE, keras:NAME, patches."


class Network(nn.Module):
    """A backbone, dropout, and a linear or cosine head.

    spec: as it was asked for. size: side of its images in px. fit: how an image becomes that square. licence: of the
    weights that it began with. frozen: the backbone whose features it takes, None where it takes images.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: str, backbone: nn.Module, head: nn.Module, *, size: int, licence: str, dropout: float = 0.0,
        scale: tuple[tuple[float, ...], tuple[float, ...]] = ((_MEAN,) * 3, (_STD,) * 3),
        frozen: GraphBackbone | None = None,
    ) -> None:  # fmt: skip
        """scale: mean and deviation of the three channels, in 0..1."""
        super().__init__()
        self.spec, self.size, self.licence, self.frozen = spec, size, licence, frozen
        self.fit = frozen.fit if frozen is not None else pixels.WHOLE
        self.backbone, self.head, self.drop = backbone, cast("Linear", head), nn.Dropout()
        self._still: tuple[nn.Module, ...] = ()
        if frozen is None:
            for name, values in zip(("mean", "std"), scale, strict=True):
                self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.set_dropout(dropout)

    @property
    def rows(self) -> bool:
        """Whether it takes a frozen backbone's features (N, D) instead of images."""
        return self.frozen is not None

    def prepared(self, images: Sequence[Image]) -> NDArray[Any]:
        """(N,) images of any size -> what it learns from: (N, S, S, 3) uint8; over a frozen backbone its features
        (N, D) float32. Raises BadInput for images that are none."""
        backbone = self.frozen
        if backbone is None:
            return pixels.prepare(images, self.size, self.fit)
        run = runs(backbone)

        def work(part: Sequence[Image]) -> NDArray[Any]:
            return cast("NDArray[Any]", run.run(None, {"images": backbone.prepare(part)})[0])

        parts = list(in_batches(work, images, backbone.batch, threads()))
        return np.concatenate(parts) if parts else np.zeros((0, backbone.dimensions), np.float32)

    @property
    def classes(self) -> int:
        """Columns of its answers."""
        return self.head.out_features

    @property
    def dimensions(self) -> int:
        """Width of its features."""
        return self.head.in_features

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in 0..1, or (N, D) rows -> (N, dimensions), what the head sees."""
        if not self.rows:
            images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.backbone(images)
        return found if found.ndim == 2 else found.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """-> logits (N, classes)."""
        return cast(Tensor, self.head(self.drop(self.features(images))))

    def set_dropout(self, rate: float) -> None:
        """Of the features, before the head."""
        if not 0 <= rate < 1:
            raise BadConfig(f"dropout is {rate}.", "Choose 0 or more, and below 1.")
        self.drop.p = rate

    def freeze(self, part: Freeze) -> None:
        """backbone: only the head learns; half: the first half of the backbone's layers stays; none: all learn.

        Frozen batch norms use the statistics that they have and keep them; a wholly frozen backbone always gives the
        same features for an image.
        """
        layers = [one for one in self.backbone.modules() if next(one.parameters(recurse=False), None) is not None]
        try:
            still = layers[: {"none": 0, "half": len(layers) // 2, "backbone": len(layers)}[part]]
        except KeyError:
            raise BadConfig(f"freeze is {part!r}.", "Choose none, backbone or half.") from None
        self.requires_grad_(True)
        for layer in still:
            for weight in layer.parameters(recurse=False):
                weight.requires_grad_(False)
        norms = tuple(one for one in still if isinstance(one, _BatchNorm))
        self._still = (self.backbone,) if part == "backbone" else norms
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for one in self._still:
            one.eval()
        return self

    @torch.no_grad()
    def grow(self, classes: int) -> None:
        """More columns: the old ones stay as they are bit for bit, the new ones are small. The optimizer must be made
        anew: the head's weights are other tensors."""
        old = self.head
        if classes < old.out_features:
            raise BadConfig(f"{old.out_features} classes cannot become {classes}.", "A network only grows.")
        if classes == old.out_features:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(classes)
            new = _head(type(old), old.in_features, classes).to(old.weight)
            new.weight.normal_(std=_SMALL * float(old.weight.std(correction=0)) or _SMALL)
        if isinstance(new, nn.Linear):
            new.bias.zero_()
        for name, value in new.named_parameters():
            before = old.get_parameter(name)
            value[: len(before)].copy_(before) if value.ndim else value.copy_(before)
        self.head = new.requires_grad_(old.weight.requires_grad)


class Cosine(nn.Module):
    """logits = scale x cosine of the features and each class's weights (Gidaris & Komodakis 2018, arXiv:1804.09458): no
    class is favoured for the length of its weights, which classes learned later would be. scale is learned."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / in_features**0.5)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * functional.linear(functional.normalize(features), functional.normalize(self.weight))


Linear = nn.Linear | Cosine


def _head(kind: type[nn.Module] | str, dimensions: int, classes: int) -> Linear:
    return Cosine(dimensions, classes) if kind in (Cosine, "cosine") else nn.Linear(dimensions, classes)


class Standard(nn.BatchNorm1d):
    """Rows (N, D) at mean 0 and deviation 1, column by column, without anything to learn: what a linear head on frozen
    features needs (He et al. 2022, arXiv:2111.06377, §A.1). A batch of one row is measured by what was seen before."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions, affine=False)

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1:
            return super().forward(rows)
        return functional.batch_norm(rows, self.running_mean, self.running_var, eps=self.eps)


def build(
    spec: str, *, classes: int, size: int = 64, seed: int = 0, dropout: float | None = None, base: Path | None = None
) -> Network:
    """The network that a spec names, ready to be trained; classes: columns of its answers, 1 for a number.

    size: side of its images in px; a frozen backbone has its own. dropout: None for the spec's own. base: the folder
    that a relative FILE is looked for in.

    Raises BadConfig for an unknown name, option, size or number of classes, Missing where weights cannot be had,
    BadInput for files that are none, NotInstalled where a library is needed.
    """
    return _build(spec, classes, size, seed, dropout, base, weights=True)


def from_stage_file(stage: Path | str | Mapping[str, Any], *, base: Path | None = None) -> Network:
    """The network of a stage file, or of what was read from one, with its weights, in evaluation mode.

    Nothing in the file is run. Raises Missing, Corrupt where it is none or its weights do not fit, and as `build`.
    """
    name = "The stage" if isinstance(stage, Mapping) else str(stage)
    found = stage if isinstance(stage, Mapping) else read_tensors(Path(stage), name)
    try:
        state, spec, size = dict(found["model_state_dict"]), str(found["network"]), int(found["size"])
        columns = max(1, len(found["classes"]))
        dropout = (found.get("stage_config") or {}).get("dropout")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"{name} is no stage of Everlearn: {error!r:.100}.", "Give a file that `train` wrote.") from None
    network = _build(spec, columns, size, 0, dropout, base, weights=False)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise Corrupt(f"{name} does not fit {spec}: {reason}", "Give a file that `train` wrote.") from None
    return network.eval()


def read_tensors(file: Path | BinaryIO, name: str) -> dict[str, Any]:
    """A torch file of plain values and tensors; nothing in it is run. Raises Missing, Corrupt."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Missing(f"{name} is not there.", "Give a stage file: model_updates/checkpoints/…/stage_1_….pt") from None
    except Exception as error:  # unpickling raises whatever the bytes make it raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise Corrupt(f"{name} cannot be read: {reason}", "Give a file that `train` wrote.") from None
    if not isinstance(found, dict):
        raise Corrupt(f"{name} holds no network.", "Give a file that `train` wrote.")
    return found


def _build(
    spec: str, classes: int, size: int, seed: int, dropout: float | None, base: Path | None, *, weights: bool
) -> Network:
    """weights: whether a library's pretrained ones are wanted; they would be overwritten where False."""
    if classes < 1:
        raise BadConfig(f"A network for {classes} classes.", "At least one; 1 for a number.")
    kind = spec.partition(":")[0].partition("?")[0]
    if kind in ("cnn", *_LIBRARIES) and not 8 <= size <= 1024:
        raise BadConfig(f"size is {size}.", "Choose 8 to 1024 pixels.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "cnn":
            network = _cnn(spec, classes, size)
        elif kind in _LIBRARIES:
            network = _library(spec, classes, size, weights)
        else:
            network = _frozen(spec, classes, base)
    if dropout is not None:
        network.set_dropout(dropout)
    return network


def _cnn(spec: str, classes: int, size: int) -> Network:
    given = _options(spec, spec.removeprefix("cnn").removeprefix(":"), ("depth", "width", "dropout", "norm", "head"))
    depth, width = _whole(spec, given, "depth", 4, 1, 8), _whole(spec, given, "width", 32, 4, 512)
    norm = _one_of(spec, given, "norm", NORMS)
    backbone = Cnn(depth, width, cast(Norm, norm), size)
    head = _head(_one_of(spec, given, "head", HEADS), backbone.dimensions, classes)
    network = Network(spec, backbone, head, size=size, licence=SCRATCH, dropout=_rate(spec, given, 0.2))
    return network.to(memory_format=torch.channels_last)  # a third faster on a CPU


def _library(spec: str, classes: int, size: int, weights: bool) -> Network:
    """A network of timm or torchvision, its classifier replaced by a head of ours."""
    from everlearn.model import library, networks_torch

    kind, _, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    own = ("weights",) if kind == "torchvision" else ()
    given = _options(spec, query, ("pretrained", "dropout", "head", *own), separator="&")
    wanted = _one_of(spec, given, "pretrained", ("yes", "no")) == "yes"
    options = {"size": str(size)}
    if not (wanted and weights):
        options["weights"] = "none"
    elif "weights" in given:
        options["weights"] = given["weights"]
    asked = dataclasses.replace(library.parsed(f"{kind}:{name}?{urlencode(options)}"), spec=spec)
    loader = networks_torch.load_timm if kind == "timm" else networks_torch.load_torchvision
    try:
        loaded = loader(asked)
        dimensions = _dimensions(loaded.module, size)
        if dimensions is None and kind == "timm":  # a transformer must be told its size
            loaded = networks_torch.load_timm(asked, img_size=size)
            dimensions = _dimensions(loaded.module, size)
    except Missing as error:
        raise Missing(error.message, f"{error.remedy} Or begin from nothing: {spec}?pretrained=no") from None
    if dimensions is None:
        raise BadConfig(f"{spec} cannot look at squares of {size} px.", "Choose the size that it was made for.")
    how, licence = loaded.preparation, loaded.licence
    scale = tuple(one / 255 for one in how.mean), tuple(one / 255 for one in how.std)
    head = _head(_one_of(spec, given, "head", HEADS), dimensions, classes)
    return Network(
        spec, loaded.module, head, size=size, dropout=_rate(spec, given, 0.0), scale=scale,
        licence=licence if wanted else f"{SCRATCH}; the architecture is of {kind}",
    ).to(memory_format=torch.channels_last)  # fmt: skip


@torch.no_grad()
def _dimensions(module: nn.Module, size: int) -> int | None:
    """Width of a network's features; None where it does not take squares of this size."""
    before = module.training
    try:
        return int(module.eval()(torch.zeros(1, 3, size, size)).flatten(1).shape[1])
    except (RuntimeError, AssertionError, ValueError):
        return None
    finally:
        module.train(before)


def _frozen(spec: str, classes: int, base: Path | None) -> Network:
    """A head, with a hidden layer before it where one is asked for, on a backbone's features."""
    name, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own: tuple[str, ...] = ("hidden", "dropout", "head")
    given = {key: options.pop(key) for key in own if key in options}
    try:
        backbone = load_backbone(name + (f"?{urlencode(options, safe=',')}" if options else ""), base=base)
    except BadConfig as error:
        if options:
            raise
        raise BadConfig(f"network is {spec!r}: {error.message}", _HELP) from None
    hidden = _whole(spec, given, "hidden", 0, 0, 65536)
    layers: list[nn.Module] = [Standard(backbone.dimensions)]
    if hidden:
        layers += [nn.Linear(backbone.dimensions, hidden), nn.ReLU()]
    head = _head(_one_of(spec, given, "head", HEADS), hidden or backbone.dimensions, classes)
    return Network(
        spec, nn.Sequential(*layers), head, size=backbone.size, licence=backbone.licence,
        dropout=_rate(spec, given, 0.0), frozen=backbone,
    )  # fmt: skip


def _options(spec: str, text: str, known: tuple[str, ...], separator: str = ",") -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        key, equals, value = part.partition("=")
        if key not in known or not equals or key in found:
            raise BadConfig(
                f"network {spec}: {part!r} is no option of it, or stands twice.", f"Known: {', '.join(known)}."
            )
        found[key] = value
    return found


def _whole(spec: str, given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    value = given.get(name, str(default))
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise BadConfig(f"network {spec}: {name} is {value!r}.", f"Choose {least} to {most}.")
    return int(value)


def _rate(spec: str, given: Mapping[str, str], default: float) -> float:
    try:
        rate = float(given.get("dropout", default))
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise BadConfig(f"network {spec}: dropout is {given['dropout']!r}.", "Choose 0 or more, and below 1.")
    return rate


def _one_of(spec: str, given: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    """The first is the default."""
    value = given.get(name, known[0])
    if value not in known:
        raise BadConfig(f"network {spec}: {name} is {value!r}.", f"Choose {' or '.join(known)}.")
    return value
