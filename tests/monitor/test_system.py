"""A run's use of the machine, as a process that really uses it shows."""

from __future__ import annotations

import mmap
import subprocess
import sys
import threading
import time

import pytest

from everlearn.monitor import system
from everlearn.monitor.system import Sample, Sampler

MEGA = 1_000_000


def test_memory_and_processor_of_this_process_and_its_children_are_seen() -> None:
    with Sampler(every=0.02) as sampler:
        alone = sampler.latest
        held = mmap.mmap(-1, 80 * MEGA)  # pages of its own: a heap may have room of before
        held.write(b"x" * len(held))
        child = subprocess.Popen(
            [sys.executable, "-c", "held = bytearray(b'x') * 80_000_000; print('there', flush=True)\nwhile True: pass"],
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            seen = len(sampler._samples)
            while len(sampler._samples) < seen + 6:
                time.sleep(0.01)
        finally:
            child.kill()
            child.wait()
    found = sampler.use()
    assert alone is not None
    assert found.memory_peak is not None and found.memory_mean is not None
    assert found.memory_peak > alone.memory + 150 * MEGA  # of both processes
    assert alone.memory < found.memory_mean < found.memory_peak
    assert found.cpu_peak is not None and 0 < found.cpu_peak <= 1
    assert found.samples == len(sampler._samples) > 6
    assert found.to_json()["memory_peak"] == found.memory_peak
    held.close()


def test_a_run_that_is_over_at_once_was_seen() -> None:
    with Sampler(every=60) as sampler:
        pass
    found = sampler.use()
    assert found.samples == 2
    assert found.memory_peak
    assert found.seconds < 60
    assert not [one for one in threading.enumerate() if one.name == "everlearn-system"]


def test_a_look_that_fails_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system._Look, "__call__", lambda self: 1 / 0)
    with Sampler(every=0.01) as sampler:
        time.sleep(0.05)
    found = sampler.use()
    assert (found.samples, found.memory_peak, found.cpu_mean, found.gpu_mean) == (0, None, None, None)


def test_a_gpu_is_averaged_over_time_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "gpus", lambda: lambda: [(1.0, 10), (0.5, 30)])
    with Sampler(every=60) as sampler:
        pass
    found = sampler.use()
    assert (found.gpu_mean, found.gpu_peak, found.gpu_memory_peak) == (0.75, 0.75, 40)
    assert found.gpu_utilisation is None  # a run of no time says nothing about a training
    sampler._began -= system.LONG_ENOUGH
    assert sampler.use().gpu_utilisation == 0.75


def test_peak_and_mean() -> None:
    sampler = Sampler()
    sampler._samples = [Sample(0.9, 10), Sample(0.2, 20), Sample(0.4, 60, 0.5, 5)]
    found = sampler.use()
    assert found.cpu_mean == pytest.approx(0.3)  # the first look at the processor counts for nothing
    assert (found.cpu_peak, found.memory_mean, found.memory_peak) == (0.4, 30, 60)
    assert (found.gpu_mean, found.gpu_memory_mean) == (0.5, 5)


SMI = "GPU-aa, 93, 1024\nGPU-bb, 7, 10\nGPU-cc, [N/A], 5\n"


def test_what_nvidia_smi_says_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert system.parse_smi(SMI) == [(0.93, 1024 * 2**20), (0.07, 10 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert system.parse_smi(SMI) == [(0.07, 10 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert system.parse_smi(SMI) == []


@pytest.mark.parametrize(
    ("told", "seen"),
    [(None, [0, 1, 2]), ("", []), ("2,0", [2, 0]), ("GPU-bb", [1]), ("1,9,0", [1]), ("-1", []), ("GPU-zz", [])],
)
def test_which_devices_a_program_sees(told: str | None, seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    if told is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert system.visible(["GPU-aa", "GPU-bb", "GPU-cc"]) == seen


def test_where_there_is_no_gpu_nothing_is_told_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert system.gpus() is None
