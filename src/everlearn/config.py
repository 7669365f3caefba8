"""everlearn.yaml as typed values. The description of each field is its documentation, its comment in the file that
`everlearn init` writes, and its entry in the JSON schema for editors. An unknown key is an error.

Order of precedence: environment (`EVERLEARN_CATALOG`, `EVERLEARN_STORE`, also from a `.env` beside the file), the file,
the defaults here.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from everlearn.errors import BadConfig, Missing

FILE_NAME = "everlearn.yaml"
OVERRIDES = {"catalog": "EVERLEARN_CATALOG", "store": "EVERLEARN_STORE"}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Collect(Section):
    """How things come in."""

    labels_from: Literal["auto", "folder", "filename", "csv", "none", "yolo", "coco", "voc", "labelstudio"] = Field(
        "auto",
        description="Where labels come from when `collect` is not told otherwise. auto: YOLO, COCO, VOC, Label Studio, "
        "labels.csv, or train and test folders of the same classes, where a source has them; else none.",
    )
    pattern: str | None = Field(
        None, description="File-name pattern for labels_from: filename, such as '{label}.{n}.jpg'."
    )
    sources: list[str] = Field(
        default_factory=list, description="Folders and files that `run` and `watch` collect from by themselves."
    )
    camera: str = Field("unknown", description="Camera of what does not say which camera it is from.")
    max_file_mb: float = Field(64, gt=0, description="Larger files are refused unread, in megabytes.")
    max_megapixels: float = Field(100, gt=0, description="Larger images are refused undecoded (decompression bombs).")
    frames_per_second: float = Field(1.0, gt=0, description="Frames taken from a video, a second.")
    scene_change: bool = Field(False, description="Take a video's frames on scene change instead of by the clock.")
    parallel: int = Field(8, ge=1, le=64, description="Objects of a bucket that are fetched at a time.")
    after: str = Field(
        "keep",
        pattern=r"^(keep|delete|move:[^:]*[^:/][^:]*|tag:[^=]+=.*)$",
        description="What is done with the objects of a bucket once they are in the catalog: keep, delete, move:PREFIX "
        "or tag:KEY=VALUE. Files of this machine are left alone.",
    )
    label_column: str = Field("label", description="The label's column in CSV and Parquet files of features.")


class Validate(Section):
    """What is refused, and the scores of a data set."""

    min_side: int = Field(8, ge=0, description="Least width and height, in pixels.")
    min_aspect: float = Field(0.35, ge=0, le=1, description="Least ratio of the shorter to the longer side.")
    min_brightness: float = Field(
        0.32, ge=0, le=1, description="Luminance that the brightest hundredth must reach: a digit on black is not dark."
    )
    min_darkness: float = Field(
        0.05, ge=0, le=1, description="1 - luminance that the darkest hundredth must stay below: ink on white is fine."
    )
    min_contrast: float = Field(
        0.08, ge=0, le=1, description="Least luminance between the darkest and the brightest hundredth."
    )
    min_information: float = Field(0.3, ge=0, le=8, description="Least entropy of the grey histogram, in bits.")
    min_sharpness: float = Field(
        0.13, ge=0, description="Least deviation of the Laplacian relative to that of the picture."
    )
    near_duplicates: bool = Field(True, description="Set near duplicates aside; the first of each kind is kept.")
    suspect_confidence: float = Field(
        0.9,
        gt=0,
        le=1,
        description="A label is held wrong where confident learning says so and another label is at least this "
        "probable out of fold.",
    )
    hold_suspects: bool = Field(
        True, description="Keep labels held wrong out of training, for a person to look at; never out of the test set."
    )


class Label(Section):
    """Automatic labels and the review queue."""

    precision: float = Field(
        0.95, gt=0, lt=1, description="Least precision of automatic labels; its 95 % lower bound on held-out data."
    )
    automatic: bool = Field(True, description="Label by the model where it is sure enough.")


class Dataset(Section):
    """Snapshots and splits. Sides are chosen by a hash of the group, so that a sample never changes side."""

    split: str = Field("a", description="Name of the split; another name is another random division.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of groups held out for testing.")
    validation: float = Field(
        0.1, ge=0, lt=1, description="Share for choosing between networks; the exact memory needs none and learns it."
    )
    group_minutes: float = Field(
        5, ge=0, description="Images of one camera in the same bucket of so many minutes stay together; 0: each alone."
    )
    balance: Literal["none", "over", "under", "weights"] = Field(
        "none",
        description="What an export's index.csv tells a trainer to do about uneven classes: see files several times, "
        "leave some out, or weight the loss. The exact memory needs none of it.",
    )

    @model_validator(mode="after")
    def _some_left(self) -> Dataset:
        if self.test + self.validation >= 1:
            raise ValueError(f"test {self.test} and validation {self.validation} leave nothing to learn from")
        return self


class Augment(Section):
    """Altered copies of the training images. Each strength is the most that may happen; 0 switches it off."""

    copies: int = Field(2, ge=0, le=100, description="Copies of each training image.")
    rotation: float = Field(10.0, ge=0, le=180, description="Rotation to either side, in degrees.")
    shift: float = Field(0.05, ge=0, lt=1, description="Shift along either axis, as a share of the side.")
    brightness: float = Field(0.2, ge=0, le=1, description="Brighter or darker, as a share of full white.")
    contrast: float = Field(0.2, ge=0, lt=1, description="More or less contrast, as a share.")
    noise: float = Field(
        0.02, ge=0, le=1, description="Standard deviation of Gaussian noise, as a share of full white."
    )
    blur: float = Field(
        0.01, ge=0, le=1, description="Standard deviation of Gaussian blur, as a share of the shorter side."
    )
    erase: float = Field(0.0, ge=0, lt=1, description="Area of one erased rectangle, as a share of the image.")
    flip: bool = Field(False, description="Mirror half of the copies. It changes what digits, text and signs mean.")
    bend: float = Field(
        0.0,
        ge=0,
        le=0.3,
        description="Where there is a face: how far its landmarks move, as a share of the distance between the eyes; "
        "the face bends with them. It needs landmarks.",
    )
    landmarks: str | None = Field(
        None,
        description="What finds the landmarks of faces: the path of YuNet's ONNX file; a relative one lies beside "
        "everlearn.yaml.",
    )

    @model_validator(mode="after")
    def _finds_what_it_bends(self) -> Augment:
        if self.bend and not self.landmarks:
            raise ValueError(f"bend {self.bend:g} needs landmarks: the path of YuNet's ONNX file")
        return self


class Target(Section):
    """The numbers that a `regress` workspace predicts, in fixed point, so that the memory stays exact."""

    low: float = Field(0.0, description="Smallest target.")
    high: float = Field(100.0, description="Largest target.")
    step: float = Field(0.01, gt=0, description="Targets are rounded to multiples of this.")

    @model_validator(mode="after")
    def _ordered(self) -> Target:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class Learn(Section):
    """The learner."""

    learner: str = Field(
        "exact",
        pattern=r"^(exact|staged(:\S+)?|river:\S+|ensemble:\S.*|yolo(:\S.*)?|onnx:\S.*)$",
        description="What learns: exact, the exact memory; ensemble:SPEC + SPEC, memories over these backbones beside "
        "the workspace's own, combined; or a River estimator by name, such as "
        "river:preprocessing.StandardScaler|linear_model.SoftmaxRegression or river:forest.ARFClassifier?n_models=5; "
        "staged:RECIPE, a network trained in stages by a recipe, five-stage where none is named. For `detect`: "
        "yolo:SPEC, an Ultralytics network by its YAML's name or from a .pt file, yolo:yolo11n.yaml where none is "
        "named; or onnx:FILE, a detector as it is.",
    )
    dimensions: int | None = Field(
        None, ge=16, le=16384, description="Width of the memory's features; empty: the backbone's own default."
    )
    folds: int = Field(5, ge=2, le=20, description="Folds for choosing the regulariser and for honest confidence.")
    target: Target = Field(default_factory=Target, description="Range and step of `regress` targets.")
    replay_bytes: int = Field(
        256 * 2**20, ge=4096, description="Disk that `train --method replay|derpp` may fill with images of old classes."
    )
    unknown: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of strangers that may be taken for a class, such as 0.01: whatever is no more like a class "
        "than they are is answered `unknown`, and the label `unknown` is no class. Empty: each answer is a class.",
    )


class Detect(Section):
    """The detector, where the task is `detect`."""

    size: int = Field(
        640, ge=64, le=4096, multiple_of=32, description="Side of the square that the detector looks at, in pixels."
    )
    epochs: int = Field(100, ge=1, description="Most epochs of one training.")
    patience: int = Field(20, ge=1, description="Epochs without a better mAP on the validation side before it stops.")
    batch: int = Field(16, ge=1, description="Images of one step.")
    seed: int = Field(0, ge=0, description="What is drawn while training follows from it.")
    options: list[str] = Field(
        default_factory=list,
        description="Further settings of Ultralytics' training, as NAME=VALUE: lr0=0.005, mosaic=0.5.",
    )
    distil: float = Field(
        1.0,
        ge=0,
        description="Weight of what the champion would answer, where a training goes on from it: keeps old classes.",
    )
    teachers: list[str] = Field(
        default_factory=list,
        description="Detectors beside the champion that propose boxes on what nobody has labelled: onnx:FILE, "
        "yolo:FILE.pt, VERSION.",
    )
    trust: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Confidence from which a teacher's boxes are taken while too few reviewed images exist to prove a "
        "threshold; empty: until then everything goes to review.",
    )
    audit: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of unlabelled images, drawn by hash, that a person is asked about however sure the models "
        "are: what the precision of automatic labels is proved on.",
    )
    wanted: list[str] = Field(
        default_factory=list,
        description="Classes that teachers are asked for; empty: all that they know.",
    )
    noise: float = Field(
        0.2,
        ge=0.01,
        lt=1,
        description="Trust below which a proposed box is taken for nothing. From here to its class's threshold it is "
        "doubtful, and a person is asked.",
    )
    frames: float = Field(
        5.0,
        ge=0,
        description="Seconds within which two images of one camera are neighbouring frames, whose boxes support each "
        "other; 0: none are.",
    )

    @field_validator("options")
    @classmethod
    def _assignments(cls, value: list[str]) -> list[str]:
        for one in value:
            if not re.fullmatch(r"[a-z_0-9]+=.+", one):
                raise ValueError(f"{one!r} is not NAME=VALUE")
        return value


class Engine(Section):
    """Where features are computed and summed. The results are the same in every bit."""

    kind: Literal["local", "ray"] = Field("local", description="local: in this process; ray: on a Ray cluster.")
    address: str | None = Field(
        None,
        description="The cluster: HOST:PORT or auto on one of its machines, ray://HOST:PORT from elsewhere; empty: one "
        "is started on this machine and ends with the command.",
    )
    workers: int | None = Field(
        None, ge=1, description="Most tasks at a time on the cluster; empty: one for each of its cores."
    )


class Gates(Section):
    """Targets. A failed data gate stops a turn before it learns; a failed model gate keeps a model from promotion.
    An empty value switches a gate off."""

    quality: float | None = Field(0.8, description="Least mean quality score of the images.")
    label_accuracy: float | None = Field(0.95, description="Least share of labels not held wrong.")
    diversity: float | None = Field(0.7, description="Least share of images that stand apart.")
    class_balance: float | None = Field(0.6, description="Least normalised entropy of the class counts.")
    accuracy: float | None = Field(0.95, description="Least accuracy on the test side.")
    precision: float | None = Field(0.90, description="Least macro precision.")
    recall: float | None = Field(0.85, description="Least macro recall.")
    f1: float | None = Field(0.87, description="Least macro F1.")
    map50: float | None = Field(0.8, description="Least mAP at an overlap of 0.5, for `detect`.")
    map50_95: float | None = Field(None, description="Least mAP over overlaps of 0.5 to 0.95, for `detect`.")
    mae: float | None = Field(None, description="Largest mean absolute error, for `regress`.")
    r2: float | None = Field(0.5, description="Least R² for `regress`.")
    training_hours: float | None = Field(2.0, description="Longest training, in hours.")
    memory_gb: float | None = Field(8.0, description="Most memory while training, in gigabytes.")
    best_epoch: int | None = Field(100, description="Latest epoch of a trained network to be its best.")
    gpu_utilisation: float | None = Field(
        0.9,
        ge=0,
        le=1,
        description="Least mean use of the GPU, where a network was trained on one for a minute or more.",
    )
    margin: float = Field(
        0.01, ge=0, description="Non-inferiority margin: how much worse than the champion still counts as equal."
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="Error rate of the comparison with the champion, in all.")


class Watch(Section):
    """When `watch` turns the wheel."""

    poll_seconds: float = Field(5.0, gt=0, description="How often sources are looked at for new files.")
    every_minutes: float | None = Field(None, description="Turn on the clock, whatever has come in.")
    min_new: int = Field(1, ge=1, description="New samples before a turn.")
    drift: bool = Field(True, description="Turn when recorded predictions drift from what the model was tested on.")


class Track(Section):
    """Where runs are mirrored. The catalog and training_logs/ have them in any case."""

    plots: bool = Field(True, description="Draw every training into training_logs/plots/: some seconds each.")
    to: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        default_factory=list, description="Mirrors, all at once if wished: tensorboard, mlflow, wandb."
    )
    experiment: str = Field(
        "everlearn",
        pattern=r"^[\w.-]{1,64}$",
        description="Name of the experiment in MLflow and of the project in W&B: letters, digits, dots and dashes.",
    )
    mlflow: str | None = Field(
        None,
        pattern=r"^https?://[^@\s]+$",
        description="MLflow's server, such as http://host:5000, without a password, which belongs into "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; empty: a database in training_logs/mlflow/.",
    )
    wandb: Literal["offline", "online"] = Field(
        "offline",
        description="offline: files in training_logs/wandb/, for `wandb sync`; online: sent at once, by the key in "
        "WANDB_API_KEY.",
    )
    pictures: bool = Field(
        False, description="Let plots that show people's images leave this machine for a mirror elsewhere."
    )


class Log(Section):
    """training_logs/"""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is written.")
    retention_days: int = Field(3650, ge=1, description="Logs are kept this long.")


class Config(Section):
    """One Everlearn workspace."""

    task: Literal["classify", "regress", "detect"] = Field(
        "classify", description="What the model does: classify, regress or detect."
    )
    backbone: str = Field(
        "patches",
        description="Where features come from: patches (no download), onnx:FILE, timm:NAME, torchvision:NAME, "
        "keras:NAME, features (rows of numbers).",
    )
    catalog: str | None = Field(
        None, description="Database URL; empty: catalog.db here. PostgreSQL: postgresql+psycopg://user@host/name"
    )
    store: str | None = Field(None, description="Where files lie: empty: this folder; or s3://bucket/prefix")
    collect: Collect = Field(default_factory=Collect)
    validate_: Validate = Field(default_factory=Validate, alias="validate")
    label: Label = Field(default_factory=Label)
    dataset: Dataset = Field(default_factory=Dataset)
    augment: Augment = Field(default_factory=Augment)
    learn: Learn = Field(default_factory=Learn)
    detect: Detect = Field(default_factory=Detect)
    engine: Engine = Field(default_factory=Engine)
    gates: Gates = Field(default_factory=Gates)
    watch: Watch = Field(default_factory=Watch)
    track: Track = Field(default_factory=Track)
    log: Log = Field(default_factory=Log)

    @model_validator(mode="before")
    @classmethod
    def _detector_by_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("task") == "detect":
            learn = values.get("learn")
            if learn is None or (isinstance(learn, dict) and learn.get("learner") is None):
                return {**values, "learn": {**(learn or {}), "learner": "yolo"}}
        return values

    @model_validator(mode="after")
    def _learner_for_task(self) -> Config:
        detects = self.learn.learner.partition(":")[0] in ("yolo", "onnx")
        if detects != (self.task == "detect"):
            right = "yolo or onnx:FILE" if self.task == "detect" else "exact"
            raise ValueError(f"learn.learner {self.learn.learner} is not for task {self.task}; set it to {right}")
        return self

    @model_validator(mode="after")
    def _can_be_unknown(self) -> Config:
        if self.task == "regress" and self.learn.unknown is not None:
            raise ValueError(f"learn.unknown {self.learn.unknown} is for classes, and task regress has none")
        if self.learn.learner != "exact" and self.task != "detect" and self.learn.unknown is not None:
            raise ValueError(f"learn.unknown {self.learn.unknown} needs learn.learner exact, not {self.learn.learner}")
        return self

    @field_validator("catalog")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"sqlite:///[^:?]|postgres(ql(\+psycopg)?)?://", value):
            raise ValueError("must be sqlite:///FILE or begin with postgresql+psycopg://")
        return value


def load(path: Path) -> Config:
    """Read everlearn.yaml. Raises Missing where there is none, BadConfig naming the key, the value and the fix."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(f"No {FILE_NAME} in {path.parent}.", "Make a workspace with: everlearn init DIR") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} cannot be read: {error}.", "It must be a UTF-8 text file.") from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfig(f"{path} is not YAML: {' '.join(str(error).split())}.", "Mend that line.") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadConfig(
            f"{path} holds a {type(values).__name__}, not settings.", "Write lines such as `task: classify`."
        )
    return parse(values, path)


