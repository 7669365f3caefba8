"""`timm:NAME`, `torchvision:NAME`, `keras:NAME`: a library's network, turned into one ONNX graph once for all.

    timm:resnet18.a1_in1k        torchvision:resnet18?weights=IMAGENET1K_V1        keras:MobileNetV2?alpha=0.5&size=160

The network gives its pooled features, without the classifier; size, mean, deviation and resizing are what the library
says. Its converted file is kept in `EVERLEARN_WEIGHTS` or, without it, in `~/.cache/everlearn`, and from then on it is
an `onnx:` backbone in all but name: neither the library nor the internet is needed again, also not on another machine
that is given the file.

Options: size in pixels; fit, as for `onnx:`; licence; `weights=none` for random weights that are always the same, which
are of use in tests only. Of torchvision also weights, an entry of its weights' table; of Keras alpha, a network's
width.

The digest is over the weights' values, the architecture's name and the preparation of images, not over the file's
bytes: two machines with the same weights have the same basis, whichever versions wrote the file. Features differ
between them in the last bits, as those of `onnx:` do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import onnx

from everlearn.errors import BadConfig, BadInput, Corrupt, Missing, StoreFault
from everlearn.model.external import MOST_BYTES, WEIGHTS, Onnx, Preparation, read_model
from everlearn.model.pixels import Fit
from everlearn.workspace import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTPUT = "features"
UNTRAINED = "untrained: random weights (weights=none), of use in tests only"
_KEY = "everlearn.network"
_COMMON = ("weights", "size", "fit", "licence")


@dataclass(frozen=True, slots=True)
class Asked:
    """A spec in its parts."""

    spec: str
    kind: str
    name: str
    options: Mapping[str, str]

    @property
    def untrained(self) -> bool:
        return self.options.get("weights") == "none"

    @property
    def size(self) -> int | None:
        return int(self.options["size"]) if "size" in self.options else None

    def no_weights(self, names: Iterable[str], error: BaseException | str) -> Missing:
        """The error that says what to do where the library cannot fetch its weights."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        return Missing(
            f"The weights of {self.spec} are not on this machine, and {self.kind} could not fetch them: {reason}",
            f"Put {' or '.join(names)} into a folder and set {WEIGHTS} to it; or connect to the internet once.",
        )


@dataclass(frozen=True, slots=True)
class Network:
    """A converted network. model: (N, 3, size, size) or (N, size, size, 3) float32 -> `features` (N, D).

    architecture: the library's name of it, without that of its weights; weights: their digest.
    """

    model: onnx.ModelProto
    architecture: str
    weights: str
    licence: str
    preparation: Preparation


def _timm(asked: Asked) -> Network:
    from everlearn.model import networks_torch

    return networks_torch.timm(asked)


def _torchvision(asked: Asked) -> Network:
    from everlearn.model import networks_torch

    return networks_torch.torchvision(asked)


def _keras(asked: Asked) -> Network:
    from everlearn.model import networks_keras

    return networks_keras.keras(asked)


LIBRARIES: dict[str, tuple[Callable[[Asked], Network], tuple[str, ...]]] = {
    "timm": (_timm, ()),
    "torchvision": (_torchvision, ()),
    "keras": (_keras, ("alpha",)),
}
"""Kind of spec to what converts it, and the options of its own."""


