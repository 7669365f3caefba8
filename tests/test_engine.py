"""The engine: the same bits from a real Ray cluster of two machines, whichever worker or machine dies on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from everlearn import engine, exact_sums
from everlearn.errors import BadConfig, BadInput, ClusterFault, Corrupt, Missing, NotInstalled, StoreFault
from everlearn.learn import features
from everlearn.learn.extract import Extract, File
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.stages.summing import Item
from everlearn.store import LocalStore, open_store
from tests import servers
from tests.wheel import File as Image
from tests.wheel import good, make, run

PIXELS = 10**6


class Cluster:
    """Three machines of Ray's own test cluster: a head that does no work, and two with one core each."""

    def __init__(self, fault: Path) -> None:
        from ray.cluster_utils import Cluster as Machines

        self.fault = fault
        """While it is not there, the next worker that has done a part makes it and dies before it can tell."""
        self._machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0, **self._small})
        self.address: str = self._machines.address
        for _ in range(2):
            self.add()

    _small = {"object_store_memory": 80 << 20, "include_dashboard": False}

    def add(self) -> Any:
        return self._machines.add_node(num_cpus=1, **self._small)

    def kill(self, machine: Any) -> None:
        self._machines.remove_node(machine, allow_graceful=False)

    def end(self) -> None:
        self._machines.shutdown()


