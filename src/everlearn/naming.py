"""File names (DESIGN section 5): a rendering of the catalog's row, safe on every file system and as an S3 key.

    data    {label}_{YYYYMMDD}_{HHMMSS}_{source}[_{suffix}].{ext}    person001_20250704_133022_camera.jpg
            unlabelled_… before it has a label, scene_… where its label is boxes
    model   model_v{major}.{minor}_{YYYYMMDD}.onnx
    log     training_{experiment}_{YYYYMMDD}.json

Letters and digits of any script, `-`, `_` and `.` stay as they are; every other character becomes `=XX` for each of
its UTF-8 bytes, as in quoted-printable. A label too long for a file name is cut and ends in `==` and a digest: then
only the catalog knows it. Dates and times are written as the value's own clock shows them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

from everlearn.errors import BadInput

UNLABELLED, SCENE = "unlabelled", "scene"
LONGEST_LABEL = 120
"""Bytes an escaped label may take, so that the whole name stays below the 255 bytes that file systems allow."""
LONGEST_SOURCE = 48

UNKNOWN = "unknown"
"""The answer "nobody and nothing that I know", where `learn.unknown` asks for it; there it is no class."""
_NOT = " not "
"""Begins the label of a negative. No class can be called so: a label that was cleaned has no blank before it."""

_SCENE = " scene "
"""Begins the label of a whole image with its boxes, which ends in the scene's digest: see `catalog.scenes`."""

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_NO_UNDERSCORE = _PLAIN - {"_"}  # of source and suffix, so that a name is read from its right end without doubt
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)
_DATA = re.compile(r"(?P<label>.+)_(?P<day>[0-9]{8})_(?P<clock>[0-9]{6})_(?P<rest>[^_]+(?:_[^_]+)?)", re.DOTALL)
_EXT = re.compile(r"[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class NameParts:
    """What a data file's name says. label: None before it has one, and where it was too long (then `shortened`)."""

    label: str | None
    when: datetime
    source: str
    ext: str
    suffix: str | None = None
    shortened: bool = False


def clean_label(text: str) -> str:
    """The label as it is kept: NFC (macOS writes Korean decomposed), without blanks around it.

    Raises BadInput where nothing is left, or where it holds line breaks, control characters or undecodable bytes.
    """
    label = unicodedata.normalize("NFC", text).strip()
    if not label:
        raise BadInput("A label is empty.", "Give it a name.")
    if is_unwritable(label):
        shown = label.encode("unicode_escape", "backslashreplace").decode("ascii")
        raise BadInput(f"The label '{shown}' holds a line break, control character or undecodable byte.", "Rename it.")
    return label


def denial(label: str) -> str:
    """The label of a negative: of its image it is known only that it is not `label`."""
    return _NOT + label


def denied(label: str | None) -> str | None:
    """What a negative is known not to be; None for the name of a class."""
    return label[len(_NOT) :] if label is not None and label.startswith(_NOT) else None


def scene_label(digest: str) -> str:
    """The label of a sample that is a scene."""
    return _SCENE + digest


def is_scene(label: str | None) -> bool:
    """Whether a label stands for a whole image with its boxes."""
    return label is not None and label.startswith(_SCENE)


def coarse(label: str) -> str:
    """What a detector learns of a box's label: the part before the first `/`. The whole is what is told apart on the
    crop: `person/courier` is a person to the detector."""
    return label.partition("/")[0].strip() or label


def is_class(label: str, open_set: bool = False) -> bool:
    """Whether a label names a class: no denial, nor, in an open set, `unknown`."""
    return not label.startswith(_NOT) and not (open_set and label == UNKNOWN)


def is_unwritable(text: str) -> bool:
    """Whether it holds line breaks, control characters or bytes that are no text, which one line could not show."""
    return not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def escape(text: str, plain: frozenset[str] = _PLAIN) -> str:
    """Reversible by `unescape`. The result is no hidden file, no option, no Windows device, and never holds `..`."""
    return "".join(_escaped_units(text, plain))


def _escaped_units(text: str, plain: frozenset[str]) -> list[str]:
    # Text that is not in NFC would come back changed from a file system that normalises, so it goes as ASCII alone.
    keep_letters = unicodedata.normalize("NFC", text) == text
    device = text.partition(".")[0].lower() in _WINDOWS_DEVICES
    units = []
    for index, char in enumerate(text):
        stays = char in plain or (keep_letters and char > "\x7f" and unicodedata.category(char)[0] in "LNM")
        if index == 0 and (device or char in ".-" or text == UNLABELLED or unicodedata.category(char)[0] == "M"):
            stays = False
        if char == "." and text[index - 1 : index] == ".":
            stays = False
        units.append(char if stays else "".join(f"={byte:02X}" for byte in char.encode("utf-8", "surrogatepass")))
    return units


def unescape(text: str) -> str | None:
    """The text that `escape` was given; None where it cannot have been the result of it."""
    plain = unicodedata.normalize("NFC", text)
    data = bytearray()
    position = 0
    while position < len(plain):
        if plain[position] != "=":
            data += plain[position].encode("utf-8", "surrogatepass")
            position += 1
            continue
        digits = plain[position + 1 : position + 3]
        if not re.fullmatch(r"[0-9A-F]{2}", digits):
            return None
        data.append(int(digits, 16))
        position += 3
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=1_000)
def _fit(text: str, longest: int, plain: frozenset[str]) -> str:
    """Escaped, and cut with a digest where it takes more than `longest` bytes."""
    units = _escaped_units(text, plain)
    sizes = [len(unit.encode()) for unit in units]
    if sum(sizes) <= longest:
        return "".join(units)
    digest = "==" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    kept, room = [], longest - len(digest)
    for unit, size in zip(units, sizes, strict=True):
        if size > room:
            break
        kept.append(unit)
        room -= size
    return "".join(kept) + digest


