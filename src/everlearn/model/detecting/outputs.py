"""What the numbers that a detector's graph gives mean, in a small typed description; and boxes made of them.

    kind        one output, N images      a box                                      a score
    yolo        (N, 4 + C, A)             x y w h of the middle, px                  of each class
    yolov5      (N, A, 5 + C)             x y w h of the middle, px                  objectness x of each class
    nms         (N, K, 6)                 x1 y1 x2 y2, px                            score, number of the class
    detr        (N, Q, 4 + C), or two     x y w h of the middle, shares              of each class
    fastestdet  (N, 5 + C, h, w)          tanh and sigmoid around each cell          objectness^0.6 x class^0.4

`yolo` is YOLOv8, YOLO11 and their kin as Ultralytics exports them; `yolov5` also YOLOv7 and YOLOX; `nms` everything
that ends with its own choice of boxes: YOLOv10, YOLO26, exports with NMS inside; `detr` RT-DETR and D-FINE, as one
output or as boxes and scores. From these two kinds nothing more is suppressed: their networks have chosen already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from everlearn.errors import BadInput
from everlearn.model.detecting.detector import MOST, OVERLAP
from everlearn.model.detecting.placing import Fitting, Placed, surest
from everlearn.text import read_yaml
from everlearn.types import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["yolo", "yolov5", "nms", "detr", "fastestdet"]
KINDS: tuple[str, ...] = get_args(Kind)
UNKNOWN = "unknown: ask where it came from"
CONFIDENCE = 0.25  # as Ultralytics shows boxes
_MOST_CLASSES, _MOST_SIDE, _MOST_BYTES = 10_000, 8192, 1 << 20
_THIN = 1e-6  # share of a side: what is left of a box beside the image
_CHOSEN = ("nms", "detr")  # kinds whose network has suppressed already
_HELP = "See the page on detectors for what a description says."


class Candidates(NamedTuple):
    """Of one image, before any is suppressed. corners: (K, 4) x1 y1 x2 y2 in pixels of the input; scores: (K,);
    classes: (K,) their numbers."""

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Outputs:
    """classes: names, in the order of their numbers. size: of the input, (height, width) px. x = (pixel scale - mean) /
    std, in the order of `colours`. pad: what stands around the picture, in the same order. shares: boxes are shares of
    the input's sides, not pixels (`detr` always). logits: scores are still to go through a sigmoid. outputs: names of
    those to read, where a graph has more of them (`detr`: boxes, scores). confidence, overlap: what `predict` tells:
    boxes as sure as this; of those of one class whose IoU is above it, the surest."""

    kind: Kind
    classes: tuple[str, ...]
    size: tuple[int, int]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    colours: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fit: Fitting = "letterbox"
    pad: tuple[int, int, int] = (114, 114, 114)
    shares: bool = False
    logits: bool = False
    outputs: tuple[str, ...] = ()
    confidence: float = CONFIDENCE
    overlap: float = OVERLAP
    licence: str = UNKNOWN
    source: str = ""

    @classmethod
    def parse(cls, said: Any, name: str = "The description") -> Outputs:
        """From what a YAML or JSON file says. Raises BadInput for an unknown key, or a value that cannot be."""
        if not isinstance(said, Mapping):
            raise BadInput(f"{name} is not a list of keys and values.", _HELP)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in said:
            if key not in known:
                raise BadInput(f"{name}: unknown key {str(key)[:80]!r}.", f"Known: {', '.join(known)}.")
        if absent := [key for key in ("kind", "classes", "size") if key not in said]:
            raise BadInput(f"{name} does not say {absent[0]}.", _HELP)
        found = {}
        for key, value in said.items():
            try:
                found[key] = _READ[key](value)
            except (ValueError, TypeError, OverflowError) as error:
                raise BadInput(f"{name}: {key} {_told(value)!r} cannot be: {error}.", _HELP) from None
        return cls(**found)

    @classmethod
    def read(cls, path: Path) -> Outputs:
        """The same from a file, YAML or JSON. Raises BadInput."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise BadInput(f"{path} is too large for a description.", _HELP)
            said = read_yaml(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["?"])[0][:200]
            raise BadInput(f"{path} cannot be read: {reason}", "Write it as YAML.") from None
        return cls.parse(said, str(path))

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return dataclasses.asdict(self)

    def input(self, pictures: Sequence[NDArray[np.uint8]], dtype: type[np.generic]) -> NDArray[Any]:
        """Letterboxed pictures (H, W, 3) RGB -> what the graph takes. dtype: uint8 where the graph scales by itself."""
        x: NDArray[Any] = np.stack(pictures)
        if self.colours == "BGR":
            x = x[..., ::-1]
        if self.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        if dtype == np.uint8:
            return np.ascontiguousarray(x)
        x = np.multiply(np.ascontiguousarray(x), np.float32(self.scale), dtype=np.float32)
        axes = (1, 3, 1, 1) if self.layout == "NCHW" else (1, 1, 1, 3)
        if any(self.mean):
            x -= np.array(self.mean, np.float32).reshape(axes)
        if any(one != 1 for one in self.std):
            x /= np.array(self.std, np.float32).reshape(axes)
        return x.astype(dtype, copy=False)

    def candidates(self, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
        """One image's outputs, without their first axis -> its boxes at or above a confidence. What is no number is no
        box. Raises BadInput where the numbers do not fit the description."""
        arrays = [one.astype(np.float32, copy=False) for one in arrays]
        with np.errstate(all="ignore"):
            found = _DECODE[self.kind](self, arrays, least)
            scores, corners = found.scores, found.corners
            if len(scores) and scores.max() > 1.05:
                raise BadInput(
                    f"The graph gives a score of {scores.max():.3g}, above 1.",
                    "Where its scores are logits, say so in the description: logits: true",
                )
            kept = (scores >= least) & (scores > 0) & np.isfinite(corners).all(1)
        classes = found.classes[kept]
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.classes):
            raise BadInput(
                f"The graph found class {classes.max()}; the description names {len(self.classes)}.", "Name them all."
            )
        return Candidates(corners[kept], scores[kept].clip(0, 1), classes)

    def sure(self, scores: NDArray[Any]) -> NDArray[Any]:
        return _sigmoid(scores) if self.logits else scores

    def pixels(self, corners: NDArray[Any]) -> NDArray[np.float32]:
        """Corners as the graph gives them -> in pixels of the input."""
        if not self.shares and self.kind != "detr":
            return corners.astype(np.float32, copy=False)
        return (corners * np.array([self.size[1], self.size[0]] * 2, np.float32)).astype(np.float32, copy=False)

    def boxes(self, found: Candidates, placed: Placed, overlap: float) -> list[Box]:
        """The surest boxes of one image, in shares of its sides, at most MOST."""
        best = surest(*found, 1.0 if self.kind in _CHOSEN else overlap, MOST)
        shares = placed.shares(found.corners[best])
        sides = shares[:, 2:] - shares[:, :2]
        return [
            Box(self.classes[number], float(x), float(y), float(width), float(height), float(score))
            for (x, y), (width, height), score, number in zip(
                shares[:, :2], sides, found.scores[best], found.classes[best], strict=True
            )
            if min(width, height) > _THIN
        ]

    def expect(self, shapes: Sequence[Sequence[int | None]], name: str) -> None:
        """Whether outputs of these shapes (None: free) can be of this kind. Raises BadInput."""
        count = len(self.classes)
        ways: dict[str, list[list[tuple[int | None, ...]]]] = {
            "yolo": [[(None, 4 + count, None)]],
            "yolov5": [[(None, None, 5 + count)]],
            "nms": [[(None, None, 6)]],
            "detr": [[(None, None, 4 + count)], [(None, None, 4), (None, None, count)]],
            "fastestdet": [[(None, 5 + count, None, None)]],
        }
        for way in ways[self.kind]:
            if len(way) == len(shapes) and all(_alike(given, wanted) for given, wanted in zip(shapes, way)):
                return
        wanted = " or ".join(" and ".join(_shown(one) for one in way) for way in ways[self.kind])
        given = " and ".join(_shown(one) for one in shapes) or "nothing"
        raise BadInput(
            f"{name} gives {given}; a {self.kind} of {count} classes gives {wanted}.",
            "Check kind, classes and outputs of its description.",
        )


