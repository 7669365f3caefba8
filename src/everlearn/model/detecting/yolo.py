"""`yolo`: Ultralytics YOLO, from an architecture or from weights. The only file that imports ultralytics (AGPL-3.0).

    YoloDetector.build("yolo11n.yaml", classes)    from nothing
    YoloDetector.open(path)                        weights of ours, or a stranger's .pt, read without running it
    YoloDetector.grown(classes)                    the same for other classes; known ones keep what was learned
    train(job, watch)                              a training that goes on where it was killed
    YoloDetector.graph()                           as ONNX, for `model.detecting.onnx`

Ultralytics' own trainer is used for data, augmentation, losses, metrics and pictures; the loop over the epochs is ours
(`course`), so that each epoch follows from the seed and its number alone, and a training that was killed goes on at the
last whole epoch as if nothing had happened.
"""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from everlearn.errors import BadConfig, BadInput, Missing
from everlearn.model.detecting import labels, quiet, weights
from everlearn.model.detecting.detector import LEAST, OVERLAP
from everlearn.model.detecting.outputs import Outputs
from everlearn.model.detecting.placing import Placed, checked, letterbox
from everlearn.model.detecting.training import (
    LICENCE,
    SPEC,
    UNWATCHED,
    DetectionJob,
    DetectionWatch,
    TrainedDetector,
)
from everlearn.model.detecting.weights import Weights
from everlearn.text import read_yaml

with quiet.importing():
    import ultralytics
    from ultralytics.data.dataset import YOLODataset as YOLODataset
    from ultralytics.models.yolo.detect import DetectionTrainer as DetectionTrainer
    from ultralytics.models.yolo.detect import DetectionValidator as DetectionValidator
    from ultralytics.nn import modules, tasks
    from ultralytics.utils import DEFAULT_CFG_DICT
    from ultralytics.utils.loss import E2ELoss as E2ELoss
    from ultralytics.utils.loss import v8DetectionLoss as v8DetectionLoss
    from ultralytics.utils.torch_utils import autocast as autocast

if TYPE_CHECKING:
    import onnx

    from everlearn.types import Box, Image

_OTHERS = re.compile(r"seg|cls|pose|obb|world|yoloe|depth|sem|rtdetr")  # architectures for other tasks
_AT_ONCE = 16  # images in one pass
_LAYERS = frozenset(
    name for name, one in vars(modules).items()
    if isinstance(one, type) and issubclass(one, nn.Module) and name not in ("TorchVision", "AIFI")
) | {"nn.Upsample", "nn.Identity", "nn.Conv2d", "nn.ConvTranspose2d", "nn.MaxPool2d", "nn.ZeroPad2d"}  # fmt: skip


