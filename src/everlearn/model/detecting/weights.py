"""Files of YOLO weights: ours are plain values and tensors; a stranger's are read without running anything in them.

Ultralytics keeps a whole network as a pickle, and a pickle can run code when it is read. Here each class that it names
is replaced by an empty one while it is read (`torch.load(weights_only=True)`), so that what remains is nested names,
numbers and tensors, from which the weights, the architecture and the class names are taken. Names that a detector's
file has no need of are refused unread.
"""

from __future__ import annotations

import io
import re
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.errors import BadInput, Corrupt, Missing, StoreFault
from everlearn.model import library
from everlearn.model.external import WEIGHTS
from everlearn.model.trainable import read_tensors
from everlearn.workspace import write_whole

FORMAT = "everlearn yolo 1"
ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""Where Ultralytics keeps its weights."""
_OFFICIAL = re.compile(r"yolo(v?\d{1,2})[a-z]6?u?\.pt")
_MOST_LAYERS, _MOST_NUMBER, _MOST_BYTES = 300, 4096, 1 << 29
_MOST_VALUES = 100_000
"""Names, numbers and modules in a file: a real one has some thousands, but one value may be named again and again, so
that a few lines stand for billions."""

_HARMLESS = re.compile(
    r"(ultralytics(\.\w+)*|torch\.nn(\.\w+)*|models(\.\w+)*|pathlib(\._local)?|numpy(\._?\w+)*|datetime|types|collections)"
    r"\.\w+"
)
"""Of these modules a detector's file may name classes and functions. None of them is called."""
_NEEDED = frozenset({"builtins.getattr", "builtins.set", "__builtin__.getattr", "__builtin__.set"})
_DETECTORS = frozenset({"DetectionModel", "YOLOv10DetectionModel"})


@dataclass(frozen=True, eq=False)
class Weights:
    """A detector as a file holds it. spec: of its architecture (yolo11n.yaml); yaml: the architecture itself; state:
    its tensors by name, float32. facts: what else its training said."""

    spec: str
    yaml: Mapping[str, Any]
    classes: tuple[str, ...]
    size: int
    state: Mapping[str, Tensor]
    licence: str
    version: str
    facts: Mapping[str, Any]


def to_bytes(weights: Weights) -> bytes:
    """A torch file that `torch.load(file, weights_only=True)` reads."""
    file = io.BytesIO()
    torch.save({
        "format": FORMAT, "spec": weights.spec, "yaml": plain(weights.yaml), "classes": list(weights.classes),
        "size": weights.size, "state": {name: one.detach().cpu() for name, one in weights.state.items()},
        "licence": weights.licence, "version": weights.version, "facts": plain(weights.facts),
    }, file)  # fmt: skip
    return file.getvalue()


def save(path: Path, weights: Weights) -> None:
    """Whole or not at all. Raises StoreFault."""
    write_whole(path, to_bytes(weights))


