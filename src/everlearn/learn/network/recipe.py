"""A recipe: how a network is trained, as typed data. YAML in `recipes/` and in people's own files, or Python.

A recipe is a list of stages, trained one after another on the same network. Each has its own augmentation,
regularisation, schedule and loss, and begins with the weights that were best so far. The description of each field is
its documentation, wherever it is shown.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from everlearn.config import Section
from everlearn.errors import BadConfig, Missing

Freeze = Literal["none", "backbone", "half"]
ContinueAs = Literal["fine_tune", "regularization", "exploration"]


class Optimizer(Section):
    """What turns gradients into steps. The learning rate is that of one process; n processes take n times it."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = Field("adamw", description="sgd, adam, adamw or rmsprop.")
    learning_rate: float = Field(0.001, gt=0, description="Step size at the schedule's highest point.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd and rmsprop.")
    nesterov: bool = Field(False, description="Nesterov's momentum, of sgd.")
    weight_decay: float = Field(0.01, ge=0, description="Pull of every weight matrix toward 0; biases and norms none.")


class Schedule(Section):
    """How the learning rate moves, step by step; plateau: epoch by epoch."""

    name: Literal["constant", "step", "cosine", "one_cycle", "plateau"] = Field(
        "cosine", description="constant; step: times factor every step_epochs; cosine: to final; one_cycle; plateau."
    )
    warmup_epochs: float = Field(0.0, ge=0, description="Linear rise from 0 over so many epochs; part of an epoch too.")
    step_epochs: int = Field(10, ge=1, description="Of step: epochs between two cuts.")
    factor: float = Field(0.1, gt=0, lt=1, description="Of step and plateau: what a cut multiplies the rate by.")
    patience: int = Field(3, ge=0, description="Of plateau: epochs without a lower validation loss before a cut.")
    final: float = Field(0.01, ge=0, lt=1, description="Of cosine and one_cycle: the last rate, as a share of the top.")


class Loss(Section):
    """What is made small."""

    name: Literal["cross_entropy", "focal", "bce", "mse", "mae", "huber"] = Field(
        "cross_entropy",
        description="cross_entropy, focal, bce (each class by itself; several labels at once) for classes; mse, mae, "
        "huber for numbers.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that is spread over all classes.")
    class_weights: bool = Field(False, description="Weigh classes by the inverse of their number of images.")
    gamma: float = Field(2.0, ge=0, description="Of focal: how much what is known already is left alone.")
    delta: float = Field(1.0, gt=0, description="Of huber: the error, in deviations of the targets, where squares end.")


class Augmentation(Section):
    """What happens to each training image, anew in every epoch. Each strength is the most that may happen; 0 is off."""

    rotation: float = Field(0.0, ge=0, le=180, description="Rotation to either side, in degrees.")
    shift: float = Field(0.0, ge=0, lt=1, description="Shift along either axis, as a share of the side.")
    scale: float = Field(0.0, ge=0, lt=1, description="Larger or smaller, as a share.")
    flip: bool = Field(False, description="Mirror half of the images. It changes what digits, text and signs mean.")
    brightness: float = Field(0.0, ge=0, le=1, description="Brighter or darker, as a share.")
    contrast: float = Field(0.0, ge=0, lt=1, description="More or less contrast, as a share.")
    noise: float = Field(0.0, ge=0, le=1, description="Standard deviation of Gaussian noise, as a share of full white.")
    blur: float = Field(0.0, ge=0, le=1, description="Standard deviation of Gaussian blur, as a share of the side.")
    erase: float = Field(0.0, ge=0, lt=1, description="Area of one erased rectangle, as a share of the image.")
    policy: Literal["none", "randaugment", "trivialaugment"] = Field(
        "none", description="A published policy on top: randaugment or trivialaugment. Neither mirrors."
    )
    mixup: float = Field(0.0, ge=0, description="Alpha of MixUp's Beta distribution; 0: off.")
    cutmix: float = Field(0.0, ge=0, description="Alpha of CutMix's Beta distribution; 0: off.")