class YoloDetector:
    """`model.detecting.detector.Detector`, and what its training begins with. network: in evaluation mode."""

    def __init__(self, network: Any, kept: Weights, spec: str) -> None:
        """kept: what the network was made from; its state may be empty."""
        self.network, self.kept, self.spec = network.eval(), kept, spec
        self._fused: Any = None

    @classmethod
    def build(cls, spec: str = SPEC, classes: Sequence[str] = ("object",), *, size: int = 640, seed: int = 0,
              base: Path | None = None) -> YoloDetector:  # fmt: skip
        """From an architecture's name (yolo11n.yaml, yolov8s.yaml, yolo26n.yaml, …) or file, with random weights that
        follow from the seed alone. Raises BadInput, Missing."""
        found = architecture(spec, base)
        network = _network(found, classes, seed=seed)
        name = Path(spec).name
        kept = Weights(name, network.yaml, tuple(classes), size, {}, LICENCE, ultralytics.__version__, {})
        return cls(network, kept, f"yolo:{name}")

    @classmethod
    def open(cls, source: Path | bytes, *, download: bool = False) -> YoloDetector:
        """From weights of ours or of Ultralytics; its own (yolo11n.pt) are also looked for in EVERLEARN_WEIGHTS, and
        fetched where `download` allows it. Raises Missing, Corrupt, BadInput."""
        if isinstance(source, Path):
            source = weights.located(source, download=download)
        kept = weights.load(source)
        name = "The weights" if isinstance(source, bytes) else str(source)
        network = _network(weights.checked(kept.yaml, _LAYERS, name), kept.classes, width=_width(kept.state))
        try:
            network.load_state_dict(dict(kept.state))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise BadInput(f"{name} does not fit its architecture: {reason}", "Give unfused weights.") from None
        return cls(network, kept, kept.spec if isinstance(source, bytes) else f"yolo:{source}")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.kept.classes

    @property
    def licence(self) -> str:
        return self.kept.licence

    @property
    def size(self) -> int:
        return self.kept.size

    @property
    def stride(self) -> int:
        """The size is a multiple of it."""
        return max(32, int(self.network.stride.max()))

    def weights(self, *, size: int | None = None, facts: Mapping[str, Any] | None = None) -> Weights:
        """As they are kept in a file of ours: see `weights.save`."""
        kept = self.kept
        return Weights(
            kept.spec, self.network.yaml, kept.classes, size or kept.size,
            {name: one.detach().cpu().clone() for name, one in self.network.state_dict().items()}, kept.licence,
            ultralytics.__version__, kept.facts if facts is None else facts,
        )  # fmt: skip

    def grown(self, classes: Sequence[str], *, seed: int = 0) -> YoloDetector:
        """The same detector for other classes: those that it knows, by name, keep their rows of the head, new ones get
        fresh ones, others go; all else stays. What it says of the classes that it knew is bit for bit the same."""
        old = self.network.state_dict()
        network = _network(self.kept.yaml, classes, width=_width(old), seed=seed)
        network.load_state_dict(
            weights.carried(old, self.classes, network.state_dict(), classes, _heads(network))
        )  # fmt: skip
        kept = self.kept
        made = Weights(kept.spec, network.yaml, tuple(classes), kept.size, {}, kept.licence, kept.version, kept.facts)
        return YoloDetector(network, made, self.spec)

    @torch.inference_mode()
    def detect(
        self, images: Sequence[Image], *, least: float = LEAST, overlap: float = OVERLAP
    ) -> list[list[Box]]:  # fmt: skip
        """For each image its boxes with confidence, the surest first, in shares of its sides, at most MOST."""
        how = Outputs("yolo", self.classes, (self.size, self.size))
        found = []
        for start in range(0, len(images), _AT_ONCE):
            part = [checked(image) for image in images[start : start + _AT_ONCE]]
            raw = self.raw(part).numpy()
            for image, one in zip(part, raw, strict=True):
                found.append(how.boxes(how.candidates([one], least), Placed.of(image, how.size, how.fit), overlap))
        return found

    @torch.inference_mode()
    def raw(self, images: Sequence[Image]) -> Tensor:
        """What the network says: (N, 4 + C, A): x, y of the middle, width and height in px of its square, and a score
        for each class, of each of its anchors."""
        how = Outputs("yolo", self.classes, (self.size, self.size))
        x = torch.from_numpy(how.input([letterbox(one, how.size, how.fit, how.pad) for one in images], np.float32))
        if self._fused is None:
            self._fused = copy.deepcopy(self.network).fuse(verbose=False)
        said = self._fused(x.to(next(self._fused.parameters()).device))
        return cast(Tensor, said[0] if isinstance(said, tuple) else said).float().cpu()

    def graph(self) -> onnx.ModelProto:
        """As a graph: `images` (N, 3, S, S) float32 RGB in 0..1 -> `outputs`, as `raw` gives them. Raises BadInput."""
        from everlearn.model.networks_torch import converted

        network = copy.deepcopy(self.network).cpu().float().fuse(verbose=False)
        head = network.model[-1]
        head.export, head.format, head.dynamic = True, "onnx", False
        example = torch.zeros(2, 3, self.size, self.size)
        with torch.no_grad():
            network(example[:1])  # so that the anchors are constants of the graph
        return converted(network.eval(), example, "outputs", self.kept.spec)