def parse(values: dict[str, Any], path: Path) -> Config:
    """Settings from the file, with what the environment says over them."""
    return with_environment(check(values, path), path)


def with_environment(config: Config, path: Path) -> Config:
    """These settings, with what the environment and the `.env` beside the file say over them."""
    environment = {**_dotenv(path.parent / ".env"), **os.environ}
    said = {key: environment[name] for key, name in OVERRIDES.items() if environment.get(name)}
    return check({**config.model_dump(by_alias=True), **said}, path) if said else config


def check(values: dict[str, Any], path: Path) -> Config:
    """Settings from these values alone. path: the file that errors name. Raises BadConfig."""
    try:
        return Config.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise _explained(error, path) from None


def apply_dotenv(folder: Path) -> None:
    """Put the variables of `folder/.env` into the environment, such as the keys of a bucket; what is set already stays.
    Not those that are settings of this workspace: another one in the same process must not get them."""
    for key, value in _dotenv(folder / ".env").items():
        if key not in OVERRIDES.values():
            os.environ.setdefault(key, value)


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        return {key: value for key, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError):  # their words may hold what the file says
        raise BadConfig(f"{path} cannot be read.", "It must be a UTF-8 text file of NAME=VALUE lines.") from None


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 100, 100
"""References can make a value far larger than its file."""


