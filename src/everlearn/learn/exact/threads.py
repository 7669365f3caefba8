"""Independent pieces of linear algebra side by side, each on one BLAS thread.

One thread per piece gives the same bits whatever the number of cores (a BLAS that splits one product over threads
rounds differently for each thread count), and it does not collapse when other processes want the same cores, as a
multi-threaded Cholesky was seen to (ten times slower).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TypeVar

import scipy.linalg  # noqa: F401  its BLAS must be loaded before threadpoolctl looks for libraries
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_users = 0
_limit: AbstractContextManager[object] | None = None


def workers() -> int:
    """Cores this process may use, at most OMP_NUM_THREADS where that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wanted))) if wanted.isdigit() else cores


@cache
def _controller() -> ThreadpoolController:
    """Looking for the loaded libraries takes milliseconds: once."""
    return ThreadpoolController()


@contextmanager
def single_blas() -> Iterator[None]:
    """BLAS on one thread per call while inside; counted, because the limit is one for the whole process."""
    global _users, _limit
    with _lock:
        _users += 1
        if _users == 1:
            _limit = _controller().limit(limits=1, user_api="blas")
            _limit.__enter__()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _limit is not None:
                _limit.__exit__(None, None, None)
                _limit = None


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[work(item) for item in items], side by side, results in the order of the items."""
    todo = list(items)
    with single_blas():
        if len(todo) < 2 or workers() == 1:
            return [work(item) for item in todo]
        with ThreadPoolExecutor(min(workers(), len(todo))) as pool:
            return list(pool.map(work, todo))


def over_rows(work: Callable[[slice], Result], count: int, size: int = 512) -> list[Result]:
    """[work(slice) for each slice of `size` rows up to `count`], side by side; a single one at once."""
    todo = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return in_threads(work, todo) if len(todo) > 1 else [work(part) for part in todo]
