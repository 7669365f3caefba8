"""Files of weights that were made to fill the memory or to take forever."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest
import torch

from everlearn.errors import BadInput, Corrupt
from everlearn.model.detecting import weights

BOMB: list[Any] = ["x"]
for _ in range(60):
    BOMB = [BOMB, BOMB]  # 2^60 values, in a file of a few kilobytes


def ours(**more: Any) -> bytes:
    said = {"format": weights.FORMAT, "spec": "a.yaml", "yaml": {}, "classes": ["a"], "size": 64, "state": {},
            "licence": "none", "version": "1", "facts": {}}  # fmt: skip
    file = io.BytesIO()
    torch.save({**said, **more}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "more",
    [
        {"spec": BOMB}, {"yaml": {"a": BOMB}}, {"facts": {"a": BOMB}}, {"size": float("inf")}, {"state": {"a": 1}},
        {"state": {"a": torch.zeros(1, dtype=torch.float16).expand(200_000, 200_000)}},
        {"state": {"a": torch.eye(3).to_sparse()}},
        {"state": {str(n): torch.zeros(3000).expand(1, 3000) for n in range(3)} | {"b": torch.zeros(1).expand(2)}},
    ],
)  # fmt: skip
def test_ours_that_cannot_be(more: dict[str, Any]) -> None:
    assert weights.load(ours()).classes == ("a",)
    with pytest.raises(Corrupt, match="is damaged"):
        weights.load(ours(**more))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network as Ultralytics pickles it, without Ultralytics."""
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    kind: Any = type("DetectionModel", (), {"__module__": "ultralytics.nn.tasks"})
    sys.modules["ultralytics.nn.tasks"].DetectionModel = kind  # type: ignore[attr-defined]
    made = kind()
    made.__dict__.update(yaml={}, names={0: "a"}, _modules={}, _parameters={"w": torch.ones(2, dtype=torch.float16)})
    return made


def strangers(network: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"model": network}, file)
    return file.getvalue()


def test_a_strangers_network_has_an_end(network: Any) -> None:
    assert weights.load(strangers(network)).state["w"].tolist() == [1, 1]
    leaf = network
    for _ in range(28):  # 2^28 modules
        node = type(network)()
        node.__dict__["_modules"] = {"a": leaf, "b": leaf}
        leaf = node
    network_of_networks = type(network)()
    network_of_networks.__dict__.update(network.__dict__, _modules={"a": leaf})
    with pytest.raises(BadInput, match="more modules than any detector has"):
        weights.load(strangers(network_of_networks))


def test_a_strangers_words_have_an_end(network: Any) -> None:
    for name, value in (("yaml", {"a": BOMB}), ("names", {0: BOMB})):
        kept = network.__dict__[name]
        network.__dict__[name] = value
        with pytest.raises(BadInput, match="more values than any"):
            weights.load(strangers(network))
        network.__dict__[name] = kept


def test_a_tensor_named_again_and_again(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_MOST_BYTES", 1 << 20)  # 4 MiB of float32
    same = torch.zeros(100_000, dtype=torch.float16)
    network.__dict__["_parameters"] = {f"p{n}": same for n in range(10)}
    assert len(weights.load(strangers(network)).state) == 10
    network.__dict__["_parameters"] = {f"p{n}": same for n in range(11)}
    with pytest.raises(BadInput, match="p10 is larger than"):
        weights.load(strangers(network))


def test_parts_that_lie_over_one_another() -> None:
    """A zip archive may name the same bytes as many parts."""
    data = bytearray(ours(facts={"a": "x" * (3 << 20)}))
    at = data.find(b"PK\x01\x02")
    part = data[at : data.find(b"PK\x01\x02", at + 4)]
    end = data.rfind(b"PK\x05\x06")
    count = int.from_bytes(data[end + 10 : end + 12], "little") + 9
    size = int.from_bytes(data[end + 12 : end + 16], "little") + 9 * len(part)
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = size.to_bytes(4, "little")
    end64 = data.find(b"PK\x06\x06")
    made = bytes(data[: end64 if end64 >= 0 else end]) + bytes(part) * 9 + bytes(tail)
    with pytest.raises((BadInput, Corrupt), match=r"unpacks to|cannot be read"):
        weights.load(made)