def _explained(error: ValidationError, path: Path) -> BadConfig:
    first = error.errors(include_url=False)[0]
    where = " ".join(".".join(str(part) for part in first["loc"]).split())
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(first["loc"][:-1]), n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(_keys_at(first['loc'][:-1]))}."
        return BadConfig(f"{path}: there is no setting {where}.", remedy)
    value = first.get("input")
    secret = where in (*OVERRIDES, "track.mlflow")  # an address may hold a password
    shown = "" if isinstance(value, dict) or secret else f" is {_SHORT.repr(value)}"
    if first["type"] == "string_pattern_mismatch":  # what may stand there is told in words, not as a pattern
        return BadConfig(
            f"{path}: {where}{shown}.", _fields_at(first["loc"][:-1])[str(first["loc"][-1])].description or ""
        )
    return BadConfig(f"{path}: {where}{shown}: {first['msg'].removeprefix('Value error, ')}.", "Mend that line.")


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    return list(_fields_at(location))


def _fields_at(location: tuple[Any, ...]) -> dict[str, FieldInfo]:
    """By the names that they have in the file; empty where there is no section."""
    model: Any = Config
    for part in location:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        if field is None or not hasattr(field.annotation, "model_fields"):
            return {}
        model = field.annotation
    return {field.alias or name: field for name, field in model.model_fields.items()}


