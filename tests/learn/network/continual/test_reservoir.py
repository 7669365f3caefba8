from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everlearn import faults
from everlearn.errors import BadInput, Corrupt, StoreFault
from everlearn.learn.network.continual.reservoir import Reservoir, balanced, budget_for, names

SHAPE = (2, 2, 3)
settings.register_profile("reservoir", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reservoir")


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def opened(folder: Path, room: int = 6, width: int = 0, seed: int = 0) -> Reservoir:
    return Reservoir(folder, budget_for(room, SHAPE, width=width), SHAPE, seed=seed)


def content(held: Reservoir) -> list[tuple[str, int, bytes, bytes]]:
    inputs = held.inputs(np.arange(len(held)))
    rows = zip(held.keys, held.targets.tolist(), inputs, held.logits, strict=True)
    return [(key, target, image.tobytes(), logits.tobytes()) for key, target, image, logits in rows]


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.exists() else 0


@st.composite
def streams(draw):
    """Targets of up to 40 samples, and where they are cut into offers, in two orders."""
    targets = np.array(draw(st.lists(st.integers(0, 4), min_size=1, max_size=40)), np.int64)
    orders = [np.array(draw(st.permutations(range(len(targets)))), np.int64) for _ in range(2)]
    cuts = [sorted(draw(st.lists(st.integers(0, len(targets)), max_size=4))) for _ in range(2)]
    return targets, [np.split(order, cut) for order, cut in zip(orders, cuts, strict=True)]


@given(streams(), st.integers(1, 12), st.booleans())
def test_what_is_held_follows_from_the_set_that_was_offered(tmp_path_factory, stream, room, with_logits):
    targets, passes = stream
    x = images(len(targets))
    keys = [f"sample {row}" for row in range(len(targets))]
    logits = np.arange(3 * len(targets), dtype=np.float32).reshape(-1, 3) if with_logits else None
    found = []
    for parts in passes:
        folder = tmp_path_factory.mktemp("reservoir")
        held = opened(folder, room, 3 * with_logits)
        for part in [*parts, *parts]:  # twice: offering again changes nothing
            some = None if logits is None else logits[part]
            held.offer(x[part], targets[part], [keys[row] for row in part], some)
            assert len(held) <= room
            assert on_disk(folder) <= held.budget
        found.append(content(held))
        assert content(opened(folder, room, 3 * with_logits)) == found[-1]  # and is the same when it is opened again
    assert found[0] == found[1]
    held_of = np.bincount([target for _, target, _, _ in found[0]], minlength=5)
    there = np.bincount(targets, minlength=5)
    assert held_of.sum() == min(room, len(targets))
    for one in np.flatnonzero(held_of < there):  # a class that had to let some go has as many as any other, but one
        assert held_of[one] + 1 >= held_of.max()
    shown = {image: target for _, target, image, _ in found[0]}
    true = {image.tobytes(): int(target) for image, target in zip(x, targets, strict=True)}
    assert all(true[image] == target for image, target in shown.items())


@given(streams(), st.integers(4, 8), st.integers(5, 40))
def test_at_no_moment_is_there_more_than_the_budget(tmp_path_factory, stream, room, width):
    targets, (parts, _) = stream
    held = opened(tmp_path_factory.mktemp("reservoir"), room, 2)
    x, keys = images(len(targets)), [f"sample {row}" for row in range(len(targets))]
    with pytest.MonkeyPatch.context() as patched:

        def weighed(name: str) -> None:  # a new index is there beside the old one at `memory.written`
            assert on_disk(held.folder) <= held.budget, name

        patched.setattr(faults, "point", weighed)
        for number, part in enumerate(parts):
            some = [keys[row] for row in part]
            held.offer(x[part], targets[part], some, np.zeros((len(part), number % 3), np.float32))
        held.note(np.zeros((len(held), width), np.float32))
        assert np.array_equal(held.logits, np.zeros((len(held), width)))
        held.forget(keys[::2])
    assert len(held) <= held.room(width)
    assert content(opened(held.folder, room, 2)) == content(held)


@given(streams(), st.data())
def test_forgetting_and_offering_what_remains_is_as_never_having_seen_it(tmp_path_factory, stream, data):
    targets, (parts, _) = stream
    x, keys = images(len(targets)), [f"sample {row}" for row in range(len(targets))]
    gone = set(data.draw(st.lists(st.integers(0, len(targets) - 1), max_size=10)))
    stay = np.array([row for row in range(len(targets)) if row not in gone], np.int64)
    held = opened(tmp_path_factory.mktemp("reservoir"))
    for part in parts:
        held.offer(x[part], targets[part], [keys[row] for row in part])
    there = sum(keys[row] in held for row in gone)
    assert held.forget([keys[row] for row in gone]) == there
    disk = b"".join(path.read_bytes() for path in held.folder.glob("*"))
    assert not any(x[row].tobytes() in disk or keys[row] in held for row in gone)
    held.offer(x[stay], targets[stay], [keys[row] for row in stay])
    never = opened(tmp_path_factory.mktemp("never"))
    never.offer(x[stay], targets[stay], [keys[row] for row in stay])
    assert content(held) == content(never)


@given(streams(), st.integers(0, 4))
def test_only_what_is_wanted_need_be_offered(tmp_path_factory, stream, width):
    targets, (parts, _) = stream
    x, keys = images(len(targets)), [f"sample {row}" for row in range(len(targets))]
    logits = np.zeros((len(targets), width), np.float32)
    whole, lean = (opened(tmp_path_factory.mktemp("reservoir"), width=2) for _ in range(2))
    for part in parts:
        some = [keys[row] for row in part]
        whole.offer(x[part], targets[part], some, logits[part])
        wanted = part[lean.wanted(targets[part], some, width)]
        lean.offer(x[wanted], targets[wanted], [keys[row] for row in wanted], logits[wanted])
    assert content(whole) == content(lean)


def test_the_draw_from_a_class_is_uniform(tmp_path):
    counts = np.zeros(12)
    x = images(12)
    for seed in range(100):
        held = opened(tmp_path / str(seed), 4, seed=seed)
        held.offer(x, np.zeros(12, np.int64), [str(row) for row in range(12)])
        counts += [str(row) in held for row in range(12)]
    assert np.all(np.abs(counts - 100 / 3) < 4 * np.sqrt(100 * (1 / 3) * (2 / 3)))


def test_another_seed_holds_others(tmp_path):
    held = []
    for seed in (1, 2):
        one = opened(tmp_path / str(seed), 10, seed=seed)
        one.offer(images(100), np.zeros(100, np.int64))
        held.append(set(one.keys))
    assert held[0] != held[1]


def test_a_smaller_budget_and_wider_logits_let_some_go(tmp_path):
    x, targets = images(20), np.arange(20) % 4
    held = opened(tmp_path, 12)
    held.offer(x, targets)
    smaller = opened(tmp_path, 8)
    assert len(smaller) == 8
    assert on_disk(tmp_path) <= smaller.budget
    direct = opened(tmp_path / "direct", 8)
    direct.offer(x, targets)
    assert content(smaller) == content(direct)
    smaller.note(np.ones((8, 50), np.float32))
    assert len(smaller) == smaller.room(50) < 8
    assert on_disk(tmp_path) <= smaller.budget
    assert np.array_equal(smaller.logits, np.ones((len(smaller), 50)))
    assert np.bincount(smaller.targets).tolist() in ([1] * len(smaller), [1, 1, 1], [1, 1], [1])


def test_logits_are_noted_and_columns_that_were_not_there_are_nan(tmp_path):
    held = opened(tmp_path, 6, 4)
    held.offer(images(2), np.array([0, 1]), logits=np.array([[1, 2], [3, 1e9]], np.float32))
    held.offer(images(2, 1), np.array([2, 2]), logits=np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    assert held.logits[:2].tolist()[0][:2] == [1, 2]
    assert np.isnan(held.logits[:2, 2]).all()
    assert held.logits[1, 1] == np.finfo(np.float16).max
    assert sorted(held.logits[2:, 2].tolist()) == [3, 6]


def test_a_sample_with_another_class_counts_as_that(tmp_path):
    held = opened(tmp_path, 4)
    x = images(3)
    held.offer(x, np.array([0, 0, 1]), ["a", "b", "c"])
    held.offer(x[:1], np.array([1]), ["a"])
    assert held.targets.tolist() == [0, 1, 1]
    assert len(opened(tmp_path, 4)) == 3


_KILLED = """
import numpy as np, sys
from pathlib import Path
from tests.learn.network.continual.test_reservoir import images, opened
held = opened(Path(sys.argv[1]), 8, 2)
x, y = images(30), np.arange(30) % 3
held.offer(x[:10], y[:10], [str(row) for row in range(10)], np.ones((10, 2), np.float32))
held.offer(x[10:], y[10:] + 2, [str(row) for row in range(10, 30)], np.ones((20, 2), np.float32))
"""


@pytest.mark.parametrize("point", ["let_go:1", "images:1", "images:2", "index:1", "index:2"])
def test_a_killed_offer_leaves_nothing_broken_and_goes_on(tmp_path, point):
    root = Path(__file__).parents[4]
    environment = {**os.environ, "EVERLEARN_FAULT": f"reservoir.{point}", "PYTHONPATH": str(root)}
    died = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "killed")], env=environment, cwd=root)
    assert died.returncode == -signal.SIGKILL
    x, y = images(30), np.concatenate([np.arange(10) % 3, np.arange(10, 30) % 3 + 2])
    held = opened(tmp_path / "killed", 8, 2)
    by_key = {row.tobytes(): int(target) for row, target in zip(x, y, strict=True)}
    for _, target, image, _ in content(held):
        assert by_key[image] == target  # what the index says is what lies there
    whole = opened(tmp_path / "whole", 8, 2)
    for one in (held, whole):
        for part in (slice(0, 10), slice(10, 30)):
            count = len(y[part])
            one.offer(x[part], y[part], [str(row) for row in range(30)][part], np.ones((count, 2), np.float32))
    assert content(held) == content(whole)
    assert on_disk(tmp_path / "killed") <= held.budget


