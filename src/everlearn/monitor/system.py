"""How much of the machine a run uses: processor, memory and GPU, looked at once a second by a thread.

    with Sampler() as sampler:
        train()
    run.note({"system": sampler.use().to_json()})

Memory is that of this process and all its children (resident set size; pages that they share count for each of them).
The processor's use is a share of the cores that this process may run on. GPU figures come from NVML (the package
`nvidia-ml-py`) or from `nvidia-smi`, and are those of the devices that torch may see; None where there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

LONG_ENOUGH = 60.0
"""Seconds after which a GPU's mean use says something about a training; before, starting up is most of it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. cpu: share of the cores, 0-1. memory, gpu_memory: bytes. gpu: mean use of the devices, 0-1."""

    cpu: float
    memory: int
    gpu: float | None = None
    gpu_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A run's use of the machine. Shares are 0-1, memory is in bytes; None: there is no GPU, or nothing was seen."""

    seconds: float
    samples: int
    cores: int
    cpu_mean: float | None
    cpu_peak: float | None
    memory_mean: float | None
    memory_peak: int | None
    gpu_mean: float | None
    gpu_peak: float | None
    gpu_memory_mean: float | None
    gpu_memory_peak: int | None

    @property
    def gpu_utilisation(self) -> float | None:
        """For the gate of that name: the mean use, None for a run too short to judge."""
        return self.gpu_mean if self.seconds >= LONG_ENOUGH else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "gpu_utilisation": self.gpu_utilisation}


class Sampler:
    """Looks at the machine from a thread of its own, from `start` (or `with`) to `stop`. `latest`: the last look."""

    def __init__(self, every: float = 1.0) -> None:
        """every: seconds between two looks."""
        self.latest: Sample | None = None
        self._every = every
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = self._ended = 0.0

    def start(self) -> Sampler:
        import psutil

        self._look = _Look(psutil, gpus())
        self._began = time.monotonic()
        self._sample()  # a run that is over at once was seen, too
        self._thread = threading.Thread(target=self._watch, name="everlearn-system", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._sample()
            self._ended = time.monotonic()

    def use(self) -> Use:
        """So far."""
        seen = list(self._samples)
        # the first look at the processor has nothing before it to compare with
        cpu, memory = [one.cpu for one in seen[1:]], [one.memory for one in seen]
        gpu = [one.gpu for one in seen if one.gpu is not None]
        gpu_memory = [one.gpu_memory for one in seen if one.gpu_memory is not None]
        return Use(
            seconds=round((self._ended or time.monotonic()) - self._began, 3),
            samples=len(seen),
            cores=cores(),
            cpu_mean=_mean(cpu),
            cpu_peak=max(cpu, default=None),
            memory_mean=_mean(memory),
            memory_peak=max(memory, default=None),
            gpu_mean=_mean(gpu),
            gpu_peak=max(gpu, default=None),
            gpu_memory_mean=_mean(gpu_memory),
            gpu_memory_peak=max(gpu_memory, default=None),
        )

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        with suppress(Exception):  # a look that fails costs this look, never the run
            self.latest = self._look()
            self._samples.append(self.latest)


class _Look:
    """One look at this process, its children and the GPUs."""

    def __init__(self, psutil: Any, gpu: Callable[[], list[tuple[float, int]]] | None) -> None:
        self._psutil, self._gpu = psutil, gpu
        self._own = psutil.Process()
        self._spent: dict[int, float] = {}  # processor seconds of each process when last looked at
        self._at = time.monotonic()

    def __call__(self) -> Sample:
        memory, busy = 0, 0.0
        spent: dict[int, float] = {}
        for process in (self._own, *self._own.children(recursive=True)):
            with suppress(self._psutil.Error), process.oneshot():  # it may end while it is looked at
                memory += process.memory_info().rss
                times = process.cpu_times()
                spent[process.pid] = times.user + times.system
                busy += spent[process.pid] - self._spent.get(process.pid, 0.0 if self._spent else spent[process.pid])
        now = time.monotonic()
        share = busy / max(now - self._at, 1e-6) / cores()
        self._spent, self._at = spent, now
        devices = self._gpu() if self._gpu else []
        if not devices:
            return Sample(min(share, 1.0), memory)
        return Sample(min(share, 1.0), memory, _mean([use for use, _ in devices]), sum(held for _, held in devices))


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> Callable[[], list[tuple[float, int]]] | None:
    """A way to ask each visible GPU for (use 0-1, memory in bytes); None where there is none."""
    for way in (_by_nvml, _by_smi):
        with suppress(Exception):
            found = way()
            if found():
                return found
    return None


def _by_nvml() -> Callable[[], list[tuple[float, int]]]:
    import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]

    pynvml.nvmlInit()
    every = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    names = [str(pynvml.nvmlDeviceGetUUID(one)) for one in every]
    handles = [every[number] for number in visible(names)]

    def look() -> list[tuple[float, int]]:
        return [
            (pynvml.nvmlDeviceGetUtilizationRates(one).gpu / 100, int(pynvml.nvmlDeviceGetMemoryInfo(one).used))
            for one in handles
        ]

    return look


def _by_smi() -> Callable[[], list[tuple[float, int]]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise FileNotFoundError("nvidia-smi")
    asked = [program, "--query-gpu=uuid,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]

    def look() -> list[tuple[float, int]]:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        return parse_smi(told)

    return look


def parse_smi(told: str) -> list[tuple[float, int]]:
    """Lines `UUID, use in per cent, memory in MiB` of the visible devices. One that does not tell its use, such as a
    slice of a GPU, is left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.strip()]
    found = []
    for number in visible([row[0] for row in rows]):
        _, use, held = rows[number]
        if use.isdigit() and held.isdigit():
            found.append((int(use) / 100, int(held) * 1024 * 1024))
    return found


def visible(names: list[str]) -> list[int]:
    """Which of the machine's GPUs, by their UUIDs in order, CUDA_VISIBLE_DEVICES lets a program see."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(range(len(names)))
    chosen = []
    for one in (part.strip() for part in told.split(",")):
        number = (
            int(one) if one.isdigit() else next((n for n, name in enumerate(names) if one and name.startswith(one)), -1)
        )
        if not 0 <= number < len(names):
            break  # as CUDA does: what stands after a device that is not there is not seen
        chosen.append(number)
    return chosen


def _mean(values: list[Any]) -> float | None:
    return sum(values) / len(values) if values else None
