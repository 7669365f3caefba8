"""A training of a YOLO: Ultralytics' data, augmentation, losses, metrics and pictures in a loop of ours.

Every draw of an epoch follows from (seed, epoch), every epoch ends with a whole step, and after it all that decides how
the training goes on is kept in one file, whole or not at all. So a training that was killed goes on at its last whole
epoch, and on a CPU it ends with the very weights that it would have had; on a GPU the last bits differ from run to run,
whether it was killed or not.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlearn.errors import BadConfig, BadInput, TooFew
from everlearn.model.detecting import labels, quiet, remembering, weights
from everlearn.model.detecting.losses import DISTIL, criterion
from everlearn.model.detecting.pictures import Images, Judge
from everlearn.model.detecting.remembering import Answers
from everlearn.model.detecting.training import (
    DetectionEpoch,
    DetectionJob,
    DetectionWatch,
    Stopped,
    TrainedDetector,
    read_about,
)
from everlearn.model.detecting.yolo import DetectionTrainer, YoloDetector, autocast
from everlearn.model.trainable import read_tensors
from everlearn.workspace import read_json, write_whole

RESUME, RESULT = "resume.pt", "result.json"
FORMAT = "everlearn yolo training 1"


class Course(DetectionTrainer):  # type: ignore[misc]
    """One training. Its name holds no "Trainer": Ultralytics hangs its trackers on classes that are called so."""

    def __init__(
        self, job: DetectionJob, student: YoloDetector, teacher: YoloDetector | None, watch: DetectionWatch,
        overrides: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.job, self.student, self.watch = job, student, watch
        self.teacher = None if teacher is None or not job.distil else teacher
        self.about = read_about(job.about, job.classes)
        if self.about and (overrides.get("mixup") or overrides.get("cutmix")):
            raise BadConfig(
                "mixup and cutmix lay images over each other whose labels cover other classes.", "Set them 0."
            )
        self.history: list[DetectionEpoch] = []
        self.stopped: Stopped = "epochs"
        self.seconds, self._closed = 0.0, False
        self.accumulate = 1
        self.decisive = job.decisive
        super().__init__(overrides=dict(overrides))
        self.model = student.network

    # --- what Ultralytics asks for ---

    def get_dataset(self) -> dict[str, Any]:
        """Read by ourselves: its own reader would fetch, unpack and even run what a data.yaml asks for."""
        found = labels.read_data(Path(self.job.data), self.job.classes)
        names = dict(enumerate(found.names))
        return {"names": names, "nc": len(names), "channels": 3, "train": found.train, "val": found.val,
                "path": Path(self.job.data).parent}  # fmt: skip

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Images:
        found = Images(img_path, self.args, self.data, self.about, augment=mode == "train", batch=batch or 1)
        if mode == "train" and not any(len(one["cls"]) for one in found.labels):
            raise TooFew(f"Not one box is labelled in {self.job.data}.", "Label some.")
        return found

    def get_validator(self) -> Judge:
        return Judge(
            self.about, self.test_loader, save_dir=self.save_dir, args=vars(self.args), _callbacks=self.callbacks
        )

    def resume_training(self, ckpt: Any) -> None:
        """Called when all is built: from the file of ours, where there is one."""
        self._prepare_precision()
        for network in (self.model, self.ema.ema):
            network.criterion = criterion(network, self.job.distil)
        self.digest = labels.digest([*self.train_loader.dataset.labels, *self.test_loader.dataset.labels])
        path = self.wdir / RESUME
        if path.exists():
            self._load(read_tensors(path, str(path)))

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess_batch(batch)
        names = [Path(one).name for one in batch["im_file"]]
        known = remembering.labelled(names, self.about, len(self.job.classes))
        batch["labelled"] = None if known is None else known.to(self.device)
        return batch

    # --- the loop ---

    def _do_train(self) -> None:
        self._setup_train()
        steps = len(self.train_loader)
        warm, most = self._get_warmup_iterations(steps), self.accumulate
        self._begin(steps)
        begun = time.time() - self.seconds
        self.train_time_start = begun  # the column `time` of results.csv
        self.epoch = self.start_epoch
        while self.stopped == "epochs" and self.epoch < self.epochs:
            started = time.time()
            self._draw_anew()
            if self._learn(steps, warm, most):
                self._judge(time.time() - started, begun)
            self.epoch += 1
        self._finish()

    def _learn(self, steps: int, warm: int, most: int) -> bool:
        """One pass over the training images; False where the loss is no number any more. most: batches in a step."""
        self._model_train()
        self.tloss: dict[str, Tensor] = {}
        pending = 0
        for place, batch in enumerate(self.train_loader):
            at = place + steps * self.epoch
            self.accumulate = self._warm_up(at, warm, most)
            loss, items = self._loss(batch)
            if not torch.isfinite(loss):
                self.stopped = "diverged"
                self.watch.say(
                    f"The loss is no number any more at epoch {self.epoch + 1}, step {place + 1}. The best weights so "
                    "far are kept. Lower lr0."
                )
                return False
            self.tloss = {key: (self.tloss.get(key, 0.0) * place + one) / (place + 1) for key, one in items.items()}
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            pending += 1
            if pending >= self.accumulate or place + 1 == steps:
                self.optimizer_step()
                pending = 0
            self.watch.step(
                self.epoch + 1, place + 1, steps, float(loss.detach()), self.optimizer.param_groups[0]["lr"]
            )
            if self.args.plots and at in self.plot_idx:
                self.plot_training_samples(batch, at)
        return True

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            with autocast(self.amp_type, device=self.device.type):
                batch = self.preprocess_batch(batch)
                if self.teacher is not None:
                    batch["answers"] = self._asked(batch["img"])
                loss, items = self.model(batch)
        except torch.cuda.OutOfMemoryError:
            raise BadConfig(
                f"The GPU has too little memory for {self.job.batch} images of {self.job.size} px.",
                "Set a smaller batch, size or network.",
            ) from None
        self.loss_names = tuple(items)
        self.loss = loss.sum()
        # what the validator adds up on its side, where no teacher is asked
        self.loss_items = {key: one for key, one in items.items() if key != DISTIL}
        return self.loss, items

    @torch.no_grad()
    def _asked(self, images: Tensor) -> dict[str, Answers]:
        """The teacher's raw answers, by branch of the head."""
        assert self.teacher is not None
        said = self._teacher_network(images)[1]
        branches = said if "one2many" in said else {"one2many": said}
        places = remembering.places(self.job.classes, self.teacher.classes)
        return {key: Answers(one["scores"].float(), one["boxes"].float(), places) for key, one in branches.items()}

    def _warm_up(self, at: int, warm: int, most: int) -> int:
        """Rates and momentum in the first steps, as Ultralytics sets them; returns batches in a step."""
        if not warm or at > warm:
            return most
        for group in self.optimizer.param_groups:
            low = self.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = float(np.interp(at, [0, warm], [low, group["initial_lr"] * self.lf(self.epoch)]))
            if "momentum" in group:
                group["momentum"] = float(np.interp(at, [0, warm], [self.args.warmup_momentum, self.args.momentum]))
        return max(1, int(np.interp(at, [0, warm], [1, most]).round()))

    def _draw_anew(self) -> None:
        """What this epoch draws follows from its place alone: there is no state to save."""
        key = int.from_bytes(hashlib.sha256(f"{self.job.seed} {self.epoch}".encode()).digest()[:4], "big")
        random.seed(key)
        np.random.seed(key)  # noqa: NPY002 Ultralytics draws from it
        torch.manual_seed(key)
        self.train_loader.generator.manual_seed(key)
        if self.args.close_mosaic and self.epoch >= self.epochs - self.args.close_mosaic and not self._closed:
            self._close_dataloader_mosaic()
            self._closed = True
        self.train_loader.dataset.forget()
        self.train_loader.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scheduler's step before the optimizer's
            self.scheduler.step()

    def _judge(self, seconds: float, begun: float) -> None:
        """After an epoch: what the averaged weights are worth, kept on disk and told."""
        update = getattr(self.model.criterion, "update", None)
        if update is not None:  # the weights of the two branches of YOLO26
            update()
        self.lr = {f"lr/pg{place}": group["lr"] for place, group in enumerate(self.optimizer.param_groups)}
        self.ema.update_attr(self.model, include=["yaml", "nc", "args", "names", "stride", "class_weights"])
        self.metrics, self.fitness = self.validate()
        self.save_metrics({**self.label_loss_items(self.tloss), **self.metrics, **self.lr})
        self.seconds = time.time() - begun
        precision, recall, map50, map50_95 = _figures(self.metrics)
        losses = {key: float(one) for key, one in self.tloss.items()}
        found = DetectionEpoch(
            self.epoch + 1, losses, _named(self.metrics, "val/"), precision, recall, map50, map50_95,
            self.optimizer.param_groups[0]["lr"], seconds, self._get_memory(),
        )  # fmt: skip
        self.history.append(found)
        if self.stopper(self.epoch + 1, self.fitness):
            self.stopped = "patience"
        if self.watch.epoch(found):
            self.stopped = "asked"
        if self.stopper.best_epoch == self.epoch + 1:
            weights.save(self.best, self._weights())
        self._keep()

    # --- what is kept ---

    def _weights(self) -> weights.Weights:
        return YoloDetector(self.ema.ema, self.student.kept, self.student.spec).weights(
            size=self.job.size,
            facts={"epoch": self.epoch + 1, "metrics": _plain_numbers(self.metrics)},
        )

    def _keep(self) -> None:
        """Whole or not at all."""
        scaler = self.scaler.state_dict()
        state = {
            "format": FORMAT, "job": json.dumps(self.decisive, sort_keys=True), "data": self.digest,
            "epoch": self.epoch + 1, "network": _copied(self.model.state_dict()),
            "ema": _copied(self.ema.ema.state_dict()), "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(), "scaler": scaler,
            "best_fitness": float(self.stopper.best_fitness), "best_epoch": int(self.stopper.best_epoch),
            "metrics": _plain_numbers(self.metrics), "stopped": self.stopped, "seconds": self.seconds,
            "csv": self.csv.read_text(encoding="utf-8"),
            "history": json.dumps([_plain(one) for one in self.history]),
        }  # fmt: skip
        file = io.BytesIO()
        torch.save(state, file)
        write_whole(self.wdir / RESUME, file.getvalue())

    def _load(self, state: Mapping[str, Any]) -> None:
        """Raises BadInput where it is another training's."""
        if state.get("format") != FORMAT:
            raise BadInput(f"{self.wdir / RESUME} is no training of ours.", "Train into another folder.")
        before, now = json.loads(state["job"]), json.loads(json.dumps(self.decisive))
        changed = [f"{key}: {before.get(key)}, now {now[key]}" for key in now if before.get(key) != now[key]]
        if state["data"] != self.digest:
            changed.append("other images or boxes")
        if changed:
            raise BadInput(
                f"{self.save_dir} was begun with something else: {'; '.join(changed[:6])}.",
                "Train into another folder.",
            )
        self.model.load_state_dict(state["network"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = int(state["updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.start_epoch = int(state["epoch"])
        self.best_fitness = self.stopper.best_fitness = float(state["best_fitness"])
        self.stopper.best_epoch = int(state["best_epoch"])
        self.stopped, self.seconds = state["stopped"], float(state["seconds"])
        self.history = [DetectionEpoch(**one) for one in json.loads(state["history"])]
        self.metrics = dict(state["metrics"])
        self.loss_items = {name: torch.zeros((), device=self.device) for name in self.history[-1].val_losses}
        self.loss_names = tuple(self.history[-1].losses)
        self.csv.write_text(state["csv"], encoding="utf-8")
        update: Any = getattr(self.model.criterion, "update", None)
        for _ in range(self.start_epoch if update is not None else 0):
            update()

    def _begin(self, steps: int) -> None:
        if self.teacher is not None:
            if self.teacher.network.stride.tolist() != self.student.network.stride.tolist():
                raise BadInput(
                    "The teacher looks at other places than the network to train.", "Choose one of its kind."
                )
            self._teacher_network = self.teacher.network.to(self.device).eval().requires_grad_(False)
        self.optimizer.zero_grad()
        if self.args.close_mosaic:
            first = (self.epochs - self.args.close_mosaic) * steps
            self.plot_idx.extend([first, first + 1, first + 2])
        self.watch.begin(self.job, {
            "images": len(self.train_loader.dataset), "validation": len(self.test_loader.dataset),
            "device": str(self.device), "epochs": self.epochs, "steps": steps, "begun_at": self.start_epoch,
            "parameters": sum(one.numel() for one in self.model.parameters()),
        })  # fmt: skip

    def _prepare_precision(self) -> None:
        """Half precision on a GPU; Ultralytics would fetch a network first to see whether that works."""
        wanted = self.job.settings.get("amp", True) if self.device.type == "cuda" else False
        self.amp = bool(wanted)
        self.amp_type: bool | torch.dtype = torch.bfloat16 if wanted == "bf16" else self.amp
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and wanted != "bf16")

    def _finish(self) -> None:
        """The best weights are judged once more, with pictures, and the result is told."""
        if not self.best.exists():  # diverged before the first epoch was over
            raise BadConfig("No epoch came to a network: the loss is no number.", "Lower lr0.")
        weights.save(self.last, self._weights_now())
        best = weights.load(self.best)
        self.ema.ema.load_state_dict(dict(best.state))
        self.validator.args.plots = self.args.plots
        self.stopper.possible_stop = True  # pictures of the last
        metrics = self.validator(self)
        if self.args.plots:
            self.plot_metrics()
            quiet.wait_for_pictures()
        box = self.validator.metrics.box
        found = {int(kind): (float(box.ap50[row]), float(box.ap[row])) for row, kind in enumerate(box.ap_class_index)}
        per_class = {name: found[number] for number, name in enumerate(self.job.classes) if number in found}
        precision, recall, map50, map50_95 = _figures(metrics)
        self.result = TrainedDetector(
            self.best, self.last, int(best.facts["epoch"]), map50, map50_95, precision, recall, per_class,
            tuple(self.history), self.stopped, self.seconds,
        )  # fmt: skip
        result = {**self.result.to_json(), "job": self.decisive, "data": self.digest}
        write_whole(self.save_dir / RESULT, json.dumps(result, ensure_ascii=False).encode())
        (self.wdir / RESUME).unlink(missing_ok=True)

    def _weights_now(self) -> weights.Weights:
        if not self.history:
            return weights.load(self.best)
        self.epoch = self.history[-1].epoch - 1
        return self._weights()


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().to("cpu", copy=True) for name, one in state.items()}


def _figures(metrics: Mapping[str, float]) -> tuple[float, float, float, float]:
    """Precision, recall, mAP50, mAP50-95."""
    precision, recall, half, all_of_them = (
        float(metrics[f"metrics/{one}(B)"]) for one in ("precision", "recall", "mAP50", "mAP50-95")
    )
    return precision, recall, half, all_of_them


def _plain_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(one) for name, one in values.items()}


def _named(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): float(one) for key, one in values.items() if key.startswith(prefix)}


def _plain(epoch: DetectionEpoch) -> dict[str, Any]:
    return {name: getattr(epoch, name) for name in epoch.__slots__}


def done(job: DetectionJob) -> TrainedDetector | None:
    """What came of this very job, where it is done. Raises BadInput where another one lies in its folder."""
    folder = Path(job.folder)
    if not (folder / RESULT).exists():
        return None
    found = read_json(folder / RESULT)
    if found.get("job") != json.loads(json.dumps(job.decisive)):
        raise BadInput(f"Another training lies in {folder}.", "Train into another folder.")
    return TrainedDetector.from_json(found, folder / "weights")