@pytest.fixture(scope="module")
def cluster(s3_server: servers.S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    fault = tmp_path_factory.mktemp("fault") / "killed"
    fault.touch()
    environment = {
        **s3_server.environment(), "EVERLEARN_FAULT": f"engine.part:1@{fault}", "RAY_USAGE_STATS_ENABLED": "0"
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        found = Cluster(fault)
        patch.delenv("EVERLEARN_FAULT")
        yield found
        found.end()


@pytest.fixture(scope="module")
def ray(cluster: Cluster) -> Iterator[engine.Ray]:
    found = engine.Ray(cluster.address)
    yield found
    found.close()


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis(load_backbone("patches"), dimensions=128)


def folder(path: Path, files: tuple[Image, ...]) -> Path:
    for one in files:
        (path / one.label).mkdir(parents=True, exist_ok=True)
        (path / one.label / one.name).write_bytes(one.data)
    return path


def test_the_same_sums_whatever_dies(cluster: Cluster, ray: engine.Ray, basis: Basis, tmp_path: Path) -> None:
    photos = folder(tmp_path, good(each=14))
    here = exact_sums(photos, basis=basis)
    assert here.class_counts() == {"0": 14, "1": 14, "2": 14}
    assert exact_sums(photos, basis=basis, part=5).digest() == here.digest()
    assert exact_sums(photos, basis=basis, engine=ray, part=4).digest() == here.digest()

    cluster.fault.unlink()
    there = exact_sums(photos, basis=basis, engine=ray, part=4)
    assert there.digest() == here.digest()
    assert cluster.fault.exists(), "no worker has died"
    there.merge(here)
    assert there.class_counts() == {"0": 28, "1": 28, "2": 28}

    def and_a_machine() -> Iterator[Item]:
        machine = cluster.add()
        for number, key in enumerate(sorted(LocalStore(photos).keys(""))):
            if number == 36:  # what it has done and not yet told is lost with it
                cluster.kill(machine)
            yield Item(key, key.partition("/")[0])

    assert exact_sums(photos, and_a_machine(), basis=basis, engine=ray, part=3).digest() == here.digest()


def test_from_a_bucket(ray: engine.Ray, basis: Basis, s3_server: servers.S3Server, tmp_path: Path) -> None:
    photos = folder(tmp_path, good(each=6))
    bucket = s3_server.bucket("photos")
    for key in LocalStore(photos).keys(""):
        with (photos / key).open("rb") as file:
            open_store(bucket).put(key, file)
    assert exact_sums(bucket, basis=basis, engine=ray, part=7).digest() == exact_sums(photos, basis=basis).digest()


def test_a_workspace_learns_the_same(
    cluster: Cluster, ray: engine.Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Features come back into its cache; sums come as one. Nothing but the answer stands on stdout, deaths or not."""
    monkeypatch.setattr(features, "SENT", (8, 8))
    monkeypatch.setattr(features, "WORTH_SUMS", 1)
    photos = folder(tmp_path / "photos", good(each=14))
    roots = [tmp_path / "here", tmp_path / "there"]
    for root in roots:
        make(root, label={"automatic": False})
        assert run(root, "collect", photos, "--labels-from", "folder").code == 0
    plain = [run(roots[0], verb) for verb in ("validate", "learn")]
    words = ("--engine", "ray", "--ray-address", cluster.address)
    cluster.fault.unlink()
    far = [run(roots[1], "validate", *words)]
    for cache in roots[1].glob(".everlearn/features-*"):
        cache.unlink()  # so that learning has to compute, and sums
    far.append(run(roots[1], "learn", *words))
    assert cluster.fault.exists(), "no worker has died"
    assert [done.code for done in plain + far] == [0, 0, 0, 0], far
    for name in ("samples", "memory_digest", "model_digest", "snapshot"):
        assert far[1].values[name] == plain[1].values[name], name
    (cache,) = roots[1].glob(".everlearn/features-*.db")
    cache.unlink()
    again = run(roots[1], "predict", photos / "0", *words)
    assert again.code == 0, again
    assert capfd.readouterr().out == ""


def test_what_a_worker_refuses(ray: engine.Ray, basis: Basis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path / "photos", good(each=1))
    files = [File("a", "0/digit_0000.png")]

    def answer(extract: Extract, files: list[File] = files) -> Any:
        return list(ray.map(extract, [files]))

    store = LocalStore(photos)
    with pytest.raises(StoreFault, match=r"does not see the folder .*elsewhere.* s3://"):
        answer(Extract(basis, LocalStore(tmp_path / "elsewhere"), PIXELS))
    with pytest.raises(Missing, match="gone"):
        answer(Extract(basis, store, PIXELS), [File("a", "gone.png")])
    (photos / "broken.png").write_bytes(b"broken")
    with pytest.raises(Corrupt, match="sample b7"):
        answer(Extract(basis, store, PIXELS), [File("b7", "broken.png")])
    other = Extract(basis, store, PIXELS)
    other._expected = b"of another basis"
    with pytest.raises(ClusterFault, match="computes other features"):
        answer(other)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "version", lambda name: "0.0.1")
        with pytest.raises(ClusterFault, match=r"has Everlearn .*, this process 0\.0\.1"):
            answer(Extract(basis, store, PIXELS))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "ATTEMPTS", 2)
        with pytest.raises(ClusterFault, match="begun 2 times"):
            list(ray.map(lambda part: os.kill(os.getpid(), signal.SIGKILL), [0]))
    ((_, phi),) = answer(Extract(basis, store, PIXELS))
    assert phi.tobytes() == Extract(basis, store, PIXELS)(files).tobytes()


def test_every_part_once(ray: engine.Ray) -> None:
    def both(part: int) -> tuple[int, list[int]]:
        return part, [part]

    for runs in (ray, engine.Here()):
        assert sorted(runs.map(lambda part: -part, range(20))) == [(part, -part) for part in range(20)]
        taken: list[int] = []
        whole = runs.sum(both, range(75), lambda sums: sum(sums, []), lambda part, receipt: taken.append(receipt))  # noqa: RUF017, B023
        assert whole is not None
        assert sorted(whole) == sorted(taken) == list(range(75))
        assert runs.sum(both, [], lambda sums: sums[0], lambda part, receipt: None) is None


def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    """No cluster: one is started, and is gone afterwards. A worker is killed; stdout is one JSON object."""
    root, photos = tmp_path / "w", folder(tmp_path / "photos", good(each=14))
    make(root, engine={"kind": "ray", "workers": 2})
    assert run(root, "collect", photos, "--labels-from", "folder").code == 0
    script = "import sys, everlearn.cli; sys.exit(everlearn.cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "-w", str(root), "validate", "--json"],
        capture_output=True, text=True, env={**os.environ, "EVERLEARN_FAULT": f"engine.part:1@{tmp_path / 'killed'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["validated"] == 42
    assert (tmp_path / "killed").exists()
    assert "ray" not in done.stderr.lower()
    assert list(of_its_cluster(tmp_path)) == []


def of_its_cluster(mark: Path) -> Iterator[str]:
    """Names of processes whose environment knows this path."""
    for one in psutil.process_iter(["name", "environ"]):
        if any(str(mark) in value for value in (one.info["environ"] or {}).values()):
            yield one.info["name"]


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(engine, "_PATIENCE", 0.2)
        with pytest.raises(ClusterFault, match=f"Nothing answers at {address}"):
            engine._knock(address)  # a server that says nothing
        server.accept()
        other = threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request"))
        other.start()
        with pytest.raises(ClusterFault, match=f"What listens at {address} is no Ray cluster"):
            engine._knock(address)
        other.join()
    for closed in (address, f"ray://{address}"):
        with pytest.raises(ClusterFault, match=f"Nothing answers at {closed}"):
            engine._knock(closed)
    for wrong in ("somewhere", "http://a:1", "a:b", "ray://a"):
        with pytest.raises(BadConfig, match=r"engine\.address is"):
            engine._knock(wrong)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotInstalled, match=r'pip install "everlearn\[ray\]"'):
        list(engine.Ray().map(str, [1]))


def test_the_command_goes_before_the_settings(tmp_path: Path) -> None:
    root, photos = tmp_path / "w", folder(tmp_path / "photos", good(each=2))
    make(root, engine={"kind": "ray", "address": "127.0.0.1:1"})
    assert run(root, "collect", photos, "--labels-from", "folder").code == 0
    refused = run(root, "predict", photos / "0")
    assert refused.code == 2
    assert run(root, "validate", "--engine", "local").code == 0
    assert run(root, "validate", "--engine", "local", "--ray-address", "auto").code == 2
    assert run(root, "validate", "--engine", "abacus").values["error"]["code"] == "usage"


def test_sums_of_a_folder(basis: Basis, tmp_path: Path) -> None:
    photos = folder(tmp_path, good(each=3))
    whole = exact_sums(photos, basis=basis)
    (photos / "1" / "broken.png").write_bytes(b"broken")
    (photos / "1" / "notes.txt").write_text("no image")
    (photos / "loose.png").write_bytes(good(each=1)[0].data)
    with pytest.raises(BadInput, match=r"1/broken\.png"):
        exact_sums(photos, basis=basis)
    told: list[str] = []
    assert exact_sums(photos, basis=basis, refused=told.append).digest() == whole.digest()
    assert told == ["1/broken.png"]
    with pytest.raises(BadInput, match="no image"):
        exact_sums(tmp_path / "nowhere", basis=basis)
    with pytest.raises(BadInput, match="part is 0"):
        exact_sums(photos, basis=basis, part=0)