def render_name(label: str | None, when: datetime, source: str, ext: str, suffix: str | None = None) -> str:
    """The name of a data file. suffix: a short id where two names would collide (compare them case-folded).

    Raises BadInput for an empty label, source or suffix, and an ending that is not 1 to 8 letters and digits.
    """
    if label == "" or not source or suffix == "":
        raise BadInput(
            "A file name needs a label, a source and a suffix that are not empty.", "Leave them out instead."
        )
    ending = ext.removeprefix(".").lower()
    if not _EXT.fullmatch(ending):
        raise BadInput(f"The file ending {ext!r} cannot be used.", "Use 1 to 8 letters and digits, such as jpg.")
    shown = UNLABELLED if label is None else SCENE if is_scene(label) else _fit(label, LONGEST_LABEL, _PLAIN)
    parts = [shown, _day(when), _clock(when)]
    parts.append(_fit(source, LONGEST_SOURCE, _NO_UNDERSCORE))
    if suffix is not None:
        parts.append(_fit(suffix, LONGEST_SOURCE, _NO_UNDERSCORE))
    return "_".join(parts) + "." + ending


def parse_name(name: str) -> NameParts | None:
    """What `render_name` was given, to the second; None for a name of another form."""
    stem, dot, ext = unicodedata.normalize("NFC", name).rpartition(".")
    found = _DATA.fullmatch(stem) if dot and _EXT.fullmatch(ext.lower()) and len(name) <= 1000 else None
    when = _moment(found["day"], found["clock"]) if found else None
    if not found or when is None:
        return None
    escaped_source, _, escaped_suffix = found["rest"].partition("_")
    source = _unfit(escaped_source)
    suffix = _unfit(escaped_suffix) if escaped_suffix else None
    if source is None or (escaped_suffix and suffix is None):
        return None
    if found["label"] == UNLABELLED:
        return NameParts(None, when, source, ext.lower(), suffix)
    if re.search(r"==[0-9a-f]{16}$", found["label"]):
        return NameParts(None, when, source, ext.lower(), suffix, shortened=True)
    label = unescape(found["label"])
    return None if label is None else NameParts(label, when, source, ext.lower(), suffix)


def _unfit(text: str) -> str | None:
    """A shortened source or suffix is given back as it stands: it still tells one camera from another."""
    return text if re.search(r"==[0-9a-f]{16}$", text) else unescape(text)


def _day(when: date) -> str:
    return f"{when.year:04d}{when.month:02d}{when.day:02d}"  # strftime does not pad years on every platform


def _clock(when: datetime) -> str:
    return f"{when.hour:02d}{when.minute:02d}{when.second:02d}"


def _moment(day: str, clock: str) -> datetime | None:
    d, t = re.sub(r"[^0-9]", "", day), re.sub(r"[^0-9]", "", clock)
    try:
        return datetime(int(d[:4]), int(d[4:6]), int(d[6:8]), int(t[:2] or 0), int(t[2:4] or 0), int(t[4:6] or 0))
    except ValueError:
        return None


_TIME_IN_NAME = re.compile(
    r"(?<![0-9])(?P<day>(?:19|20)[0-9]{2}(?P<d>[-_.]?)[0-9]{2}(?P=d)[0-9]{2})"
    r"(?:[-_. T]|_-_| at )?(?P<clock>[0-9]{2}(?P<c>[-_.:]?)[0-9]{2}(?P=c)[0-9]{2})(?:[.,]?[0-9]{3})?(?![0-9])"
)


def time_in_name(name: str) -> datetime | None:
    """Date and time of day that a camera wrote into a file name: `IMG_20250704_133022.jpg`, `2025-07-04 13.30.22.png`.

    A date alone is not a capture time, and is left out.
    """
    for found in _TIME_IN_NAME.finditer(name[:1000]):
        when = _moment(found["day"], found["clock"])
        if when is not None:
            return when
    return None


# Patterns that people write: `{label}.{n}.jpg`


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """What a name says by a pattern; None for what the pattern does not ask. when: only with date and time."""

    label: str | None
    when: datetime | None
    camera: str | None
    group: str | None


