"""Several processes of one training: one for each visible GPU, started without a launcher; or those of a launcher.

`accelerate launch -m everlearn train …`, `torchrun` and Ray Train start processes themselves, on several machines too;
then this process is one of them, and nothing is started here. The first of them reads the workspace and writes into it;
the others wait until it tells them which run they are to train.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from everlearn.errors import ClusterFault, EverlearnError
from everlearn.learn.network.runtime import joined


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether this process is one of several, and not the first."""
    return launched() and int(os.environ.get("RANK", "0")) > 0


def processes(asked: int | None) -> int:
    """As many as were asked for; else one for each visible GPU, and one on a CPU."""
    if launched():
        return int(os.environ["WORLD_SIZE"])
    return asked or max(1, torch.cuda.device_count())


def tell(run: str | None) -> None:
    """The first of a launcher's processes tells the others what to train; None: nothing comes of it."""
    global _told
    _told = True
    _passed_on(run)


def told() -> str | None:
    """What the first has to say; waited for."""
    return _passed_on(None)


_told = False


@contextmanager
def leading() -> Iterator[None]:
    """The others do not wait for ever where the first has failed before it could tell them anything."""
    global _told
    _told = False
    try:
        yield
    finally:
        if launched() and not follows() and not _told:
            tell(None)


def _passed_on(text: str | None) -> str | None:
    joined()
    said = [text]
    torch.distributed.broadcast_object_list(said, src=0)
    return said[0]


def launch(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a module-level function in `count` new processes that know of each other, and wait for them.

    Raises ClusterFault with the first line of what went wrong in one of them, KeyboardInterrupt after Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id="everlearn", rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", max_restarts=0, start_method="spawn", monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, _one)(function, *arguments)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        said = [failure.message for failure in error.failures.values()]
        text = said[0]["message"] if said and isinstance(said[0], dict) else str(said[0] if said else error)
        line = str(text).strip().splitlines()[-1][:300]
        raise ClusterFault(
            f"A process of {count} failed: {line}", f"Each had {threads} threads. Then: everlearn train --resume"
        ) from None


def _one(function: Callable[..., None], *arguments: Any) -> None:
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_as_text(function))(*arguments)


def _as_text(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        try:
            function(*arguments)
        except EverlearnError as error:
            raise RuntimeError(f"{error.message} {error.remedy}") from None
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return call
