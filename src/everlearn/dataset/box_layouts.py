"""How data sets of boxes are laid out: as Ultralytics YOLO trains on them, as Pascal VOC and as Label Studio's tasks.

COCO's layout is in `layouts`, which classified images share. Each says every box exactly, to the catalog's grid, and
the whole label of it, parts and all; the classes that were looked for on each image stand in `index.csv`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from xml.sax.saxutils import escape as escape_xml
from xml.sax.saxutils import quoteattr

from everlearn.catalog.scenes import STEPS
from everlearn.dataset import yolo_folder
from everlearn.dataset.layouts import Coco, Flat, Item, Layout, corners, file_name
from everlearn.errors import BadInput
from everlearn.naming import coarse
from everlearn.types import Box, Scene, Split


def class_names(scenes: Iterable[Scene]) -> set[str]:
    """The classes of a data set: all labels of boxes, and what was looked for and never found."""
    named: set[str] = set()
    about: set[str] = set()
    for one in scenes:
        named.update(box.label for box in one.boxes)
        about.update(one.about or ())
    return named | (about - {coarse(label) for label in named})


class YoloBoxes:
    """`images/{train,val,test}/name.ext`, `labels/…/name.txt` and `data.yaml`: Ultralytics opens it as it is. An empty
    text says that there is nothing."""

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        self.folder, self.classes, self.sides = folder, classes, sides
        self.numbers = {label: number for number, label in enumerate(classes)}
        for kind in ("images", "labels"):
            for side in sides:
                (folder / kind / yolo_folder.SIDE_NAMES[side]).mkdir(parents=True)

    def path(self, item: Item, ext: str) -> str:
        return f"images/{yolo_folder.SIDE_NAMES[item.split]}/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None:
        text = yolo_folder.text_of(_boxes(item), self.numbers)
        below = item.path.removeprefix("images/").rpartition(".")[0]
        (self.folder / "labels" / f"{below}.txt").write_text(text, encoding="utf-8")

    def finish(self) -> None:
        text = yolo_folder.yaml_text(self.classes, self.sides)
        (self.folder / yolo_folder.YAML).write_text(text, encoding="utf-8")


class Voc:
    """`Annotations/name.xml`, `JPEGImages/name.ext` and `ImageSets/Main/{train,val,trainval,test}.txt`. Corners are
    counted from 0, and are whole pixels where that says the box exactly."""

    lists: ClassVar[dict[Split, tuple[str, ...]]] = {
        "train": ("train", "trainval"),
        "validation": ("val", "trainval"),
        "test": ("test",),
    }

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        self.folder = folder
        self.names: dict[str, list[str]] = {}
        for name in classes:
            if "\ufffe" in name or "\uffff" in name:
                raise BadInput(f"The class {name!a} holds a character that XML does not know.", "Use another format.")
        for below in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / below).mkdir(parents=True)

    def path(self, item: Item, ext: str) -> str:
        return f"JPEGImages/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None:
        name = item.path.partition("/")[2]
        stem = name.rpartition(".")[0]
        for one in self.lists[item.split]:
            self.names.setdefault(one, []).append(stem)
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        lines = ["<annotation>", "<folder>JPEGImages</folder>", f"<filename>{escape_xml(name)}</filename>", size,
                 *(_voc_object(box, width, height) for box in _boxes(item)), "</annotation>", ""]  # fmt: skip
        (self.folder / "Annotations" / f"{stem}.xml").write_text("\n".join(lines), encoding="utf-8")

    def finish(self) -> None:
        for name, stems in self.names.items():
            path = self.folder / "ImageSets" / "Main" / f"{name}.txt"
            path.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def _voc_object(box: Box, width: int, height: int) -> str:
    values = zip(("xmin", "ymin", "xmax", "ymax"), corners(box, width, height), strict=True)
    place = "".join(f"<{name}>{value:.10g}</{name}>" for name, value in values)
    plain = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{escape_xml(box.label)}</name>{plain}<bndbox>{place}</bndbox></object>"


class LabelStudio:
    """`tasks.json` to import, `labelling_config.xml` for the project, and `images/`, which Label Studio serves where
    its LOCAL_FILES_DOCUMENT_ROOT is this folder. What the format has no place for stands in a task's `meta`."""

    def __init__(self, folder: Path, classes: Sequence[str], sides: Sequence[Split]) -> None:
        self.folder, self.classes, self.count = folder, classes, 0
        (folder / "images").mkdir()
        self.tasks = (folder / "tasks.json").open("w", encoding="utf-8")
        self.tasks.write("[")

    def path(self, item: Item, ext: str) -> str:
        return f"images/{file_name(item, ext)}"

    def add(self, item: Item, width: int, height: int) -> None:
        self.count += 1
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        result = [
            {"id": f"{self.count}-{number}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
             **size, "value": {**_percent(box), "rotation": 0, "rectanglelabels": [box.label]}}
            for number, box in enumerate(_boxes(item), 1)
        ]  # fmt: skip
        said = {name: value for name, value in item.said().items() if name not in ("label", "boxes")}
        task: dict[str, Any] = {
            "id": self.count,
            "data": {"image": f"/data/local-files/?d={quote(item.path)}"},
            "annotations": [{"id": self.count, "was_cancelled": False, "result": result}],
            "meta": {"everlearn": said},
        }
        self.tasks.write(("," if self.count > 1 else "") + "\n" + json.dumps(task, ensure_ascii=False))

    def finish(self) -> None:
        self.tasks.write("\n]\n")
        self.tasks.close()
        labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in self.classes)
        text = f"""<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">{labels}
  </RectangleLabels>
</View>
"""
        (self.folder / "labelling_config.xml").write_text(text, encoding="utf-8")


def _percent(box: Box) -> dict[str, float]:
    """Of the image's sides, with the five decimals that the grid has."""
    left, top = round(box.x * STEPS), round(box.y * STEPS)
    right, bottom = round((box.x + box.width) * STEPS), round((box.y + box.height) * STEPS)
    steps = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {name: value / (STEPS // 100) for name, value in steps.items()}


def _boxes(item: Item) -> Sequence[Box]:
    return item.scene.boxes if item.scene else ()


BOX_LAYOUTS: dict[str, type[Layout]] = {
    "yolo": YoloBoxes,
    "coco": Coco,
    "voc": Voc,
    "labelstudio": LabelStudio,
    "csv": Flat,
    "dvc": YoloBoxes,
}
