"""The memory of the crops of one class: what it holds, that it is exact, that nothing of a forgotten one is left."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from everlearn.catalog import samples
from everlearn.catalog.crops import box_of, crop_id, sample_of
from everlearn.catalog.samples import Sample, id_of
from everlearn.catalog.tables import now
from everlearn.config import Config
from everlearn.image import encode_png
from everlearn.image.crop import crop
from everlearn.learn import crops
from everlearn.learn.crops import CropMemory
from everlearn.learn.features import Features, images
from everlearn.model.backbone import load_backbone
from everlearn.model.detecting.crops import CropBasis
from everlearn.naming import UNKNOWN
from everlearn.types import SILENT, Box
from everlearn.workspace import COLLECTED, Workspace
from tests import things

BASIS = CropBasis(load_backbone("patches:small"), dimensions=64)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", Config(task="detect"))


def kept(workspace: Workspace, kind: str, seeds: range) -> dict[str, tuple[str, int]]:
    """Things as samples; their crops with a whole label and a fold."""
    held = {}
    for seed in seeds:
        pixels, box = things.draw(kind, seed)
        data = encode_png(pixels)
        id, key = id_of(data), f"{COLLECTED}/{kind}{seed}.png"
        workspace.store.put(key, io.BytesIO(data))
        with workspace.catalog.write() as tx:
            if not samples.known(tx, [id]):
                samples.add(tx, [Sample(id, "image", key, len(data), "", None, None, "door", id, now())])
        held[crop_id(id, box)] = (f"thing/{kind}", seed % 5)
    return held


def test_a_crop_says_by_itself_whose_it_is_and_where_it_lies():
    box = Box("person", 0.0123457, 0.25, 0.9876543, 0.75)
    id = crop_id("ab" * 16, box)
    assert len(id) <= 64 and id == crop_id("ab" * 16, Box("another", box.x, box.y, box.width, box.height))
    found = box_of(id)
    assert found is not None and sample_of(id) == "ab" * 16 == sample_of("ab" * 16)
    np.testing.assert_allclose([found.x, found.y, found.width, found.height], [0.0123457, 0.25, 0.9876543, 0.75])
    assert crop_id("ab" * 16, found) == id
    assert box_of("ab" * 16) is None and box_of("ab" * 16 + "@nonsense") is None


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (0.5, 0.5, 1e-7, 1e-7), (0.999, 0.999, 0.001, 0.001), (0.2, 0.3, 0.1, 0.6)]
)
def test_a_crop_is_the_box_and_a_little_more_and_never_nothing(box):
    pixels = np.arange(40 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 30, 3)
    found = crop(pixels, Box("", *box))
    _, _, width, height = box
    assert found.shape[0] >= max(1, int(height * 40)) and found.shape[1] >= max(1, int(width * 30))
    assert found.shape[0] <= height * 40 * 1.1 + 2 and found.shape[1] <= width * 30 * 1.1 + 2


def test_strangers_are_drawn_by_hash_and_of_no_class_without_kinds():
    ids = [crop_id(f"{n:032x}", Box("", 0.1, 0.1, 0.5, 0.5)) for n in range(300)]
    said = [(id, "person", n % 5) for n, id in enumerate(ids)] + [(id, "cat", 0) for id in ids[:3]]
    assert crops.members(said, None) == {}
    fine = [(crop_id("f" * 32, Box("", 0.2, 0.2, 0.5, 0.5)), "person/courier", 2)]
    found = crops.members([*said, *fine], None)
    assert set(found) == {"person"}
    assert sum(label == UNKNOWN for label, _ in found["person"].values()) == crops.STRANGERS
    assert found == crops.members([*fine, *reversed(said)], None)
    assert crops.strangers(0.01) == 299  # so many promise 1 % with a confidence of 95 %


def test_a_box_that_was_called_by_a_kind_is_no_stranger_too():
    id = crop_id("0" * 32, Box("", 0.1, 0.1, 0.5, 0.5))
    assert crops.members([(id, "person", 1), (id, "person/courier", 1)], None) == {
        "person": {id: ("person/courier", 1)}
    }


def test_features_of_crops_are_those_of_the_cut_image(workspace):
    held = kept(workspace, "star", range(3))
    ids = sorted(held)
    found = Features(workspace, BASIS).all(ids, SILENT)
    cut = []
    for id, pixels in zip(ids, images(workspace, [sample_of(id) for id in ids]), strict=True):
        box = box_of(id)
        assert box is not None
        cut.append(crop(pixels, box))
    assert (found == BASIS.phi(cut)).all()
    assert [one.shape for one in images(workspace, ids)] == [one.shape for one in cut]


def test_what_was_unlearned_leaves_the_sums_of_a_memory_that_never_saw_it(workspace):
    star, ring = kept(workspace, "star", range(4)), kept(workspace, "ring", range(4))
    memory = CropMemory(workspace, BASIS, "thing")
    memory.hold(star | ring, SILENT)
    memory.keep()
    again = CropMemory(workspace, BASIS, "thing", strict=True)
    assert again.held == star | ring
    moved = again.hold(ring | dict.fromkeys(list(star)[:1], ("thing/else", 0)), SILENT)
    assert (moved.added, moved.removed) == (1, 4)
    moved = again.hold(ring, SILENT)
    again.keep()
    (workspace.root / crops.FOLDER / "other.sums").touch()
    crops.drop(workspace, but=["thing"])
    assert crops.names(workspace) == ["thing"]
    fresh = CropMemory(workspace, BASIS, "another")
    fresh.hold(ring, SILENT)
    assert CropMemory(workspace, BASIS, "thing", strict=True).memory.digest() == fresh.memory.digest()


def test_forgetting_takes_the_crops_of_a_sample_out_of_every_cache_and_their_memory(workspace):
    star, ring = kept(workspace, "star", range(2)), kept(workspace, "ring", range(2))
    other = CropBasis(BASIS.backbone, dimensions=32)
    for basis in (BASIS, other):
        Features(workspace, basis).all(sorted(star | ring), SILENT)
    memory = CropMemory(workspace, BASIS, "thing")
    memory.hold(star | ring, SILENT)
    memory.keep()
    gone = [sample_of(id) for id in star]
    memory.features.forget(gone)
    caches = list((workspace.root / ".everlearn").glob("features-*.db"))
    assert len(caches) == 2
    for path in caches:
        with sqlite3.connect(path) as file:
            assert {row[0] for row in file.execute("SELECT id FROM phi")} == set(ring)
        data = path.read_bytes()
        assert not any(id.encode() in data for id in gone)
    crops.forget(workspace, [sample_of(id) for id in ring][:1])
    assert crops.names(workspace) == []


def test_a_memory_of_others_only_is_left_where_a_sample_is_forgotten(workspace):
    ring = kept(workspace, "ring", range(2))
    memory = CropMemory(workspace, BASIS, "thing/s")
    memory.hold(ring, SILENT)
    memory.keep()
    crops.forget(workspace, ["f" * 32])
    assert crops.names(workspace) == ["thing/s"]
    memory.path.write_bytes(b"damaged")
    crops.forget(workspace, ["f" * 32])
    assert crops.names(workspace) == []


def test_five_of_each_are_told_apart_and_a_stranger_is_refused(workspace):
    held: dict[str, tuple[str, int]] = {}
    for kind in ("star", "ring"):
        held |= kept(workspace, kind, range(5))
    held |= {id: (UNKNOWN, fold) for id, (_, fold) in kept(workspace, "square", range(8)).items()}
    memory = CropMemory(workspace, CropBasis(load_backbone("patches")), "thing")
    memory.hold(held, SILENT)
    found = memory.fitted(SILENT)
    assert found.head.answers == ("thing/ring", "thing/star", UNKNOWN)
    wrong = 0
    for kind, wanted in (("star", "thing/star"), ("ring", "thing/ring"), ("square", UNKNOWN), ("circle", UNKNOWN)):
        new = [crop(*things.draw(kind, seed)) for seed in range(100, 110)]
        answers = [found.head.answers[best] for best in found.head.table(memory.basis.phi(new)).argmax(axis=1)]
        wrong += sum(answer != wanted for answer in answers)
    assert wrong <= 8  # of 40
    sure = crops.sureness(found)
    assert set(sure) == set(found.head.answers) and all(1 / 3 <= one <= 1 for one in sure.values())
    assert sure["thing/star"] > 1 / 3
    left = crops.left_out(found)
    assert set(left) <= set(held) and sum(left[id] == held[id][0] for id in left) >= 0.7 * len(left)


def test_one_kind_without_strangers_is_answered_always(workspace):
    memory = CropMemory(workspace, BASIS, "thing")
    memory.hold(kept(workspace, "star", range(3)), SILENT)
    found = memory.fitted(SILENT)
    assert found.head.answers == ("thing/star",) and found.head.table(BASIS.phi([things.draw("ring", 0)[0]])) == 1
    assert crops.sureness(found) == {"thing/star": 1.0} and crops.left_out(found) == {}