def _alike(given: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(given) == len(wanted) and all(None in pair or pair[0] == pair[1] for pair in zip(given, wanted))


def _shown(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("*" if side is None else str(side) for side in shape) + ")"


# ---- one image's numbers to boxes; each decodes no more than it must, since most anchors see nothing ----


def _yolo(how: Outputs, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
    """(4 + C, A)"""
    middles, scores = arrays[0][:4].T, arrays[0][4:].T
    return _best(how, middles, how.sure(scores), least)


def _yolov5(how: Outputs, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
    """(A, 5 + C); score = objectness x class."""
    rows = arrays[0]
    return _best(how, rows[:, :4], how.sure(rows[:, 4:5]) * how.sure(rows[:, 5:]), least)


def _detr(how: Outputs, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
    """(Q, 4 + C), or (Q, 4) and (Q, C)"""
    middles, scores = arrays if len(arrays) == 2 else (arrays[0][:, :4], arrays[0][:, 4:])
    return _best(how, middles, how.sure(scores), least)


def _nms(how: Outputs, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
    """(K, 6); a row that is not used has the score 0."""
    scores = how.sure(arrays[0][:, 4])
    rows = arrays[0][scores >= least]
    numbers = np.where(np.isfinite(rows[:, 5]), rows[:, 5], -1).clip(-1, _MOST_CLASSES).astype(np.intp)
    return Candidates(how.pixels(rows[:, :4]), scores[scores >= least], numbers)


def _fastestdet(how: Outputs, arrays: Sequence[NDArray[Any]], least: float) -> Candidates:
    """(5 + C, h, w): objectness, x, y, w, h, classes of each cell (FastestDet, utils/tool.py, handle_preds)."""
    maps = arrays[0]
    height, width = maps.shape[1:]
    maps = maps.reshape(len(maps), -1)
    scores = maps[0] ** 0.6 * maps[5:].max(0) ** 0.4
    cells = np.flatnonzero(scores >= least)
    part, y, x = maps[:, cells], cells // width, cells % width
    middles = np.stack(
        [(np.tanh(part[1]) + x) / width, (np.tanh(part[2]) + y) / height, _sigmoid(part[3]), _sigmoid(part[4])], axis=1
    )
    sides = np.array([how.size[1], how.size[0]] * 2, np.float32)
    return Candidates(_corners(middles * sides), scores[cells], part[5:].argmax(0))


_DECODE: dict[str, Callable[[Outputs, Sequence[NDArray[Any]], float], Candidates]] = {
    "yolo": _yolo, "yolov5": _yolov5, "nms": _nms, "detr": _detr, "fastestdet": _fastestdet,
}  # fmt: skip


def _best(how: Outputs, middles: NDArray[Any], scores: NDArray[Any], least: float) -> Candidates:
    """Each row (x, y, width, height; scores of the classes) as its surest class."""
    best = scores.max(1)
    rows = np.flatnonzero(best >= least)
    return Candidates(how.pixels(_corners(middles[rows])), best[rows], scores[rows].argmax(1))


def _corners(middles: NDArray[Any]) -> NDArray[np.float32]:
    """(K, 4) x y of the middle, width, height -> x1 y1 x2 y2"""
    half = middles[:, 2:] / 2
    return np.concatenate([middles[:, :2] - half, middles[:, :2] + half], axis=1).astype(np.float32)


def _sigmoid(x: NDArray[Any]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-x))).astype(np.float32)


# ---- reading a description ----


def _told(value: Any) -> str:
    try:
        return str(value)[:80]
    except ValueError:  # Python writes no number of thousands of digits
        return "an endless number"


def _word(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return str(value)

    return read


def _classes(value: Any) -> tuple[str, ...]:
    """A list of names, or numbers and names as in Ultralytics' files."""
    if isinstance(value, Mapping):
        if sorted(value) != list(range(len(value))):
            raise ValueError("the numbers of the classes must be 0, 1, 2, …")
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_CLASSES:
        raise ValueError("a list of names is needed")
    names = tuple(str(one).strip() for one in value)
    if not all(0 < len(one) <= 200 and one.isprintable() for one in names):
        raise ValueError("a name is empty, too long or not printable")
    if len(set(names)) < len(names):
        raise ValueError(f"{next(one for one in names if names.count(one) > 1)} stands twice")
    return names


def _size(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int) or not 8 <= side <= _MOST_SIDE:
            raise ValueError(f"a side is a whole number of 8 to {_MOST_SIDE} px, or [height, width]")
    return height, width


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        found = float(value)
        if isinstance(value, bool) or not low <= found <= high:
            raise ValueError(f"a number of {low:g} to {high:g} is needed")
        return found

    return read


def _three(low: float, high: float) -> Callable[[Any], tuple[float, ...]]:
    one = _number(low, high)

    def read(value: Any) -> tuple[float, ...]:
        values = value if isinstance(value, list | tuple) else [value] * 3
        if len(values) != 3:
            raise ValueError("one number or three are needed")
        return tuple(one(each) for each in values)

    return read


def _pad(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in _three(0, 255)(value))


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 2:
        raise ValueError("a list of one name or two")
    return tuple(str(one) for one in value)


def _line(value: Any) -> str:
    text = " ".join(str(value).split())
    if len(text) > 500:
        raise ValueError("at most 500 letters")
    return text


_READ: dict[str, Callable[[Any], Any]] = {
    "kind": _word(*KINDS), "classes": _classes, "size": _size, "layout": _word("NCHW", "NHWC"),
    "colours": _word("RGB", "BGR"), "scale": _number(1e-9, 1e9), "mean": _three(-1e9, 1e9), "std": _three(1e-9, 1e9),
    "fit": _word(*get_args(Fitting)), "pad": _pad, "shares": _yes, "logits": _yes, "outputs": _names,
    "confidence": _number(0, 1), "overlap": _number(0, 1), "licence": _line, "source": _line,
}  # fmt: skip