class Stage(Section):
    """One stage of a recipe."""

    name: str = Field("training", pattern=r"^[a-z][a-z0-9_]{0,31}$", description="In file names: stage_1_baseline.pt.")
    description: str = Field("", description="What the stage is for, in a line.")
    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training images, at most.")
    batch_size: int = Field(32, ge=1, description="Images in a step of one process; n processes take n times as many.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="What turns gradients into steps.")
    schedule: Schedule = Field(default_factory=Schedule, description="How the learning rate moves.")
    loss: Loss = Field(default_factory=Loss, description="What is made small.")
    augmentation: Augmentation = Field(default_factory=Augmentation, description="What happens to training images.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout rate set in the network; empty: its own.")
    freeze: Freeze = Field(
        "none", description="What is not trained: none; backbone: all but the head; half: the first half of it."
    )
    sampling: Literal["natural", "balanced", "over", "under"] = Field(
        "natural",
        description="natural: each image once an epoch; balanced: drawn so that classes are equally likely; over: rare "
        "classes repeated; under: frequent ones cut.",
    )
    patience: int | None = Field(None, ge=1, description="Stop after so many epochs without a better one; empty: no.")
    select: Literal["loss", "accuracy"] = Field(
        "accuracy",
        description="What makes an epoch the best on the validation side: accuracy (ties: the lower loss), or loss. "
        "For numbers: loss.",
    )
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of an average of the weights, which is then judged; 0: off.")
    clip: float | None = Field(None, gt=0, description="Longest gradient, by its norm; empty: as long as it is.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are added up before a step.")
    snapshots: int = Field(
        1, ge=1, description="Cycles of the schedule; the weights at the end of each are kept for a snapshot ensemble."
    )


class Recipe(Section):
    """A network and the stages that train it."""

    name: str = Field("recipe", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="Of the recipe.")
    network: str = Field(
        "cnn",
        description="cnn, cnn:depth=4,width=32,dropout=0.2,norm=batch, timm:NAME or torchvision:NAME (with their "
        "pretrained weights; NAME?pretrained=no: from scratch), or a backbone (onnx:FILE, keras:NAME, patches), which "
        "stays as it is under a new head.",
    )
    size: int = Field(64, ge=8, le=1024, description="Side of the square that each image becomes, in pixels.")
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=100, description="Trained one after another.")
    improvement_threshold: float = Field(
        -1.0,
        description="Go on to the next stage only where the last raised the best score by at least this; negative: "
        "train every stage.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="The same seed gives the same weights on one machine's CPU.")
    precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision; auto: bf16 on GPUs that have it, no elsewhere."
    )
    processes: int | None = Field(None, ge=1, description="Processes to train in; empty: one for each visible GPU.")
    workers: int | None = Field(None, ge=0, description="Processes that prepare images; empty: as the machine allows.")

    @field_validator("stages")
    @classmethod
    def _names_differ(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are called {name}")
        return stages

    @model_validator(mode="after")
    def _one_kind_of_loss(self) -> Recipe:
        numbers = {stage.loss.name in ("mse", "mae", "huber") for stage in self.stages}
        if len(numbers) > 1:
            raise ValueError("some stages have a loss for classes, others one for numbers")
        if len({stage.loss.name == "bce" for stage in self.stages}) > 1:  # other answers, and other losses to judge by
            raise ValueError("some stages have loss bce, which asks of each class by itself, others do not")
        if True in numbers:
            for stage in self.stages:
                if stage.augmentation.mixup or stage.augmentation.cutmix or stage.sampling != "natural":
                    raise ValueError(f"stage {stage.name}: mixup, cutmix and sampling are for classes, not for numbers")
        return self

    def quick(self, epochs_per_stage: int = 1) -> Recipe:
        """The same recipe with so few epochs in each stage, and every stage trained: a test run. Warm-ups shrink with
        the epochs."""

        def short(stage: Stage) -> Stage:
            warm = stage.schedule.warmup_epochs * min(1.0, epochs_per_stage / stage.epochs)
            schedule = stage.schedule.model_copy(update={"warmup_epochs": warm})
            return stage.model_copy(update={"epochs": epochs_per_stage, "schedule": schedule})

        stages = tuple(short(stage) for stage in self.stages)
        return self.model_copy(update={"stages": stages, "improvement_threshold": -1.0})


class _Strict(yaml.SafeLoader):
    """A key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def shipped() -> list[str]:
    """Names of the recipes that come with Everlearn."""
    return sorted(one.name.removesuffix(".yaml") for one in folder().iterdir() if one.name.endswith(".yaml"))


def load(recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe by its shipped name, from a YAML file, or from values. Raises Missing, BadConfig."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return _checked(recipe, "The recipe")
    if isinstance(recipe, str) and recipe in shipped():
        text, where = (folder() / f"{recipe}.yaml").read_text(encoding="utf-8"), f"recipe {recipe}"
    else:
        path = Path(recipe)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise Missing(f"There is no recipe {recipe}.", f"Shipped: {', '.join(shipped())}; or name a YAML file.")
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"{path} cannot be read: {error}.", "It must be a UTF-8 text file.") from None
    try:
        values = yaml.load(text, _Strict)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfig(f"{where} is not YAML: {' '.join(str(error).split())}.", "Mend that line.") from None
    if not isinstance(values, dict):
        raise BadConfig(f"{where} holds no settings.", "Begin with `name:` and `stages:`; see docs/recipes.md.")
    return _checked(values, where)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The same recipe with these fields changed: `size=96`, `stages.0.optimizer.learning_rate=0.01`,
    `stages.augmentation.epochs=5`, `stages.*.batch_size=64`. Raises BadConfig for a field or value that cannot be."""
    if not changes:
        return recipe
    values: Any = json.loads(recipe.model_dump_json())
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise BadConfig(f"{change!r} is no change.", "Write FIELD=VALUE, as stages.0.epochs=5.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _set(values, path.split("."), value, path)
    return _checked(values, "The recipe")


def _set(values: Any, path: Sequence[str], value: Any, whole: str) -> None:
    for place in _places(values, path[0]):
        inside = values[place] if isinstance(values, list) or place in values else None
        if len(path) > 1 and isinstance(inside, dict | list):
            _set(inside, path[1:], value, whole)
        elif len(path) == 1 and isinstance(values, dict) and place in values:
            values[place] = value
        else:
            known = ", ".join(values) if isinstance(values, dict) else "the stages' names"
            if len(whole.split(".")) <= 2:
                known += f"; of a stage, write stages.*.{whole}"
            raise BadConfig(f"A recipe has no field {whole}.", f"There: {known}.")


def _places(values: Any, name: str) -> list[Any]:
    """Of a list of stages: all for `*`, by number from 0, or by name."""
    if not isinstance(values, list):
        return [name]
    if name == "*":
        return list(range(len(values)))
    found = [at for at, one in enumerate(values) if name in (str(at), one.get("name"))]
    if not found:
        raise BadConfig(f"There is no stage {name}.", f"There: {', '.join(one['name'] for one in values)}.")
    return found


def _checked(values: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "it"
        raise BadConfig(
            f"{where}: {key}: {first['msg']} (it says {reprlib.repr(first.get('input')):.80}).",
            "Each field: docs/recipes.md.",
        ) from None


def folder() -> Any:
    """Where the shipped recipes lie."""
    return resources.files(__package__ or "everlearn.learn.network") / "recipes"
