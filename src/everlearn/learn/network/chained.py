"""Two tasks in one network, the second given what the first says; both learned together.

    features z(x)  ->  first:  p = softmax(A z + a)             which kind of thing
                   ->  second: B [z, p] + b                     which one of them, or a number: given the kind
    loss = w1 cross-entropy(first) + w2 loss of the second

The second's error flows back through p into the first's answer, as in every chain (Caruana 1997, "Multitask learning";
classifier chains: Read et al. 2011). It is trained by `learn.fit` as any network: what is judged, and chooses the best
epoch, is the second task.

    network = Chained(build("cnn", classes=len(kinds)), len(names))
    fit(network, Both(...), validation, stage, method=Joint(network))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from everlearn.errors import BadInput
from everlearn.learn.network.continual.method import LossAlone
from everlearn.learn.network.loading import Data, in_turn
from everlearn.learn.network.losses import Criterion

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Backbone(Protocol):
    """What a chain is built on, with the first task's head; `model.trainable.Network` is one."""

    @property
    def drop(self) -> nn.Module: ...
    @property
    def head(self) -> Any: ...
    def features(self, images: Tensor) -> Tensor: ...
    def set_dropout(self, rate: float) -> None: ...
    def freeze(self, part: Literal["none", "backbone", "half"]) -> None: ...


class Chained(nn.Module):
    """A network for the first task, and a second head on its features and its answer.

    network: with one column for each class of the first task. columns: of the second task, 1 for a number. seed: of the
    second head's weights.
    """

    def __init__(self, network: Backbone, columns: int, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        head = network.head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.second = nn.Linear(head.in_features + head.out_features, columns)
        self._said: Tensor | None = None

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) in 0..1 -> scores of the first task (N, C1) and of the second (N, C2)."""
        z = self.network.drop(self.network.features(images))  # (N, D)
        first = self.network.head(z)  # (N, C1)
        return first, self.second(torch.cat([z, first.softmax(1)], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """-> scores of the second task (N, C2)."""
        first, second = self.both(images)
        if self.training:
            self._said = first
        return second  # type: ignore[no-any-return]

    def said(self) -> Tensor:
        """Scores of the first task for the batch that was just gone through, once."""
        found, self._said = self._said, None
        assert found is not None, "nothing was gone through while training"
        return found

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(images)

    def set_dropout(self, rate: float) -> None:
        self.network.set_dropout(rate)

    def freeze(self, part: Literal["none", "backbone", "half"]) -> None:
        self.network.freeze(part)


@dataclass(frozen=True, eq=False)
class Both(Data):
    """Data of two tasks. targets, classes: of the second, as in `Data`; first: (N,) class columns of the first;
    first_classes: their names.

    In a batch the first's shares are further columns beside the second's: (N, C2 + C1), or (N, 1 + C1) of numbers.
    """

    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.first) != len(self.targets) or self.targets.ndim != 1:
            raise BadInput(
                f"{len(self.first)} labels of the first task, {self.targets.shape} targets of the second.",
                "Give one of each for every row.",
            )
        if len(self.first) and not 0 <= int(self.first.min()) <= int(self.first.max()) < len(self.first_classes):
            raise BadInput(f"Labels of the first task are no columns of {len(self.first_classes)}.", "Mend them.")

    def targets_of(self, rows: NDArray[np.int64]) -> Tensor:
        first = functional.one_hot(torch.from_numpy(self.first[rows]), len(self.first_classes)).float()
        if self.numbers:
            second = torch.from_numpy(np.asarray(self.targets[rows], np.float32))[:, None]
        else:
            second = functional.one_hot(torch.from_numpy(self.targets[rows].astype(np.int64)), len(self.classes))
        return torch.cat([second.float(), first], dim=1)

    @property
    def judged(self) -> Data:
        """The second task alone: what `fit` judges on."""
        return Data(self.inputs, self.targets, self.classes, self.rows)


class Joint(LossAlone):
    """A `Method`: the loss of both tasks, on `Both` data. weights: of the first and of the second."""

    def __init__(self, network: Chained, weights: tuple[float, float] = (1.0, 1.0)) -> None:
        if min(weights) < 0 or not any(weights):
            raise BadInput(f"weights are {weights}.", "None below 0, and not both 0.")
        self.network, self.weights = network, weights

    def loss(self, images: Tensor, targets: Tensor, logits: Tensor, new: int, criterion: Criterion) -> Tensor:
        columns = logits.shape[1]
        second, first = targets[:, :columns], targets[:, columns:]
        numbers = columns == 1
        one = functional.cross_entropy(self.network.said().float(), first)
        return self.weights[0] * one + self.weights[1] * criterion(logits, second[:, 0] if numbers else second)


@torch.no_grad()
def answered(network: Chained, data: Data) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of all rows, in order: the first's probabilities (N, C1), and the second's (N, C2), or its numbers (N, 1)."""
    device = next(network.parameters()).device
    before = network.training
    network.eval()
    parts = [network.both(batch.to(device).inputs) for batch in in_turn(data)]
    network.train(before)
    first, second = (torch.cat(one).float().cpu() for one in zip(*parts, strict=True))
    second = second if data.numbers else second.softmax(1)
    return cast("tuple[Any, Any]", (first.softmax(1).numpy(), second.numpy()))
