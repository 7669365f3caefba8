"""What a YOLO in training is blamed for: Ultralytics' losses, with what `remembering` changes in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.model.detecting import remembering
from everlearn.model.detecting.remembering import Answers
from everlearn.model.detecting.yolo import E2ELoss, v8DetectionLoss

DISTIL = "distil_loss"


class Losses(v8DetectionLoss):  # type: ignore[misc]
    """Ultralytics' losses, but for classes that an image's labels say nothing of, and with a teacher: `remembering`."""

    distil, branch = 0.0, "one2many"

    def loss(self, preds: dict[str, Tensor], batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        answers: Answers | None = batch.get("answers", {}).get(self.branch)
        told = batch.get("labelled")
        self.bce = lambda scores, targets: remembering.class_loss(scores, targets, told, answers)
        found, items = super().loss(preds, batch)
        if "answers" not in batch:
            return found, items
        extra = found.new_zeros(1)
        if answers is not None:
            extra = self.distil * remembering.distillation(preds["scores"], preds["boxes"], answers)[None]
        images = preds["boxes"].shape[0]
        return torch.cat([found, extra * images]), {**items, DISTIL: extra.detach()[0]}


def criterion(network: Any, distil: float) -> Any:
    """What a network's `loss` is computed by."""
    one_to_one = getattr(network.model[-1], "one2one_cv2", None) is not None
    found = E2ELoss(network, Losses) if one_to_one else Losses(network)
    for branch in ("one2many", "one2one") if one_to_one else ("",):
        part = getattr(found, branch) if branch else found
        part.distil, part.branch = distil, branch or "one2many"
    return found
