"""What keeps a YOLO from forgetting: classes that an image's labels say nothing of are no background there, and a
teacher, the detector as it was, is asked about them.

    class loss of image n, anchor a, class c  =  BCE(s, target)         where the labels of n are complete for c
                                                 BCE(s, sigmoid(t))     else, where the teacher knows c
                                                 0                      else
    distillation  =  sum_a w_a [ sum_c BCE(s, sigmoid(t)) + mean_side H(softmax(d_t / T), softmax(d / T)) ] / sum_a w_a
    w_a = max_c sigmoid(t)                       c over the classes that the teacher knows

s: the student's class logits, d: its logits over distances of each of a box's four sides; t, d_t: the teacher's. The
first is what pseudo-labels do, softly and without a threshold. The second follows Learning without Forgetting (Li &
Hoiem 2016, arXiv:1606.09282) as made for YOLO by De Monte et al. 2025, "Teach YOLO to Remember" (arXiv:2503.04688):
each prediction weighs as much as the teacher is sure of it, because most of a one-stage detector's boxes are noise,
and the distributions of the sides are softened with T = 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 2.0
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Answers:
    """A teacher's raw answers to a batch. scores: (N, C_t, A) logits; boxes: (N, 4 R, A) logits over the distances of
    the four sides. places: for each of the student's classes its row in the teacher's scores, -1 where it is new."""

    scores: Tensor
    boxes: Tensor
    places: tuple[int, ...]

    @property
    def knows(self) -> Tensor:
        """(C,) which of the student's classes the teacher knows."""
        return torch.tensor([one >= 0 for one in self.places], device=self.scores.device)

    @property
    def said(self) -> Tensor:
        """(N, A, C) probabilities of the student's classes, 0 for those that the teacher does not know."""
        rows = torch.tensor([max(one, 0) for one in self.places], device=self.scores.device)
        return self.scores.sigmoid().permute(0, 2, 1)[:, :, rows] * self.knows


def class_loss(scores: Tensor, targets: Tensor, labelled: Tensor | None, answers: Answers | None) -> Tensor:
    """(N, A, C) losses as above. scores: logits (N, A, C); targets: (N, A, C); labelled: (N, C), which classes each
    image's labels are complete for, None for all."""
    if labelled is None:
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    weight = labelled[:, None, :]
    if answers is not None:
        soft = ~weight & answers.knows
        targets = torch.where(soft, answers.said.to(targets.dtype), targets)
        weight = weight | soft
    return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none") * weight


def distillation(scores: Tensor, boxes: Tensor, answers: Answers) -> Tensor:
    """The mean over a batch's anchors, as above. scores: (N, C, A) logits; boxes: (N, 4 R, A); R = 1: the sides are
    distances themselves, and their absolute difference takes the place of the entropy."""
    knows, said = answers.knows, answers.said
    sure = said.amax(2) if said.shape[2] else said.sum(2)  # (N, A)
    total = sure.sum().clamp(min=LEAST)
    of_classes = functional.binary_cross_entropy_with_logits(scores.permute(0, 2, 1), said, reduction="none")
    found = (of_classes * knows).sum(2)
    if boxes.shape == answers.boxes.shape:
        found = found + _sides(boxes, answers.boxes)
    return (found * sure).sum() / total


def _sides(boxes: Tensor, wanted: Tensor) -> Tensor:
    """(N, A): the mean over the four sides."""
    batch, channels, anchors = boxes.shape
    if channels == 4:
        return (boxes - wanted).abs().mean(1)
    ours = boxes.view(batch, 4, channels // 4, anchors) / TEMPERATURE
    theirs = wanted.view(batch, 4, channels // 4, anchors) / TEMPERATURE
    entropy = -(theirs.softmax(2) * ours.log_softmax(2)).sum(2)  # (N, 4, A)
    least = -(theirs.softmax(2) * theirs.log_softmax(2)).sum(2)  # so that agreement costs nothing
    return (entropy - least).mean(1)


def places(classes: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """Of each class its place among those that a teacher knows, -1 where it is new."""
    rows = {name: place for place, name in enumerate(known)}
    return tuple(rows.get(name, -1) for name in classes)


def labelled(names: Sequence[str], about: Mapping[str, frozenset[int]], classes: int) -> Tensor | None:
    """(N, C) which classes the labels of these images are complete for; None where all are complete."""
    if not any(name in about for name in names):
        return None
    every = frozenset(range(classes))
    return torch.tensor([[one in about.get(name, every) for one in range(classes)] for name in names])