def schema() -> dict[str, Any]:
    """The JSON schema of everlearn.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(by_alias=True)}


def commented(config: Config) -> str:
    """everlearn.yaml with every setting, its value and what it means. Reads back as `config`."""
    head = [
        "# Everlearn workspace. Every setting stands here with its value; delete what you do not change.",
        "# yaml-language-server: $schema=./everlearn.schema.json",
        "",
    ]
    return "\n".join([*head, *_lines(config, 0)]) + "\n"


def _lines(section: BaseModel, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), field.alias or name
        if isinstance(value, BaseModel):
            yield from ["", f"{pad}# {' '.join((type(value).__doc__ or '').split())}"] if depth == 0 else []
            yield f"{pad}{key}:"
            yield from _lines(value, depth + 1)
            continue
        for line in textwrap.wrap(field.description or "", 110 - len(pad)):
            yield f"{pad}# {line}"
        yield f"{pad}{key}: {_scalar(value)}".rstrip()


def _scalar(value: Any) -> str:
    """One line of YAML that reads back as this value; nothing for None."""
    if value is None:
        return ""
    options: dict[str, Any] = {"default_flow_style": True, "allow_unicode": True, "width": 1 << 30}
    plain = yaml.safe_dump(value, **options).removesuffix("\n...\n").strip()
    if "\n" in plain or yaml.safe_load(plain) != value:
        return yaml.safe_dump(value, default_style='"', **options).strip()
    return plain
