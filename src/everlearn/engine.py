"""Where heavy work runs: in this process, or on a Ray cluster.

Work is a callable that travels to each worker process once; a part is what it is called with. What it gives must be a
function of the part alone. So a part whose worker died is simply done again, and since the result of a part is taken
once, it counts once, whatever died on the way.

Sums are added up on the workers, as a tree: this process receives one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from everlearn import faults
from everlearn.errors import BadConfig, ClusterFault, EverlearnError, NotInstalled

if TYPE_CHECKING:
    from everlearn import config

Part = TypeVar("Part")
Result = TypeVar("Result")
Receipt = TypeVar("Receipt")
Sum = TypeVar("Sum")

ATTEMPTS = 5
"""How often a part is begun before it is held to be what kills its workers."""

_FAN = 8  # sums that are added up by one task
_AHEAD = 2  # parts under way for each worker, so that none waits for this process
_PATIENCE = 5.0  # seconds for a cluster's first answer
_ROOM = 120.0  # seconds for processes that work together to find a place


class Engine(Protocol):
    """Where parts are worked on. elsewhere: not in this process. workers: parts worked on at the same time."""

    elsewhere: bool

    @property
    def workers(self) -> int: ...

    def map(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[tuple[Part, Result]]:
        """(part, work(part)) of every part once, in the order in which they are done. Raises what `work` raises."""
        ...

    def sum(
        self,
        work: Callable[[Part], tuple[Receipt, Sum]],
        parts: Iterable[Part],
        add: Callable[[Sequence[Sum]], Sum],
        take: Callable[[Part, Receipt], None],
    ) -> Sum | None:
        """The sum of what `work` gives of all parts, None where there are none. `take` gets each part's receipt, here,
        as it is done. add: a new sum of several; it changes none of them."""
        ...


class Here:
    """One part after another in this process; the work uses its threads by itself."""

    elsewhere = False
    workers = 1

    def map(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[tuple[Part, Result]]:
        for part in parts:
            yield part, work(part)

    def sum(
        self,
        work: Callable[[Part], tuple[Receipt, Sum]],
        parts: Iterable[Part],
        add: Callable[[Sequence[Sum]], Sum],
        take: Callable[[Part, Receipt], None],
    ) -> Sum | None:
        whole: Sum | None = None
        for part in parts:
            receipt, one = work(part)
            take(part, receipt)
            whole = one if whole is None else add([whole, one])
        return whole


class Ray:
    """Tasks on a Ray cluster: the one at an address, the one that this process is in already, or one of its own. It is
    joined or started when there is something to do."""

    elsewhere = True

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        """address: HOST:PORT, ray://HOST:PORT or auto; None: a cluster on this machine, which ends with `close`.
        workers: the most parts at the same time; None: one for each core.

        All but `close` raise NotInstalled, BadConfig for what is no address, ClusterFault where nothing answers there.
        """
        self._address, self._most, self._ours = address, workers, False

    @cached_property
    def _ray(self) -> Any:
        ray = _library(self._address)
        if not ray.is_initialized():
            _start(ray, self._address, self._most)
            self._ours = True
        return ray

    @property
    def workers(self) -> int:
        """Asked again each time: machines come and go."""
        cores = int(self._ray.cluster_resources().get("CPU", 0)) or 1
        return cores if self._most is None else min(cores, self._most)

    def close(self) -> None:
        """End the cluster that was started here, or leave the one that was joined."""
        if self._ours:
            self._ray.shutdown()
            del self._ray
            self._ours = False

    def map(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[tuple[Part, Result]]:
        work_on = self._ray.remote(max_retries=ATTEMPTS - 1)(_one)
        sent = [self._ray.put(work)]
        for part, done in self._as_done(lambda part: work_on.remote(version("everlearn"), sent, part), parts):
            yield part, self._get(done)

    def sum(
        self,
        work: Callable[[Part], tuple[Receipt, Sum]],
        parts: Iterable[Part],
        add: Callable[[Sequence[Sum]], Sum],
        take: Callable[[Part, Receipt], None],
    ) -> Sum | None:
        work_on = self._ray.remote(max_retries=ATTEMPTS - 1, num_returns=2)(_one)
        merge = self._ray.remote(max_retries=ATTEMPTS - 1)(_added)
        sent = [self._ray.put(work)]
        sums: dict[Any, Any] = {}  # of the parts under way, by their receipts
        waiting: list[list[Any]] = []  # level by level, fewer than _FAN each, as the digits of a number

        def begin(part: Part) -> Any:
            receipt, sums_of = work_on.remote(version("everlearn"), sent, part)
            sums[receipt] = sums_of
            return receipt

        for part, receipt in self._as_done(begin, parts):
            take(part, self._get(receipt))
            carry, level = sums.pop(receipt), 0
            while True:
                if level == len(waiting):
                    waiting.append([])
                waiting[level].append(carry)
                if len(waiting[level]) < _FAN:
                    break
                carry, waiting[level] = merge.remote(add, *waiting[level]), []
                level += 1
        rest = [one for level in waiting for one in level]
        if not rest:
            return None
        whole = self._get(rest[0] if len(rest) == 1 else merge.remote(add, *rest))
        return add([whole])  # what Ray gives lies in its own memory, read-only, and is gone with the cluster

    @property
    def members(self) -> int:
        """Processes that a training fills the cluster with: one for each GPU; without any, one for each machine."""
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        wanted = gpus or len(self._machines())
        return wanted if self._most is None else min(wanted, self._most)

    def together(
        self, work: Callable[[], Result], count: int, meanwhile: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """`work()` in so many processes at the same time, each with what `torch.distributed` asks the environment for.

        meanwhile: is called here every second. What each gave, the first one's first. Raises what `work` raises, and
        ClusterFault where there is no room or a process died; the others are ended then.
        """
        cores = self._cores_each(count)
        gpus = 1 if self._ray.cluster_resources().get("GPU", 0) >= count else 0
        kind = self._ray.remote(num_cpus=cores, num_gpus=gpus, scheduling_strategy="SPREAD")(_Member)
        members = [kind.remote() for _ in range(count)]
        try:
            try:
                address, port = self._ray.get([one.address.remote() for one in members], timeout=_ROOM)[0]
            except self._ray.exceptions.GetTimeoutError:
                raise ClusterFault(
                    f"The cluster had no room for {count} processes of {cores} cores for {_ROOM:.0f} s.",
                    "Ask for fewer (--processes), or wait until its other work is done.",
                ) from None
            place = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
            under_way = [
                one.run.remote(version("everlearn"), {**place, "RANK": str(rank)}, work)
                for rank, one in enumerate(members)
            ]
            waiting = list(under_way)
            while waiting:  # whichever fails first is told; the others wait for it in vain
                done, waiting = self._ray.wait(waiting, num_returns=1, timeout=1.0)
                meanwhile()
                for one in done:
                    self._get(one)
            return [self._get(one) for one in under_way]
        except self._ray.exceptions.RayActorError as error:
            raise ClusterFault(
                f"A process of {count} on the cluster died: {_line(error)}", "What is saved is kept: run it again."
            ) from None
        finally:
            for member in members:
                with suppress(Exception):  # whatever stopped us is the error to tell
                    self._ray.kill(member)

    def _machines(self) -> list[int]:
        """Cores of each machine that has some to give."""
        alive = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        return [int(one["CPU"]) for one in alive if one.get("CPU", 0) >= 1] or [1]

    def _cores_each(self, count: int) -> int:
        """Cores that each of so many processes gets, spread over the machines. Raises ClusterFault."""
        cores = max(self._machines())
        while cores > 1 and sum(one // cores for one in self._machines()) < count:
            cores -= 1
        if sum(one // cores for one in self._machines()) < count:
            raise ClusterFault(
                f"The cluster has {sum(self._machines())} cores, too few for {count} processes.",
                "Ask for fewer (--processes), or add machines.",
            )
        return cores

    def _as_done(self, begin: Callable[[Part], Any], parts: Iterable[Part]) -> Iterator[tuple[Part, Any]]:
        """Begin parts, a few ahead, and give each back when it is done."""
        under_way: dict[Any, Part] = {}
        parts = iter(parts)
        try:
            while True:
                for part in islice(parts, max(0, _AHEAD * self.workers - len(under_way))):
                    under_way[begin(part)] = part
                if not under_way:
                    return
                done, _ = self._ray.wait(list(under_way), num_returns=1)
                for one in done:
                    yield under_way.pop(one), one
        finally:
            for one in under_way:
                with suppress(Exception):  # whatever stopped us is the error to tell
                    self._ray.cancel(one)

    def _get(self, reference: Any) -> Any:
        """What a task gave. Raises its own error where it is one of ours."""
        kinds = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except kinds.RayTaskError as error:
            if isinstance(error.cause, EverlearnError):
                raise error.cause from None
            if isinstance(error.cause, ModuleNotFoundError):
                raise ClusterFault(
                    f"A worker has no {error.cause.name}.", "Install on every machine what is installed here."
                ) from None
            raise
        except (kinds.WorkerCrashedError, kinds.NodeDiedError, kinds.OutOfMemoryError, kinds.ObjectLostError) as error:
            raise ClusterFault(
                f"A part of the work was begun {ATTEMPTS} times and its worker died each time: {_line(error)}",
                "Give the workers more memory, or fewer of them (engine.workers); what is done is kept: run again.",
            ) from None


def _one(wanted: str, sent: list[Any], part: Any) -> Any:
    """On a worker: one part. The work itself is fetched once for each worker process, and kept for the next part."""
    _check_version(wanted)
    import ray

    os.environ["EVERLEARN_THREADS"] = "1"  # a task has one core
    (reference,) = sent  # in a list, so that Ray leaves the fetching to us
    name = reference.hex()
    if name not in _fetched:
        _fetched.clear()
        _fetched[name] = ray.get(reference)
    result = _fetched[name](part)
    faults.point("engine.part")
    return result


_fetched: dict[str, Callable[[Any], Any]] = {}


def _check_version(wanted: str) -> None:
    if wanted != version("everlearn"):
        raise ClusterFault(
            f"The worker on {socket.gethostname()} has Everlearn {version('everlearn')}, this process {wanted}.",
            "Install the same version on every machine of the cluster.",
        )


class _Member:
    """One of several processes on a cluster that work together."""

    def address(self) -> tuple[str, int]:
        """Where the others find it, should it be the first: a port that was free a moment ago."""
        import ray

        with socket.socket() as one:
            one.bind(("", 0))
            return str(ray.util.get_node_ip_address()), int(one.getsockname()[1])  # type: ignore[no-untyped-call]

    def run(self, wanted: str, environment: dict[str, str], work: Callable[[], Any]) -> Any:
        _check_version(wanted)
        os.environ |= environment
        return work()


def _added(add: Callable[[Sequence[Any]], Any], *sums: Any) -> Any:
    """On a worker."""
    whole = add(sums)
    faults.point("engine.added")
    return whole


# --- starting and finding a cluster -------------------------------------------------------------------------------


def _library(address: str | None) -> Any:
    """Ray, told to be silent and to report to nobody. Its settings must stand before it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its ports are open to the network, and run what they are sent
    else:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else an address without a cluster takes minutes
    try:
        import ray
    except ImportError as error:
        raise NotInstalled("engine ray needs ray.", 'pip install "everlearn[ray]"') from error
    import ray._private.worker as driver

    driver._worker_logs_enabled = False  # they would stand on stdout, among answers
    return ray


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    import logging

    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    try:
        if address is None:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
            return
        if address != "auto":
            _knock(address)
        ray.init(address=address, **quiet)
    except EverlearnError:
        raise
    except Exception as error:  # Ray's errors here share no base class
        where = "on this machine" if address is None else f"at {address}"
        remedy = (
            "Is it running (ray status)? On its machines use auto, from elsewhere ray://HOST:10001." if address else ""
        )
        if "Failed to connect" in str(error):
            remedy += " If it asks for tokens: set RAY_AUTH_MODE=token."
        raise ClusterFault(f"There is no Ray cluster {where}: {_line(error)}", remedy) from None


