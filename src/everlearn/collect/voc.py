"""Pascal VOC data sets: `Annotations/a.xml` and `JPEGImages/a.jpg`, or `annotations` and `images`, or side by side.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Never
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from everlearn.collect.annotations import (
    MAX_ANNOTATION_BYTES,
    Boxes,
    class_name,
    found_at,
    number,
    size_of,
    with_endings,
)
from everlearn.collect.files import IMAGE_ENDINGS, Entry, ending, entry_at, is_there, read_regular, refused, walk, why
from everlearn.collect.options import SourceOptions
from everlearn.errors import BadInput
from everlearn.types import Found, Refused

_XML_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


class VocSource:
    """Images with boxes. path: the data set's folder, or one annotation. Images without an annotation are taken too,
    with unknown boxes. Which classes were looked for, the format does not say."""

    def __init__(self, path: str, options: SourceOptions) -> None:
        here = Path(path).absolute()
        self.options = options
        self.single = here if here.is_file() else None
        self.root = here.parent if here.is_file() else here
        if self.single and here.parent.name in _XML_FOLDERS:
            self.root = here.parent.parent

    def items(self) -> Iterator[Found | Refused]:
        if self.single:
            yield self._annotated(entry_at(str(self.single), str(self.root)))
            return
        for entry in walk(str(self.root), self.options.exclude):
            if isinstance(entry, Refused):
                yield entry
            elif ending(entry.name) == "xml":
                yield self._annotated(entry)
            elif ending(entry.name) in IMAGE_ENDINGS and not is_there(_annotation_of(entry)):
                yield found_at(entry, self.options)

    def estimate(self) -> int | None:
        if self.single:
            return 1
        entries = walk(str(self.root), self.options.exclude, with_stat=False)
        return sum(1 for one in entries if isinstance(one, Entry) and ending(one.name) == "xml")

    def _annotated(self, entry: Entry) -> Found | Refused:
        try:
            tree = parse_xml(read_regular(entry.target, MAX_ANNOTATION_BYTES))
            image = self._image_of(entry, tree)
            boxes = _boxes(tree, image)
        except BadInput as error:
            return refused(entry.path, error.message)
        except OSError as error:
            return refused(entry.path, why(error))
        found = found_at(image, self.options)
        if isinstance(found, Refused):
            return found
        return boxes.on(found, "voc")

    def _image_of(self, entry: Entry, tree: Element) -> Entry:
        """By the annotation's own name, which is the convention; else by the `filename` in it. Its `path` is of the
        machine it was drawn on. Raises BadInput where there is none."""
        here = Path(entry.path).parent
        folders = [here]
        if here.name in _XML_FOLDERS:
            folders = [here.parent / name for name in _IMAGE_FOLDERS] + [here]
        names = with_endings(entry.name.rpartition(".")[0])
        said = (tree.findtext("filename") or "").strip()
        if said:
            names.append(said)
        for folder in folders:
            for name in names:
                try:
                    return entry_at(name, str(self.root), str(folder))
                except OSError:
                    continue
        raise BadInput("there is no image to this annotation", "")


def _annotation_of(entry: Entry) -> Path:
    here = Path(entry.path)
    if here.parent.name in _IMAGE_FOLDERS:
        for name in _XML_FOLDERS:
            beside = here.parent.parent / name / f"{here.stem}.xml"
            if is_there(beside):
                return beside
    return here.with_suffix(".xml")


def parse_xml(data: bytes) -> Element:
    """An XML document without a document type: entities, and with them every XML bomb and outside file, need one.

    Raises BadInput.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise BadInput(f"no XML that can be read: {error}", "") from None


def _refuse_doctype(*declaration: object) -> Never:
    raise BadInput("an XML document type (DTD) is not read", "")


def _boxes(tree: Element, image: Entry) -> Boxes:
    if tree.tag != "annotation":
        raise BadInput(f"<{tree.tag[:40]}> is no Pascal VOC annotation", "")
    objects = tree.findall("object")
    if not objects:
        return Boxes()
    width, height = _size(tree, image)
    boxes = Boxes()
    for one in objects:
        corners = [one.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = (number(corner) for corner in corners)
        label = class_name(one.findtext("name"))
        boxes.put(label, left / width, top / height, right / width, bottom / height)
    return boxes


def _size(tree: Element, image: Entry) -> tuple[float, float]:
    """Annotations of some tools say 0."""
    said = tree.findtext("size/width"), tree.findtext("size/height")
    width, height = (number(value) if value else 0 for value in said)
    return (width, height) if width > 0 and height > 0 else size_of(image)
