"""Where training runs: one CPU, one GPU or several, this process or several. Accelerate does the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import NotInstalled

TRAIN = 'pip install "everlearn[train]"'

PATIENCE = timedelta(hours=6)
"""How long processes wait for one another: the first may have many images to prepare."""


@dataclass(frozen=True, eq=False)
class Runtime:
    """One process of a training, and what it knows of the others."""

    accelerator: Any

    @property
    def device(self) -> torch.device:
        return self.accelerator.device  # type: ignore[no-any-return]

    @property
    def process(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return bool(self.accelerator.is_main_process)

    def ready(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """On the device, with gradients that are averaged over the processes, in mixed precision where asked."""
        return self.accelerator.prepare(network, optimizer)  # type: ignore[no-any-return]

    def released(self, network: nn.Module) -> None:
        """The plain network again, and nothing kept of it."""
        self.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        if self.device.type != "cpu":
            self.accelerator.free_memory()
            return
        for held in (self.accelerator._models, self.accelerator._optimizers):  # without collecting all garbage: 0.2 s
            held.clear()

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def together(self, network: nn.Module, last: bool) -> Any:
        """Gradients of the parts of one step are averaged over the processes once, with the last part."""
        return nullcontext() if last or self.processes == 1 else self.accelerator.no_sync(network)

    def clip(self, network: nn.Module, norm: float) -> None:
        self.accelerator.clip_grad_norm_(network.parameters(), norm)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.device), reduction="sum").cpu()  # type: ignore[no-any-return]

    def agree(self, value: bool) -> bool:
        """Whether any process says so."""
        return bool(self.total(torch.tensor([float(value)]))[0] > 0)

    def as_first(self, network: nn.Module) -> None:
        """Statistics of norms, which each process has of its own images, become those of the first."""
        if self.processes > 1:
            for one in network.buffers():
                torch.distributed.broadcast(one, 0)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def runtime(precision: str = "auto", *, cpu: bool = False) -> Runtime:
    """The processes that a launcher started, or this one alone. Raises NotInstalled."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        raise NotInstalled("Training a network needs Accelerate.", TRAIN) from None
    if precision == "auto":
        gpu = torch.cuda.is_available() and not cpu
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state(False)  # another training of this process had another precision
    cpu = joined(cpu)
    return Runtime(Accelerator(mixed_precision=precision, cpu=cpu))


def joined(cpu: bool = False) -> bool:
    """Find the other processes of a launcher, where there are any; whether all of them train on CPUs."""
    from accelerate import PartialState

    if "LOCAL_RANK" not in os.environ:
        return cpu
    cpu = cpu or not torch.cuda.is_available()  # Accelerate itself would take each process for one alone
    if not PartialState._shared_state:
        PartialState(cpu, timeout=PATIENCE)
    return cpu


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generators set for this block, and put back after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
