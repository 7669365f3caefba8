"""Feature vectors of real images, for the benchmarks that work on features: not a benchmark itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from everlearn import image
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.graph import Graph, in_batches, session, threads
from everlearn.model.pixels import prepare

Images = list[NDArray[np.uint8]]
Task = tuple[str, NDArray[np.float32], NDArray[np.str_]]

WIDEST = 2048
FIVE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where eyes, nose and mouth lie in an aligned face of 112x112 pixels (ArcFace, arXiv:1801.07698)."""


def folder(root: Path, side: int | None = None) -> tuple[Images, NDArray[np.str_]]:
    """Images of an ImageFolder in the order of their names, brought to side x side, and their folders' names."""
    files = sorted(path for path in root.rglob("*") if path.suffix.lower().lstrip(".") in image.ENDINGS)
    images = [image.decode(path.read_bytes(), max_pixels=image.MAX_PIXELS).pixels for path in files]
    if side is not None:
        images = [prepare([one], side)[0] for one in images]
    return images, np.array([path.parent.name for path in files])


def faces(images: Images, detector: Path) -> Images:
    """The largest face of each, turned and cut to 112x112 by five points; the middle where none is found."""
    find = cv2.FaceDetectorYN.create(str(detector), "", (320, 320), 0.5)
    found = []
    for one in images:
        find.setInputSize((one.shape[1], one.shape[0]))
        _, rows = find.detect(np.ascontiguousarray(one[:, :, ::-1]))
        if rows is None:
            found.append(prepare([one], 112)[0])
            continue
        row = max(rows, key=lambda box: box[2] * box[3])
        points = np.asarray(row[4:14], np.float32).reshape(5, 2)  # its right eye first, which is left in the image
        turn, _ = cv2.estimateAffinePartial2D(points, FIVE_POINTS, method=cv2.LMEDS)
        found.append(cv2.warpAffine(one, turn, (112, 112)))
    return found


def vectors(spec: str, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """(N, D) features of length 1 by a backbone's spec; of wide ones, a fixed random projection to 2,048."""
    backbone = load_backbone(spec)
    if backbone.dimensions > WIDEST:
        return Basis(backbone, dimensions=WIDEST).features(images)
    graph = Graph()
    dtype, shape = backbone.input
    features = backbone.build(graph, graph.input("images", dtype, ["N", *shape]))
    graph.output("features", features, np.float32, ["N", backbone.dimensions])
    runs = session(graph.model(), spec)

    def work(part: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return runs.run(None, {"images": backbone.prepare(part)})[0]

    found = np.concatenate([*in_batches(work, images, backbone.batch, threads())])
    return found / np.float32(backbone.length)


def tasks(faces_of: Path | None, images_of: Path | None, weights: Path | None) -> Iterator[Task]:
    """(name, features, labels): small digits always; faces and images in folders with the weights that there are."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    yield "digits, pixels", np.asarray(x, np.float32) / np.linalg.norm(x, axis=1, keepdims=True), y.astype(str)
    if faces_of is not None and weights is not None:
        found, y = folder(faces_of)
        aligned = faces(found, weights / "yunet_n_dynamic.onnx")
        yield f"{faces_of.name}, MobileFaceNet", vectors(f"onnx:{weights / 'MobileFaceNet.onnx'}", aligned), y
    if images_of is not None:
        found, y = folder(images_of, 224)
        if weights is not None:
            spec = f"onnx:{weights / 'mobilenet_v2_1.0_224_float.onnx'}?mean=127.5&std=127.5&output=features1280"
            yield f"{images_of.name}, MobileNetV2", vectors(spec, found), y
        yield f"{images_of.name}, patches", vectors("patches", found), y