def test_rows_of_a_frozen_backbone_are_held_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    held = Reservoir(tmp_path, budget_for(3, (7,), np.float32), (7,), np.float32)
    held.offer(rows, np.array([0, 0, 0, 1, 2]))
    assert held.targets.tolist() == [0, 1, 2]
    assert {row.tobytes() for row in held.inputs(np.arange(3))} <= {row.tobytes() for row in rows}


def test_what_it_refuses(tmp_path):
    with pytest.raises(BadInput, match="no room"):
        Reservoir(tmp_path, 100, SHAPE)
    held = opened(tmp_path / "held")
    held.offer(images(4), np.arange(4))
    with pytest.raises(BadInput, match="seed 0, not 1"):
        opened(tmp_path / "held", seed=1)
    with pytest.raises(BadInput, match="Give"):
        held.offer(images(4).astype(np.float32), np.arange(4))
    with pytest.raises(BadInput, match="3 targets"):
        held.offer(images(4), np.arange(3))
    (tmp_path / "held" / "index.bin").write_bytes((tmp_path / "held" / "index.bin").read_bytes()[:-1] + b"x")
    with pytest.raises(Corrupt, match="damaged"):
        opened(tmp_path / "held")


def test_a_damaged_or_missing_image_file_is_told(tmp_path):
    opened(tmp_path).offer(images(4), np.arange(4))
    os.truncate(tmp_path / "images.bin", 13)
    with pytest.raises(Corrupt, match="damaged"):
        opened(tmp_path)


def test_a_disk_that_is_full_is_told(tmp_path):
    held, before = opened(tmp_path / "held"), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # no file may become longer, as on a full disk
    try:
        with pytest.raises(StoreFault):
            held.offer(images(4), np.arange(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_balanced_gives_large_classes_what_small_ones_leave():
    targets = np.repeat([0, 1, 2], [1, 10, 20])
    priorities = np.random.default_rng(0).permutation(31).astype(np.uint64)
    assert sorted(np.bincount(targets[balanced(targets, priorities, 11)]).tolist()) == [1, 5, 5]


def test_names_say_what_is_shown():
    x = images(3)
    assert names(x)[0] != names(x)[1]
    assert names(x) == names(x.copy())
