"""A training's images as Ultralytics takes them, and its judge, both with the classes that an image's labels cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from everlearn.errors import BadInput
from everlearn.model.detecting import labels, remembering
from everlearn.model.detecting.yolo import DetectionValidator, YOLODataset

_MOST_CACHED = 1 << 30  # bytes; not what is free just now, since what a mosaic draws from depends on it
_RECENT = 8  # batches


class Images(YOLODataset):  # type: ignore[misc]
    """Images of one side. Where all fit into memory they are read once, and a mosaic draws from all of them; else from
    those that were read of late. A mosaic is made of images whose labels cover the
    same classes, so that what holds for the one holds for the whole."""

    def __init__(
        self, places: Sequence[Path], settings: Any, data: dict[str, Any], about: Mapping[str, frozenset[int]], *,
        augment: bool, batch: int,
    ) -> None:  # fmt: skip
        self._places, self._about, self._now = tuple(places), about, 0
        self._kept: dict[int, tuple[Any, tuple[int, int]]] = {}
        self._recent: dict[int, tuple[Any, tuple[int, int]]] = {}
        self._most_recent = _RECENT * batch
        super().__init__(
            img_path=[str(one) for one in places], imgsz=settings.imgsz, batch_size=batch, augment=augment,
            hyp=settings, rect=False, cache=None, stride=32, data=data, task="detect",
        )  # fmt: skip
        covered = [about.get(Path(one["im_file"]).name) for one in self.labels]
        groups: dict[frozenset[int] | None, list[int]] = {}
        for place, one in enumerate(covered):
            groups.setdefault(one, []).append(place)
        self._alike = [groups[one] for one in covered]
        if self.ni * settings.imgsz**2 * 3 <= _MOST_CACHED:
            for place in range(self.ni):
                self._kept[place] = self._read(place)

    def get_img_files(self, img_path: Any) -> list[str]:
        return [str(one) for one in labels.images_in(self._places)]

    def get_labels(self) -> list[dict[str, Any]]:
        """Read anew each time: Ultralytics' cache of them is a pickle beside the images."""
        return labels.labels_of([Path(one) for one in self.im_files], len(self.data["names"]))

    def build_transforms(self, hyp: Any) -> Any:
        """Without albumentations: whether it is installed must not decide what is learned, and it draws by itself."""
        hyp.augmentations = []
        return super().build_transforms(hyp)

    @property
    def buffer(self) -> list[int]:
        """What a mosaic's other images are drawn from."""
        alike = self._alike[self._now]
        return alike if self._kept else [one for one in self._recent if self._alike[one] is alike]

    @buffer.setter
    def buffer(self, _value: object) -> None:
        pass

    def __getitem__(self, index: int) -> Any:
        self._now = index
        return super().__getitem__(index)

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """(H, W, 3) BGR with the longer side at `size`, the sides as they were, the sides as they are."""
        found = self._kept.get(i) or self._recent.get(i)
        if found is None:
            found = self._recent[i] = self._read(i)
            if len(self._recent) > self._most_recent:
                del self._recent[next(iter(self._recent))]
        return *found, found[0].shape[:2]

    def forget(self) -> None:
        """What was read of late: an epoch begins."""
        self._recent.clear()

    def _read(self, i: int) -> tuple[Any, tuple[int, int]]:
        path = self.im_files[i]
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise BadInput(f"{path} is no image.", "Validate the images before a detector learns them.")
        height, width = image.shape[:2]
        share = self.imgsz / max(height, width)
        if share != 1:
            sides = (max(1, min(round(width * share), self.imgsz)), max(1, min(round(height * share), self.imgsz)))
            image = cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)
        return image, (height, width)


class Judge(DetectionValidator):  # type: ignore[misc]
    """Of an image, only boxes of the classes count that its labels are complete for."""

    def __init__(self, about: Mapping[str, frozenset[int]], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._about = about

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess(batch)
        names = [Path(one).name for one in batch["im_file"]]
        known = remembering.labelled(names, self._about, len(self.data["names"]))
        batch["labelled"] = None if known is None else known.to(self.device)
        return batch

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        known = batch["labelled"]
        if known is not None:
            kept = [known[place][one["cls"].long()] for place, one in enumerate(preds)]
            preds = [{key: value[rows] for key, value in one.items()} for one, rows in zip(preds, kept, strict=True)]
        super().update_metrics(preds, batch)