def _knock(address: str) -> None:
    """Ask whether a gRPC server listens there: Ray itself would try for minutes. Raises BadConfig, ClusterFault."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("", "ray") or not host or port is None:
        raise BadConfig(f"engine.address is {address!a}.", "Write HOST:PORT, ray://HOST:PORT or auto.")
    remedy = "Start one there: ray start --head --port 6379; or leave the address out for one on this machine."
    try:
        with socket.create_connection((host, port), _PATIENCE) as knock:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            knock.settimeout(_PATIENCE)
            knock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # RFC 9113, 3.4
            answer = knock.recv(9)
    except OSError as error:
        raise ClusterFault(f"Nothing answers at {address}: {error.strerror or error}.", remedy) from None
    if len(answer) < 4 or answer[3] != 4:  # the type of a frame of settings, with which such a server begins
        raise ClusterFault(f"What listens at {address} is no Ray cluster.", remedy)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# --- the engine of this process -----------------------------------------------------------------------------------

_chosen: config.Engine | None = None
_open: tuple[config.Engine, Engine] | None = None


def choose(settings: config.Engine | None) -> None:
    """From now on this process uses an engine of these settings, whatever a workspace's are; None: the workspace's."""
    global _chosen
    _chosen = settings


def opened(settings: config.Engine) -> Engine:
    """The engine of these settings; started when it is first asked for, and kept."""
    global _open
    settings = _chosen or settings
    if settings.kind == "local":
        return Here()
    if _open is None or _open[0] != settings:
        close()
        _open = settings, Ray(settings.address, settings.workers)
    return _open[1]


def close() -> None:
    """End what `opened` has started."""
    global _open
    if _open is not None and isinstance(_open[1], Ray):
        _open[1].close()
    _open = None
