"""TensorBoard, MLflow and W&B as `types.Tracker`s. Each library is imported when its mirror is opened.

All of them write inside the workspace unless the settings name a server. None of them is told about the machine, its
user, its packages or its program: what they have is what a run gives them.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from everlearn.errors import NotInstalled
from everlearn.track import LOGS, MLFLOW_ARTIFACTS, SHOWING

if TYPE_CHECKING:
    from everlearn.config import Track
    from everlearn.types import Scalar

T = TypeVar("T")
PICTURES = (".png", ".jpg", ".jpeg")


@runtime_checkable
class Named(Protocol):
    """A mirror that has a name of its own for a run."""

    id: str


def missing(part: str, extra: str) -> NotInstalled:
    return NotInstalled(f"track.to names {part}, which is not installed.", f"pip install 'everlearn[{extra}]'")


class TensorBoard:
    """Event files; see them with `tensorboard --logdir training_logs/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing("tensorboard", "train") from None
        self._writer = SummaryWriter(str(folder))

    def params(self, values: Mapping[str, Scalar]) -> None:
        rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in values.items())
        self._writer.add_text("params", f"| setting | value |\n|---|---|\n{rows}", 0)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def artifact(self, path: Path) -> None:
        """Pictures are shown; other files lie beside, in the workspace."""
        if path.suffix.lower() in PICTURES:
            import numpy as np
            from PIL import Image

            with Image.open(path) as picture:
                self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), 0, dataformats="HWC")

    def finish(self, status: str = "done") -> None:
        self._writer.add_text("status", status, 0)
        self._writer.close()


class MLflow:
    """A run in MLflow; see it with `mlflow ui --backend-store-uri sqlite:///training_logs/mlflow/mlflow.db`."""

    MANY = 100  # params in one request, at most
    LONG = 500  # characters of a value

    def __init__(
        self, run: str, settings: Track, root: Path, *, known: str | None = None, parent: str | None = None
    ) -> None:
        """known: MLflow's own id of this run, where it goes on; parent: of the run above it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # training must not wait minutes for a mirror
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise missing("mlflow", "mlflow") from None
        for talker in ("mlflow", "alembic"):
            logging.getLogger(talker).setLevel(logging.WARNING)
        folder = root / LOGS / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=settings.mlflow or f"sqlite:///{folder / 'mlflow.db'}")
        self._pictures = settings.pictures or settings.mlflow is None
        self._told: set[str] = set()
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            self._told = set(self._client.get_run(known).data.params)
            return
        found = self._client.get_experiment_by_name(settings.experiment)
        place = None if settings.mlflow else (root / MLFLOW_ARTIFACTS).as_uri()
        number = found.experiment_id if found else self._client.create_experiment(settings.experiment, place)
        tags = {"mlflow.parentRunId": parent} if parent else None
        self.id = self._client.create_run(number, run_name=run, tags=tags).info.run_id

    def params(self, values: Mapping[str, Scalar]) -> None:
        """MLflow refuses another value for what it was told before, so the first is kept."""
        from mlflow.entities import Param

        new = {key: _cell(value)[: self.LONG] for key, value in values.items() if key not in self._told}
        self._told |= new.keys()
        for part in _batched(new.items(), self.MANY):
            self._client.log_batch(self.id, params=[Param(key, value) for key, value in part])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def artifact(self, path: Path) -> None:
        if self._pictures or not path.name.startswith(SHOWING):
            self._client.log_artifact(self.id, str(path))

    def finish(self, status: str = "done") -> None:
        ended = {"done": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        self._client.set_tag(self.id, "status", status)
        self._client.set_terminated(self.id, ended)


class WandB:
    """A run in W&B; offline it is files, which `wandb sync training_logs/wandb/RUN/wandb/offline-*` sends."""

    def __init__(self, run: str, settings: Track, folder: Path, *, parent: str | None = None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise missing("wandb", "wandb") from None
        folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE") or settings.wandb
        self._pictures = settings.pictures or mode == "offline"
        nothing_else = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, host="", username="",
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        self._run: Any = wandb.init(
            project=settings.experiment, id=run, name=run, group=parent, dir=str(folder), mode=mode, resume="allow",
            reinit="create_new", settings=nothing_else,
        )  # fmt: skip

    def params(self, values: Mapping[str, Scalar]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({name: value for name, value in values.items() if math.isfinite(value)}, step=step)

    def artifact(self, path: Path) -> None:
        if self._pictures or not path.name.startswith(SHOWING):
            inside = Path(self._run.dir) / path.name  # a link to a file outside would be all that it keeps
            shutil.copyfile(path, inside)
            self._run.save(str(inside), base_path=self._run.dir, policy="now")

    def finish(self, status: str = "done") -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("done", "pruned") else 1)


def _cell(value: Scalar) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