def load(source: Path | bytes) -> Weights:
    """Ours or a stranger's; nothing in the file is run. Raises Missing, Corrupt, BadInput."""
    name = "The weights" if isinstance(source, bytes) else str(source)
    _check_stored(source, name)
    foreign = _foreign_names(source, name)
    if foreign:
        return _strangers(source, foreign, name)
    found = read_tensors(io.BytesIO(source) if isinstance(source, bytes) else source, name)
    if found.get("format") != FORMAT:
        raise Corrupt(f"{name} holds no YOLO weights of ours.", "Give weights/best.pt of a training.")
    try:
        _count({key: value for key, value in found.items() if key != "state"})
        return Weights(
            str(found["spec"]), dict(found["yaml"]), tuple(map(str, found["classes"])), int(found["size"]),
            _state(found["state"].items()), str(found["licence"]), str(found["version"]), dict(found["facts"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise Corrupt(f"{name} is damaged: {error!r:.100}.", "Train it anew.") from None


def _count(value: Any, left: list[int] | None = None) -> None:
    """Raises ValueError where nested values, each counted as often as it is named, are too many."""
    left = left or [_MOST_VALUES]
    left[0] -= 1
    if left[0] <= 0:
        raise ValueError("more values than any detector's file has")
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for one in value:
            _count(one, left)


def _state(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """float32. Raises ValueError where they are larger than what the file holds of them, or than any detector's."""
    found: dict[str, Tensor] = {}
    left = 4 * _MOST_BYTES
    for name, value in tensors:
        size = value.numel() * value.element_size()
        left -= 4 * value.numel()
        if value.layout != torch.strided or size > value.untyped_storage().nbytes() or left < 0:
            raise ValueError(f"{name!s:.80} is larger than what the file holds of it, or than any detector's")
        found[str(name)] = value.detach().float() if value.is_floating_point() else value.detach()
    return found


def plain(value: Any) -> Any:
    """Nested values as a file of ours may hold them; others become text."""
    if isinstance(value, Mapping):
        return {str(key) if not isinstance(key, int) else key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | Tensor | None) else str(value)


def located(path: Path, *, download: bool = False) -> Path:
    """The file itself, or one of its name in EVERLEARN_WEIGHTS or the cache; or fetched, where that is wanted and it is
    one of Ultralytics' own. Raises Missing."""
    if path.is_file():
        return path
    for folder in library.folders():
        if (folder / path.name).is_file():
            return folder / path.name
    if not _OFFICIAL.fullmatch(path.name):
        raise Missing(f"There is no {path}.", "Name a file of weights: weights/best.pt, or an Ultralytics .pt.")
    if not download:
        raise Missing(
            f"{path.name} is not on this machine.",
            f"Put it into a folder and set {WEIGHTS} to that, or let it be fetched from {ASSETS}: download.",
        )
    return _fetched(path.name)


def _fetched(name: str) -> Path:
    """Read whole, looked into, and kept beside other libraries' weights."""
    url = f"{ASSETS}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 of our own making
            data = answer.read(_MOST_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise Missing(f"{url} cannot be fetched: {error}.", f"Put {name} into a folder named by {WEIGHTS}.") from None
    if len(data) > _MOST_BYTES:
        raise BadInput(f"{url} is larger than any such weights.", f"Put {name} into a folder named by {WEIGHTS}.")
    load(data)
    for folder in library.folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, data)
        except (OSError, StoreFault):
            continue
        return folder / name
    raise StoreFault(f"{name} cannot be kept.", f"Set {WEIGHTS} to a folder with room that can be written.")


# --- a stranger's file ----------------------------------------------------------------------------------------------


class _Empty:
    """Stands for each class and function that a file names. It keeps what it is given, and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Empty:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.__dict__.update({str(key): value for key, value in part.items()})


def _check_stored(source: Path | bytes, name: str) -> None:
    """torch writes its files without compression: one that unpacks to more than it is was made to fill the memory."""
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            inside = sum(one.file_size for one in file.infolist())
            held = min(sum(one.compress_size for one in file.infolist()), size)  # parts may lie over one another
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise Corrupt(f"{name} cannot be read: {error}", "Give a .pt file of YOLO weights.") from None
    if inside > held + (1 << 20):
        raise BadInput(f"{name} unpacks to {inside:,} bytes from {held:,}.", "Weights are not compressed.")


def _foreign_names(source: Path | bytes, name: str) -> list[str]:
    """What the file names beyond tensors and plain values. Raises Corrupt."""
    try:
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception as error:  # damaged files raise whatever they make the reader raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise Corrupt(f"{name} cannot be read: {reason}", "Give a .pt file of YOLO weights.") from None


def _strangers(source: Path | bytes, foreign: Sequence[str], name: str) -> Weights:
    refused = [one for one in foreign if not _HARMLESS.fullmatch(one) and one not in _NEEDED]
    if refused:
        raise BadInput(
            f"{name} wants to run {', '.join(refused[:3])}, which no detector needs. It was not opened.",
            "Do not trust it. Weights of Ultralytics name only its own and torch's classes.",
        )
    # each name has an empty class of its own, so that the kind of the network can be told
    kinds = {one: type(one.rpartition(".")[2], (_Empty,), {}) for one in foreign}
    allowed = [(kind, one) for one, kind in kinds.items()]
    try:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise Corrupt(f"{name} cannot be read: {reason}", "Give a .pt file of Ultralytics' YOLO.") from None
    try:
        return _taken(found, name)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # RecursionError is a RuntimeError
        raise BadInput(f"{name} is no YOLO detector: {error!r:.100}.", "Give a .pt file of Ultralytics.") from None


def _taken(found: Mapping[str, Any], name: str) -> Weights:
    network = found.get("ema") or found["model"]
    kind = type(network).__name__
    if not isinstance(network, _Empty) or kind not in _DETECTORS:
        raise BadInput(f"{name} holds a {kind}, no detector.", "Give a detector: yolo11n.pt, not -seg, -cls or -pose.")
    asked = found.get("train_args") or {}
    said = [network.__dict__["yaml"], network.__dict__["names"], asked, found.get("license"), found.get("version")]
    _count(said)
    yaml, named = plain(dict(said[0])), said[1]
    classes = tuple(str(named[key]) for key in sorted(named)) if isinstance(named, Mapping) else tuple(map(str, named))
    size = asked.get("imgsz", 640) if isinstance(asked, Mapping) else 640
    spec = Path(str(yaml.get("yaml_file") or "yolo.yaml")).name
    state = _state(_tensors(network, "", 0, [_MOST_VALUES]))
    size = int(size) if isinstance(size, int) else 640
    return Weights(spec, yaml, classes, size, state, _licence(found), str(found.get("version") or ""), {})


def _licence(found: Mapping[str, Any]) -> str:
    from everlearn.model.detecting.training import LICENCE

    said = found.get("license")
    return LICENCE if not isinstance(said, str) or said.startswith("AGPL-3.0") else said[:200]


def _tensors(node: Any, prefix: str, depth: int, left: list[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network by the names that its `state_dict` gives them. left: how many modules there may be, each
    counted as often as it is named."""
    if depth > 30 or not isinstance(node, _Empty):
        return
    left[0] -= 1
    if left[0] <= 0:
        raise ValueError("more modules than any detector has")
    held = node.__dict__
    silent = held.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in (held.get(group) or {}).items():
            if isinstance(value, Tensor) and name not in silent:
                yield f"{prefix}{name}", value
    for name, child in (held.get("_modules") or {}).items():
        yield from _tensors(child, f"{prefix}{name}.", depth + 1, left)


# --- architectures --------------------------------------------------------------------------------------------------


def checked(yaml: Mapping[str, Any], modules: frozenset[str], name: str) -> dict[str, Any]:
    """An architecture whose words only name layers: Ultralytics evaluates some of them as code, and looks others up
    among all that it knows. modules: the layers that may be named. Raises BadInput."""

    def refuse(what: object) -> BadInput:
        return BadInput(f"{name} describes a network with {str(what)[:80]!r}.", "Give an architecture of Ultralytics.")

    activation = yaml.get("activation")
    if activation is not None and not re.fullmatch(r"(torch\.)?nn\.[A-Z]\w+\([\w=., -]*\)", str(activation)):
        raise refuse(activation)
    try:
        layers = [*yaml["backbone"], *yaml["head"]]
        if not 2 <= len(layers) <= _MOST_LAYERS:
            raise refuse(f"{len(layers)} layers")
        for _from, repeats, module, arguments in layers:
            if not isinstance(module, str) or module not in modules:
                raise refuse(module)
            if not isinstance(repeats, int) or not 0 < repeats <= _MOST_LAYERS:
                raise refuse(repeats)
            for one in _flat(arguments):
                if isinstance(one, str) and not re.fullmatch(r"[\w.-]{0,40}", one):
                    raise refuse(one)
                if isinstance(one, int | float) and abs(one) > _MOST_NUMBER:
                    raise refuse(one)
    except (KeyError, TypeError, ValueError):
        raise refuse("no layers") from None
    if layers[-1][2] not in ("Detect", "v10Detect"):
        raise BadInput(f"{name} ends in {layers[-1][2]}, so it is no detector.", "Give yolo11n.yaml, yolov8n.yaml, …")
    return dict(yaml)


def _flat(values: Any) -> Iterator[Any]:
    for one in values:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield one


def carried(
    old: Mapping[str, Tensor], had: Sequence[str], new: Mapping[str, Tensor], classes: Sequence[str],
    heads: Sequence[str],
) -> dict[str, Tensor]:  # fmt: skip
    """The weights of a network for other classes. Of the layers whose rows are classes (heads: their prefixes) a class
    keeps its rows by name, one that the old network did not know keeps its new ones, and one that is gone goes; all
    else is copied. Raises BadInput where the networks are not of one architecture."""
    rows = [(place, had.index(name)) for place, name in enumerate(classes) if name in had]
    made: dict[str, Tensor] = {}
    for key, value in new.items():
        before = old.get(key)
        if before is not None and key.startswith(tuple(heads)) and before.shape[1:] == value.shape[1:]:
            kept = value.clone()
            for place, row in rows:
                kept[place] = before[row]
            made[key] = kept
        elif before is not None and before.shape == value.shape:
            made[key] = before.clone()
        else:
            raise BadInput(f"The weights to begin with do not fit: {key} differs.", "Choose the same architecture.")
    return made
