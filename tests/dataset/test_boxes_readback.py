"""Boxes that are exported and collected again are the same boxes, to the last step of the catalog's grid."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from everlearn.catalog import labels, samples, scenes, snapshots
from everlearn.catalog.scenes import STEPS, canonical
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.collect.take import take
from everlearn.config import Config, Dataset
from everlearn.dataset.box_layouts import BOX_LAYOUTS, class_names
from everlearn.dataset.build import build, fold_of, side_of
from everlearn.dataset.export import export, read
from everlearn.dataset.layouts import Item
from everlearn.errors import BadInput, EverlearnError
from everlearn.image import encode_png
from everlearn.naming import clean_label, coarse
from everlearn.types import SPLITS, Box, Found, Scene
from everlearn.workspace import Workspace
from tests.make import START, Quiet, add_image, make_workspace, picture

BOXED = ("yolo", "coco", "voc", "labelstudio")
SIDES = st.sampled_from([1, 3, 7, 160, 641, 1080, 1920, 4032])


def clean(text: str) -> str | None:
    try:
        return clean_label(text)
    except BadInput:
        return None


NAMES = (
    st.sampled_from(["person", "person/courier", "고양이", "a b", "1", "null", "yes", "x: y", '"q"', "<&>", "=1", "🙂"])
    | st.text(min_size=1, max_size=20).map(clean).filter(bool)
)  # fmt: skip


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> Box:
    """Anywhere on the grid; often on whole pixels, at the edges, one step or one pixel large."""
    x, w = draw(spans(width))
    y, h = draw(spans(height))
    return Box(draw(NAMES), x / STEPS, y / STEPS, w / STEPS, h / STEPS)


@st.composite
def spans(draw: st.DrawFn, side: int) -> tuple[int, int]:
    if draw(st.booleans()):  # whole pixels, as they are when they come from them
        first = draw(st.integers(0, side - 1))
        last = draw(st.sampled_from([first + 1, side]) | st.integers(first + 1, side))
        left, right = round(first / side * STEPS), round(last / side * STEPS)
    else:
        left = draw(st.sampled_from([0, STEPS - 1]) | st.integers(0, STEPS - 1))
        right = draw(st.sampled_from([left + 1, STEPS]) | st.integers(left + 1, STEPS))
    return left, right - left


@st.composite
def pictures(draw: st.DrawFn) -> list[tuple[Scene, int, int]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        width, height = draw(SIDES), draw(SIDES)
        told = draw(st.lists(boxes(width, height), max_size=4))
        about = draw(st.none() | st.lists(NAMES, max_size=2).map(tuple))
        found.append((canonical(Scene(tuple(told), about)), width, height))
    return found


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("png") / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    return path.read_bytes()


def written(root: Path, format: str, given: list[tuple[Scene, int, int]], png: bytes) -> list[str]:
    """Laid out as an export is, without the index."""
    classes = sorted(class_names([scene for scene, *_ in given]))
    layout = BOX_LAYOUTS[format](root, classes, SPLITS)
    for number, (scene, width, height) in enumerate(given):
        item = Item(
            f"{number:032x}", scenes.label_of(scene), SPLITS[number % 3], 0, None, "g", None, None, None, "", scene
        )
        item = Item(**{slot: getattr(item, slot) for slot in item.__slots__} | {"path": layout.path(item, "png")})
        (root / item.path).write_bytes(png)
        layout.add(item, width, height)
    layout.finish()
    return classes


@pytest.mark.parametrize("format", BOXED)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=pictures())
@example(given=[(canonical(Scene((), ("cat",))), 160, 160), (canonical(Scene(())), 1, 1)])
def test_any_scene_comes_back_exactly(tmp_path_factory, png, format, given):
    assume(format != "voc" or not any("\ufffe" in b.label or "\uffff" in b.label for s, *_ in given for b in s.boxes))
    assume(format != "voc" or not any("\ufffe" in n or "\uffff" in n for s, *_ in given for n in s.about or ()))
    root = tmp_path_factory.mktemp("out")
    classes = written(root, format, given, png)
    source = open_source(str(root), SourceOptions(labels_from=format))
    items = list(source.items())
    assert all(isinstance(one, Found) for one in items), items
    found = {int(one.name.partition(".")[0], 16): canonical(Scene(one.boxes, one.about)) for one in items}
    about = tuple(sorted({coarse(name) for name in classes})) if format in ("yolo", "coco") else None
    for number, (scene, *_) in enumerate(given):
        assert found[number].boxes == scene.boxes
        assert found[number].about == (about or None)
    assert len(found) == len(given)


CONFIG = Config(task="detect", dataset=Dataset(test=0.3, validation=0.2))
CAT, TOM, DOG = (
    Box("cat", 0.25, 0.125, 0.5, 0.5),
    Box("cat/tom", 0.0, 0.0, 1.0, 0.0416667),
    Box("개 a", 0.1, 0.2, 0.3, 0.4),
)
TOLD = [Scene((CAT, DOG), ("cat", "개 a")), Scene((TOM,), ("cat",)), Scene((), ("cat", "cow")), Scene((DOG,))]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """24 images in sessions of two, with the boxes that a data set said."""
    workspace = make_workspace(tmp_path_factory.mktemp("boxes"), 0, (), CONFIG)
    for number in range(24):
        when = START + timedelta(minutes=number)
        add_image(workspace, encode_png(picture(number)), None, captured_at=when, group_key=f"session {number // 2}")
    with workspace.catalog.write() as tx:
        names = scenes.keep(tx, TOLD)
        ids = [one.id for batch in samples.batches(tx) for one in batch]
        labels.say(tx, [labels.Said(id, names[number % 4], "yolo") for number, id in enumerate(ids)])
    return workspace


def held(workspace):
    with workspace.catalog.read() as tx:
        rows = [one for batch in samples.batches(tx) for one in batch]
        told = scenes.of(tx, [one.id for one in rows])
    return sorted(
        (o.id, told[o.id], o.camera, o.captured_at, o.group_key, side_of(o.group_key, CONFIG.dataset),
         fold_of(o.group_key, CONFIG.learn.folds)) for o in rows
    )  # fmt: skip


@pytest.mark.parametrize("format", [*BOXED, "csv"])
def test_an_export_comes_back_with_all_that_is_known(workspace, tmp_path, format):
    snapshot = build(workspace)
    report = export(workspace, snapshot, tmp_path / "out", format, Quiet())
    assert (report.samples, report.classes) == (24, 4)  # cat, cat/tom, cow, 개 a
    items = list(read(tmp_path / "out"))
    with workspace.catalog.read() as tx:
        members = list(snapshots.members(tx, snapshot.number))
    assert [(i.id, i.label, i.split) for i in items] == [(m.id, m.label, m.split) for m in members]
    text = (tmp_path / "out" / "index.csv").read_text()
    assert " scene " not in text

    fresh = Workspace.create(tmp_path / "fresh", CONFIG)
    result = take(fresh, "out", open_source(str(tmp_path / "out")), Quiet())
    assert (result.collected, result.refused) == (24, 0)
    assert held(fresh) == held(workspace)
    before = (tmp_path / "out" / "index.csv").read_bytes()
    if format == "yolo":
        (tmp_path / "out" / "labels" / "train.cache").write_bytes(b"Ultralytics was here")
    export(workspace, snapshot, tmp_path / "out", format, Quiet())
    assert (tmp_path / "out" / "index.csv").read_bytes() == before


def test_an_exported_folder_opens_in_ultralytics_unchanged(workspace, tmp_path, monkeypatch):
    data = pytest.importorskip("ultralytics.data.utils")
    monkeypatch.setattr(data, "check_font", lambda *_: None)  # it would fetch one for Korean names
    export(workspace, build(workspace), tmp_path / "out", "yolo", Quiet())
    said = data.check_det_dataset(str(tmp_path / "out" / "data.yaml"), autodownload=False)
    assert list(said["names"].values()) == ["cat", "cat/tom", "cow", "개 a"]
    total = 0
    for side in ("train", "val", "test"):
        images = sorted(str(path) for path in Path(said[side]).iterdir())
        for image, text in zip(images, data.img2label_paths(images), strict=True):
            _, rows, *_, missing, there, _, corrupt, message = data.verify_image_label(
                (image, text, "", False, 4, 0, 0, False)
            )
            assert (missing, there, corrupt, message) == (0, 1, 0, "")
            total += len(rows)
    assert total == 24  # two boxes, one, none and one, six times


def test_coco_agrees_with_pycocotools(workspace, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    export(workspace, build(workspace), tmp_path / "out", "coco", Quiet())
    found = 0
    for side in SPLITS:
        said = coco.COCO(str(tmp_path / "out" / "annotations" / f"instances_{side}.json"))
        for image in said.loadImgs(said.getImgIds()):
            for one in said.loadAnns(said.getAnnIds([image["id"]])):
                name = said.loadCats([one["category_id"]])[0]["name"]
                box = {box.label: box for box in (CAT, TOM, DOG)}[name]
                assert one["bbox"] == pytest.approx([box.x * 24, box.y * 24, box.width * 24, box.height * 24], abs=1e-5)
                found += 1
    assert found == 24
    assert [24 * 0.25, 3, 12, 12] in [one["bbox"] for one in said.dataset["annotations"]]  # whole pixels stay whole


def test_formats_of_classes_and_of_boxes(workspace, tmp_path):
    with pytest.raises(BadInput, match="'imagefolder' is no export format of boxes"):
        export(workspace, build(workspace), tmp_path / "out", "imagefolder", Quiet())
    (tmp_path / "b").mkdir()
    other = make_workspace(tmp_path / "b", 4)
    with pytest.raises(BadInput, match="'voc' is no export format of classes"):
        export(other, build(other), tmp_path / "out", "voc", Quiet())


def test_an_index_of_boxes_that_cannot_be(workspace, tmp_path):
    export(workspace, build(workspace), tmp_path / "out", "csv", Quiet())
    path = tmp_path / "out" / "index.csv"
    head, first, *_ = path.read_text().splitlines()
    for boxes in ("5", "[", '[["a",0,0,1]]', '[["a",0,0,2,2]]', '[["a",0,0,0,0]]', "[[[],0,0,1,1]]"):
        quoted = boxes.replace('"', '""')
        path.write_text(f'{head}\n{first.split(",")[0]},{"0" * 32},,train,0,,g,,,,1,1,"{quoted}",\n')
        with pytest.raises(EverlearnError):
            list(read(tmp_path / "out"))
        [refused] = list(open_source(str(tmp_path / "out")).items())
        assert not isinstance(refused, Found)
