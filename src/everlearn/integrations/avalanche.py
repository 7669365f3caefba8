"""The exact memory as an Avalanche strategy: its benchmarks, metrics, loggers and plugins, unchanged.

A stream is learned in one pass, without gradients; what is kept of it are sums. (Carta et al. 2023, "Avalanche: a
PyTorch library for deep continual learning".)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import BadInput, NotInstalled
from everlearn.learn.exact.fit import fit
from everlearn.learn.exact.head import Head
from everlearn.learn.exact.memory import ExactMemory
from everlearn.model.backbone import Rows, load_backbone
from everlearn.model.basis import DIMENSIONS, WIDTH, Basis

try:
    import torch
    from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader, collate_from_data_or_kwargs
    from avalanche.training.plugins.evaluation import default_evaluator
    from avalanche.training.templates import SupervisedTemplate
except ImportError as error:
    raise NotInstalled(
        f"everlearn.integrations.avalanche needs avalanche-lib ({error}).", 'pip install "everlearn[avalanche]"'
    ) from None

Phi = NDArray[np.int8]


class ExactModel(torch.nn.Module):  # type: ignore[misc]
    """Images -> scores: a basis, a memory, and the head of its sums. Class c, an int, is column c.

    basis: images, or rows of the network's features, to phi. network: None, or what images go through first, frozen.
    pixels: batch to batch, before anything else.
    """

    def __init__(
        self,
        basis: Basis,
        network: torch.nn.Module | None = None,
        pixels: Callable[[torch.Tensor], torch.Tensor] | None = None,
        folds: int = 2,
    ) -> None:
        super().__init__()
        self.basis, self.network, self.pixels = basis, network, pixels
        if network is not None:
            network.requires_grad_(False)
        digest = basis.digest if network is None else _network_digest(basis, network)
        self.memory = ExactMemory(digest, basis.dimensions, folds)
        self.columns = 0
        self.head: Head | None = None
        self.solved = True

    def phi(self, x: torch.Tensor) -> Phi:
        """(N, C, H, W) images, or what the network takes -> (N, D) int8. Raises BadInput."""
        if self.pixels is not None:
            x = self.pixels(x)
        if self.network is None:
            return self.basis.phi(list(_images(x)))
        self.network.eval()  # whatever mode the strategy is in: a frozen network's running means stay
        with torch.no_grad():
            return self.basis.phi(list(self.network(x).flatten(1).float().cpu().numpy()))

    def learn(self, phi: Phi, targets: Sequence[int]) -> None:
        """Add phi (N, D) with (N,) classes to the sums."""
        self.memory.add(phi, [str(target) for target in targets], self._folds(phi))
        self.columns = max([self.columns, *(target + 1 for target in targets)])
        self.solved = False

    def unlearn(self, phi: Phi, targets: Sequence[int]) -> None:
        """Subtract what was learned. Raises BadInput where the sums prove that it never was."""
        self.memory.subtract(phi, [str(target) for target in targets], self._folds(phi))
        self.solved = False

    def _folds(self, phi: Phi) -> NDArray[np.int64]:
        """(N,) folds, each a hash of that sample's phi, so that it depends on the sample alone."""
        marks = (hashlib.blake2b(row.tobytes(), digest_size=4).digest() for row in phi)
        return np.array([int.from_bytes(mark, "big") % self.memory.folds for mark in marks], np.int64)

    def solve(self) -> None:
        """Bring the head up to what the memory holds."""
        if not self.solved:
            self.head = fit(self.memory).head if self.memory.samples else None
            self.solved = True

    def scores(self, phi: Phi) -> torch.Tensor:
        """(N, D) -> (N, columns) by the head last solved, zeros before the first; about 1 for the right class, 0 for
        others, and for a class without a sample 1 below the lowest."""
        found = np.zeros((len(phi), self.columns), np.float32)
        if self.head is not None:
            answers = self.head.scores(phi)
            found[:] = answers.min(axis=1, keepdims=True) - 1
            found[:, [int(name) for name in self.head.classes]] = answers
        return torch.from_numpy(found)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, columns); solves first where something was learned since."""
        phi = self.phi(x)
        self.solve()
        return self.scores(phi).to(x.device)


class ExactStrategy(SupervisedTemplate):  # type: ignore[misc]
    """An Avalanche strategy that learns each experience exactly: in whatever order they come, the same digest.

    backbone: a spec (`patches`, `onnx:FILE`), a Basis, or a torch module from images to features, which is frozen.
    dimensions, width: of phi and of its kernel, where backbone is no Basis. pixels: batch to batch, where the benchmark
        gives images that are neither uint8 nor floats in [0, 1]: it undoes the normalisation.
    folds: sides of the held-out error that sets the penalty; each costs solves and the memory of its sums.
    plugins, evaluator, eval_every, device, criterion, train_mb_size, eval_mb_size: as Avalanche has them; the criterion
        is only reported, and a batch's size changes speed alone.

    In training, a batch is answered before it is learned, by the head that was solved last; a head is solved when an
    evaluation, or a call of `model`, first needs it. Batches come unshuffled, each sample once, whatever its task.
    """

    def __init__(
        self,
        *,
        backbone: str | Basis | torch.nn.Module = "patches",
        dimensions: int = DIMENSIONS,
        width: float = WIDTH,
        pixels: Callable[[torch.Tensor], torch.Tensor] | None = None,
        folds: int = 2,
        criterion: Any = None,
        train_mb_size: int = 512,
        eval_mb_size: int = 512,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
    ) -> None:
        network = backbone if isinstance(backbone, torch.nn.Module) else None
        if isinstance(backbone, Basis):
            basis = backbone
        else:
            source = load_backbone(backbone) if isinstance(backbone, str) else Rows()
            basis = Basis(source, dimensions=dimensions, width=width)
        super().__init__(
            model=ExactModel(basis, network, pixels, folds),
            optimizer=None,
            criterion=criterion or torch.nn.CrossEntropyLoss(),
            train_mb_size=train_mb_size,
            train_epochs=1,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )

    @property
    def memory(self) -> ExactMemory:
        return self.model.memory  # type: ignore[no-any-return]

    def digest(self) -> str:
        """Hex SHA-256 of all that was learned, equal for equal sets of samples."""
        return self.memory.digest()

    def forget(self, experience: Any) -> None:
        """Unlearn an experience exactly, all or nothing: its images must come as they did when they were learned, so
        without transforms that chance decides. Raises BadInput where the sums prove that it was never learned."""
        batches = SingleDatasetDataLoader(experience.dataset.train(), batch_size=self.train_mb_size)
        done = 0
        try:
            for x, y, *_ in batches:
                self.model.unlearn(self.model.phi(x.to(self.device)), y.tolist())
                done += 1
        except BaseException:
            for x, y, *_ in islice(batches, done):
                self.model.learn(self.model.phi(x.to(self.device)), y.tolist())
            raise

    def training_epoch(self, **kwargs: Any) -> None:
        """One pass over the experience."""
        for batch in self.dataloader:
            if self._stop_training:
                break
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            phi = self.model.phi(self.mb_x)
            self.mb_output = self.model.scores(phi).to(self.device)
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._before_backward(**kwargs)
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.model.learn(phi, self.mb_y.tolist())
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)

    def model_adaptation(self, model: ExactModel | None = None) -> ExactModel:
        """A column for each class of the experience, also of those that are only asked about."""
        model = self.model if model is None else model
        assert self.experience is not None
        model.columns = max([model.columns, *(int(c) + 1 for c in self.experience.classes_in_this_experience)])
        return model.to(self.device)  # type: ignore[no-any-return]

    def make_train_dataloader(
        self, num_workers: int = 0, shuffle: bool = False, persistent_workers: bool = False, **kwargs: Any
    ) -> None:
        """Avalanche's own balances tasks by repeating samples; here a sample is learned once."""
        options = self._obtain_common_dataloader_parameters(
            batch_size=self.train_mb_size, num_workers=num_workers, shuffle=shuffle,
            persistent_workers=persistent_workers,
        )  # fmt: skip
        collate_from_data_or_kwargs(self.adapted_dataset, options)
        self.dataloader = SingleDatasetDataLoader(self.adapted_dataset, **options)

    def make_optimizer(self, **kwargs: Any) -> None:
        """There is none."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        self.model = self.model_adaptation()


def _images(x: torch.Tensor) -> Iterator[NDArray[np.uint8]]:
    """(N, C, H, W) or (N, H, W), uint8 or floats in [0, 1] -> N arrays (H, W, 3) or (H, W)."""
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise BadInput(f"a batch of images has shape {tuple(x.shape)}.", "Give (N, 3, H, W) or (N, 1, H, W).")
    if x.dtype != torch.uint8:
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise BadInput(
                f"pixels from {low:.3g} to {high:.3g} are neither uint8 nor in [0, 1].",
                "Leave the normalisation out of the benchmark's transforms, or undo it by pixels=.",
            )
        x = (x * 255).round().to(torch.uint8)
    array = x.permute(0, 2, 3, 1).cpu().numpy()
    yield from array[..., 0] if array.shape[3] == 1 else array


def _network_digest(basis: Basis, network: torch.nn.Module) -> str:
    """Hex SHA-256 over the basis, the network's structure as torch prints it, and its weights."""
    found = hashlib.sha256(f"{basis.digest}|{network}".encode())
    for name, value in network.state_dict().items():
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