def architecture(spec: str, base: Path | None = None) -> dict[str, Any]:
    """The layers that a name or a file (below base) describes. Raises BadInput, Missing."""
    own = (base or Path()) / spec
    name = Path(spec).name
    scale = re.search(r"yolo(e-)?[v]?\d+([nslmxtbce])", Path(name).stem)
    shared = re.sub(r"(\d+)([nslmx])(?=[.-])", r"\1", name)  # yolo11n.yaml is yolo11.yaml, made as small as n
    there = Path(ultralytics.__file__).parent / "cfg" / "models"
    known = {one.name: one for one in there.rglob("yolo*.yaml") if not _OTHERS.search(one.name)}
    path = own if own.is_file() else known.get(name) or known.get(shared)
    if path is None:
        near = difflib.get_close_matches(shared, known, 3, 0.4)
        raise Missing(f"There is no architecture {spec}.", f"Near: {', '.join(near or sorted(known)[:8])}.")
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {str(error)[:120]}", "Give an architecture of Ultralytics.") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} describes no network.", "Give an architecture of Ultralytics.")
    scales = found.get("scales")
    if isinstance(scales, dict) and scales:
        wanted = scale.group(2) if scale else ""
        found["scale"] = wanted if wanted in scales else next(iter(scales))
    return weights.checked(found, _LAYERS, spec)


def _network(layers: Mapping[str, Any], classes: Sequence[str], *, width: int | None = None, seed: int = 0) -> Any:
    """The network for these classes. width: channels of its class branch where they are not what follows from the
    number of classes, since weights were carried over."""
    made = copy.deepcopy(dict(layers))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            network = tasks.DetectionModel(made, ch=3, nc=len(classes), verbose=False)
            if width is not None and width != _width(network.state_dict()):
                network = _widened(copy.deepcopy(dict(layers)), width, len(classes))
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:120]
            raise BadInput(f"The architecture cannot be built: {reason}", "Give one of Ultralytics.") from None
    network.names = dict(enumerate(classes))
    network.yaml["nc"] = network.nc = len(classes)
    if network.end2end:
        network.end2end = False  # boxes of all anchors, as of the other generations; suppressed afterwards
    return network.eval()


def _widened(layers: dict[str, Any], width: int, classes: int) -> Any:
    """A head whose class branch is as wide as one for `width` classes."""
    network = tasks.DetectionModel(layers, ch=3, nc=width, verbose=False)
    head = network.model[-1]
    for branch in _branches(head):
        for level in branch:
            level[-1] = nn.Conv2d(level[-1].in_channels, classes, 1)
    head.nc, head.no = classes, classes + 4 * head.reg_max
    head.bias_init()
    return network


def _branches(head: Any) -> list[Any]:
    return [one for name in ("cv3", "one2one_cv3") if (one := getattr(head, name, None)) is not None]


def _heads(network: Any) -> list[str]:
    """Prefixes of the layers whose rows are classes."""
    place, head = len(network.model) - 1, network.model[-1]
    names = [name for name in ("cv3", "one2one_cv3") if getattr(head, name, None) is not None]
    return [
        f"model.{place}.{name}.{level}.{len(one) - 1}."
        for name in names
        for level, one in enumerate(getattr(head, name))
    ]


def _width(state: Mapping[str, Tensor]) -> int | None:
    """Channels of the class branch, as weights show them."""
    found = [one for name, one in state.items() if re.fullmatch(r"model\.\d+\.cv3\.0\.2\.weight", name)]
    return int(found[0].shape[1]) if found else None


# --- training -------------------------------------------------------------------------------------------------------