_FREE = ("label", "camera", "group")
_SHAPED = {
    "n": r"[0-9]++",
    "date": r"[0-9]{4}(?:[0-9]{4}|-[0-9]{2}-[0-9]{2}|_[0-9]{2}_[0-9]{2}|\.[0-9]{2}\.[0-9]{2})",
    "time": r"[0-9]{2}(?:[0-9]{4}|-[0-9]{2}-[0-9]{2}|_[0-9]{2}_[0-9]{2}|[.:][0-9]{2}[.:][0-9]{2})",
    "ext": r"[A-Za-z0-9]++",
}
_FIELDS = ", ".join(f"{{{name}}}" for name in (*_FREE, *_SHAPED)) + " and *"


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A compiled pattern; make one with `compile_pattern`."""

    text: str
    regex: re.Pattern[str]
    folders: int

    def match(self, path: str) -> PatternMatch | None:
        """path: the name, or the path below the source's root with `/`; as many folders of it as the pattern has."""
        name = "/".join(path.split("/")[-self.folders - 1 :])
        found = self.regex.fullmatch(unicodedata.normalize("NFC", name)) if len(name) <= 1000 else None
        if found is None:
            return None
        said = found.groupdict()
        when = _moment(said["date"], said["time"]) if said.get("date") and said.get("time") else None
        if said.get("date") and said.get("time") and when is None:
            return None
        return PatternMatch(said.get("label"), when, said.get("camera"), said.get("group"))


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> NamePattern:
    """Fields {label}, {camera}, {group} and `*` take as little as they can; {n} digits, {date}, {time}, {ext} by shape.

    Each free field together with all that follows it up to the next free field is one atomic group: nothing is tried
    twice, so that no name, however made, takes longer than quadratic time.
    Raises BadInput for an unknown or repeated field, a stray brace, or fields that nothing separates.
    """
    pattern = unicodedata.normalize("NFC", pattern)
    pieces = re.findall(r"\{[^{}]*\}|\*|[^{}*]+|[{}]", pattern)
    regex, seen, open_groups = "", set(), 0
    previous = ""
    for piece in pieces:
        if piece in "{}":
            raise _bad_pattern(pattern, "has a brace without its partner")
        name = piece[1:-1] if piece.startswith("{") else piece if piece == "*" else ""
        if not name:
            regex += re.escape(piece)
        elif name in seen and name != "*":
            raise _bad_pattern(pattern, f"has {piece} twice")
        elif previous and (previous, name) not in (("date", "time"), ("time", "date")):
            raise _bad_pattern(pattern, f"has nothing between two fields before {piece}, so nobody can tell them apart")
        elif name == "*" or name in _FREE:
            regex += ")" * open_groups + ("(?>[^/]+?" if name == "*" else f"(?>(?P<{name}>[^/]+?)")
            open_groups = 1
        elif name in _SHAPED:
            regex += f"(?P<{name}>{_SHAPED[name]})"
        else:
            raise _bad_pattern(pattern, f"has the unknown field {piece}")
        seen.add(name)
        previous = name
    # The end belongs to the last atomic group, else its shortest match would stop before the end of the name.
    return NamePattern(pattern, re.compile(regex + r"\Z" + ")" * open_groups, re.IGNORECASE), pattern.count("/"))


def _bad_pattern(pattern: str, why: str) -> BadInput:
    return BadInput(f"The pattern {pattern!r} {why}.", f"Fields are {_FIELDS}: for example {{label}}.{{n}}.jpg")


def label_from_pattern(name: str, pattern: str) -> str | None:
    """The label that the name holds by the pattern; None where it does not fit. Raises BadInput for a bad pattern."""
    compiled = compile_pattern(pattern)
    if "label" not in compiled.regex.groupindex:
        raise _bad_pattern(pattern, "has no {label}")
    found = compiled.match(name)
    return found.label if found else None


# Models and logs


def render_model_name(major: int, minor: int, when: date, ext: str = "onnx") -> str:
    """`model_v1.2_20250704.onnx`"""
    return f"model_v{major}.{minor}_{_day(when)}.{ext.removeprefix('.')}"


def parse_model_name(name: str) -> tuple[int, int, date] | None:
    """(major, minor, day) of a model's file name."""
    found = re.fullmatch(r"model_v([0-9]{1,9})\.([0-9]{1,9})_([0-9]{8})\.[A-Za-z0-9]+", name)
    when = _moment(found[3], "000000") if found else None
    return (int(found[1]), int(found[2]), when.date()) if found and when else None


def render_log_name(experiment: str, when: date, ext: str = "json") -> str:
    """`training_{experiment}_{YYYYMMDD}.json`; the experiment's name is escaped. Raises BadInput where it is empty."""
    if not experiment:
        raise BadInput("An experiment has no name.", "Give it one.")
    return f"training_{_fit(experiment, LONGEST_LABEL, _PLAIN)}_{_day(when)}.{ext.removeprefix('.')}"


def parse_log_name(name: str) -> tuple[str, date] | None:
    """(experiment, day) of a log's file name; None for another form, and where the experiment's name was cut."""
    found = re.fullmatch(r"training_(.+)_([0-9]{8})\.[A-Za-z0-9]+", unicodedata.normalize("NFC", name), re.DOTALL)
    when = _moment(found[2], "000000") if found else None
    experiment = unescape(found[1]) if found else None
    return (experiment, when.date()) if experiment and when else None
