"""A training's files: whole or not there, nothing in them is run, and what differs is said."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from everlearn.errors import Corrupt, Missing, StoreFault
from everlearn.learn.network import checkpoint


def test_there_and_back(tmp_path: Path) -> None:
    values = {"weights": {"a.weight": torch.randn(3, 4)}, "epoch": 3, "loss": float("nan"), "names": ["ä", "b"]}
    checkpoint.save(tmp_path / "deep" / "one.pt", values)
    found = checkpoint.load(tmp_path / "deep" / "one.pt")
    assert torch.equal(found["weights"]["a.weight"], values["weights"]["a.weight"])  # type: ignore[index]
    assert (found["epoch"], found["names"]) == (3, ["ä", "b"])
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["one.pt"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path: Path, way: str) -> None:
    file, trap = tmp_path / "evil.pt", tmp_path / "trap"
    if way == "torch":
        torch.save({"model_state_dict": Evil(trap)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(trap), 2))
    with pytest.raises(Corrupt, match=r"evil\.pt"):
        checkpoint.load(file)
    assert not trap.exists()


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    with pytest.raises(Missing):
        checkpoint.load(file)
    checkpoint.save(file, {"weights": torch.randn(50)})
    whole = file.read_bytes()
    for broken in (b"", b"no state", whole[: len(whole) // 2], b"\x00" * 100):
        file.write_bytes(broken)
        with pytest.raises(Corrupt) as error:
            checkpoint.load(file)
        assert "\n" not in str(error.value)
    torch.save([1, 2], file)
    with pytest.raises(Corrupt, match="list"):
        checkpoint.load(file)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files, in a child of its own."""
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"epoch": 1})
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            checkpoint.save(file, {"epoch": 2, "weights": torch.zeros(100_000)})
        except StoreFault as error:
            os._exit(0 if "last.pt" in error.message and error.remedy else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert checkpoint.load(file) == {"epoch": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["last.pt"], "nothing half written is left"


def test_differences() -> None:
    before = {"stages": [{"epochs": 10, "loss": {"name": "focal"}}], "size": 64, "from": None}
    now = {"stages": [{"epochs": 20, "loss": {"name": "focal"}}], "size": 64, "from": "v1.0", "seed": 3}
    assert checkpoint.differences(before, now) == [
        "stages.0.epochs: 10, now 20", "from: none, now v1.0", "seed: none, now 3"
    ]  # fmt: skip
    assert checkpoint.differences(now, now) == []
    assert checkpoint.differences([1, 2], [1], "images") == ["images: [1, 2], now [1]"]
    (long,) = checkpoint.differences("x" * 100, "y", "name")
    assert len(long) < 80