_OPEN = frozenset({
    "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box", "cls", "cls_pw",
    "dfl", "nbs", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud",
    "fliplr", "bgr", "mosaic", "mixup", "cutmix", "close_mosaic", "cos_lr", "freeze", "multi_scale", "amp",
    "deterministic", "max_det", "iou", "channels_last",
})  # fmt: skip
"""Of Ultralytics' settings those that a job may set; the others it names itself, or they are for other tasks."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises BadConfig for a name that Ultralytics does not have, or that is not open here."""
    for name in settings:
        if name not in _OPEN:
            near = difflib.get_close_matches(name, _OPEN, 3, 0.5)
            known = "is decided elsewhere" if name in DEFAULT_CFG_DICT else "is no setting of Ultralytics"
            raise BadConfig(
                f"{name} {known}.", f"Near: {', '.join(near)}." if near else f"Known: {', '.join(sorted(_OPEN))}."
            )


def defaults() -> dict[str, Any]:
    """What a job's settings are where nobody sets them, by name."""
    own = {one.name: one.default for one in fields(DetectionJob) if one.name in ("lr0", "optimizer", "distil")}
    return {**{name: DEFAULT_CFG_DICT[name] for name in sorted(_OPEN) if name in DEFAULT_CFG_DICT}, **own}


_FEW = 3000
"""Steps below which a training is short: Ultralytics' strong augmentation is made for ten times as many."""


def overrides(job: DetectionJob) -> dict[str, Any]:
    """A job as Ultralytics' settings. Where it does not say: each batch is a step (`nbs`), biases begin at no higher
    rate under Adam; a short training has no mosaics and changes sizes by a fifth only, a longer one has mosaics until
    the last tenth of its epochs. Raises BadConfig, and as `labels.read_data`."""
    check_settings(job.settings)
    folder = Path(job.folder).resolve()
    images = len(labels.images_in(labels.read_data(Path(job.data), job.classes).train))
    own: dict[str, Any] = {"nbs": job.batch, "close_mosaic": max(1, job.epochs // 10)}
    if "adam" in job.optimizer.lower():
        own["warmup_bias_lr"] = 0.0  # Ultralytics' 0.1 is meant for SGD
    if images * job.epochs < _FEW * job.batch:
        own |= {"mosaic": 0.0, "scale": 0.2}
    return {
        **own, **job.settings, "amp": False, "task": "detect", "mode": "train", "model": SPEC, "data": job.data,
        "imgsz": job.size, "epochs": job.epochs, "batch": job.batch, "patience": job.patience, "seed": job.seed,
        "optimizer": job.optimizer, "lr0": job.lr0, "workers": job.workers, "device": job.device or None,
        "plots": job.plots, "project": str(folder.parent), "name": folder.name, "exist_ok": True, "verbose": False,
    }  # fmt: skip


def begun(job: DetectionJob, base: Path | None = None) -> YoloDetector:
    """The detector that a job begins with."""
    if job.begin is not None:
        return YoloDetector.open(Path(job.begin)).grown(job.classes, seed=job.seed)
    if job.spec.endswith((".yaml", ".yml")):
        return YoloDetector.build(job.spec, job.classes, size=job.size, seed=job.seed, base=base)
    return YoloDetector.open((base or Path()) / job.spec, download=job.download).grown(job.classes, seed=job.seed)


def train(job: DetectionJob, watch: DetectionWatch = UNWATCHED, *, base: Path | None = None) -> TrainedDetector:
    """Train by a job, or go on with it where it was killed; one that is done is not done again.

    base: the folder that a relative `spec` is looked for in. Raises BadConfig, BadInput, Missing.
    """
    from everlearn.model.detecting.course import Course, done

    before = done(job)
    if before is not None:
        return before
    teacher = None if job.teacher is None else YoloDetector.open(Path(job.teacher))
    with quiet.own_draws():
        try:
            course = Course(job, begun(job, base), teacher, watch, overrides(job))
        except (TypeError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())[:160]
            raise BadConfig(f"Ultralytics does not take these settings: {reason}", "Correct them.") from None
        course.train()
    return course.result