def load_network(spec: str) -> Onnx:
    """The backbone, converted now where it was not yet.

    Raises BadConfig for a name or option that the library does not know, NotInstalled without the library, Missing
    where its weights cannot be had, BadInput where the network cannot be converted, Corrupt for a damaged file.
    """
    asked = parsed(spec)
    stem = _stem(asked)
    path = _kept(stem)
    if path is None:
        with redirect_stdout(sys.stderr):  # Keras prints where it downloads from; stdout is for answers
            network = LIBRARIES[asked.kind][0](asked)
        path = _keep(stem, _packed(asked, network))
    data, model = read_model(path, path.name)
    if hashlib.sha256(data).hexdigest()[:16] != path.name.removesuffix(".onnx").rpartition(".")[2]:
        raise Corrupt(f"{path} is not what was written.", "Remove it; it is converted again, or copy it again.")
    facts = json.loads(next(one.value for one in model.metadata_props if one.key == _KEY))
    preparation = Preparation(
        facts["size"], tuple(facts["mean"]), tuple(facts["std"]), facts["bgr"], Fit.parse(facts["fit"])
    )
    if "fit" in asked.options:
        preparation = dataclasses.replace(preparation, fit=Fit.parse(asked.options["fit"]))
    licence = asked.options.get("licence", facts["licence"])
    return Onnx(spec, model, facts["identity"], OUTPUT, preparation, licence)


def find_weights(names: Iterable[str]) -> Path | None:
    """The first of these files that lies in EVERLEARN_WEIGHTS."""
    folder = os.environ.get(WEIGHTS)
    return next((Path(folder, one) for one in names if Path(folder, one).is_file()), None) if folder else None


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Hex SHA-256 over values, types and shapes, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def drawn(shape: tuple[int, ...], fan_in: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Random weights that keep a signal's size (He et al. 2015): the same on every machine, unlike a library's own."""
    return (generator.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)).astype(np.float32)


def parsed(spec: str) -> Asked:
    kind, _, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = (*_COMMON, *LIBRARIES[kind][1])
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BadConfig(f"backbone {spec}: unknown option {unknown[0]}.", f"Known: {', '.join(known)}.")
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-]*", name):
        raise BadConfig(f"backbone {spec}: {name!r} is no name of a network.", f"Example: {_EXAMPLES[kind]}")
    try:
        if not 8 <= int(options.get("size", 8)) <= 2048:
            raise ValueError("size must be 8 to 2048")
        Fit.parse(options.get("fit", "bicubic"))
    except ValueError as error:
        raise BadConfig(f"backbone {spec}: {error}.", f"Example: {_EXAMPLES[kind]}?size=224") from None
    return Asked(spec, kind, name, options)


_EXAMPLES = {"timm": "timm:resnet18", "torchvision": "torchvision:resnet18", "keras": "keras:MobileNetV2"}


def _stem(asked: Asked) -> str:
    """The name of a converted file up to its own digest; options that are applied later are left out."""
    decisive = sorted((key, value) for key, value in asked.options.items() if key not in ("fit", "licence"))
    return f"{asked.kind}-{asked.name}-{hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]}"


def folders() -> list[Path]:
    """Where converted files are looked for, and kept in the first that can be written."""
    given = [Path(os.environ[WEIGHTS])] if os.environ.get(WEIGHTS) else []
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [*given, Path(cache).expanduser() / "everlearn"]


def _kept(stem: str) -> Path | None:
    return next((path for folder in folders() for path in sorted(folder.glob(f"{stem}.*.onnx"))), None)


def _keep(stem: str, data: bytes) -> Path:
    name = f"{stem}.{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, data)
        except (OSError, StoreFault):
            continue
        return folder / name
    tried = " and ".join(str(folder) for folder in folders())
    raise StoreFault(
        f"The converted network cannot be kept in {tried}.", f"Set {WEIGHTS} to a folder with room that can be written."
    )


def _packed(asked: Asked, network: Network) -> bytes:
    """The file: the graph, and in its metadata what else there is to know."""
    how = network.preparation
    facts = {
        "identity": f"{asked.kind} {network.architecture} {network.weights}",
        "licence": network.licence,
        "size": how.size,
        "mean": how.mean,
        "std": how.std,
        "bgr": how.bgr,
        "fit": str(how.fit),
    }
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    onnx.helper.set_model_props(model, {_KEY: json.dumps(facts)})
    if model.ByteSize() > MOST_BYTES:
        raise BadInput(f"{asked.spec} is larger than an ONNX file can be (2 GB).", "Choose a smaller network.")
    return model.SerializeToString()
