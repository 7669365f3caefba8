"""Faces by their five landmarks: aligned to the form that face networks take, and bent a little, as faces are.

Landmarks are (5, 2) pixels, (x, y), (0, 0) the centre of the upper left pixel: the eye on the image's left, the other
eye, the nose, the corner of the mouth on the left, the other corner. `Finder` finds them by YuNet, whose weights are
given by path.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from everlearn.augment.transforms import BORDER, Points
from everlearn.errors import BadInput, Missing
from everlearn.image import thumbnail

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.interpolate import RBFInterpolator

    from everlearn.types import Image

TEMPLATE: Points = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where the landmarks lie in an aligned face of 112 x 112 pixels: ArcFace (Deng et al., 2019, arXiv:1801.07698)."""
TEMPLATE_SIDE = 112
LONGEST = 640
"""Pixels of the longer side that a face is looked for in; a larger image is made smaller for it."""
_STEP = 4  # pixels between the places where a spline is worked out; between them it is as good as straight


def align(image: Image, landmarks: Points, side: int = TEMPLATE_SIDE) -> tuple[Image, Points]:
    """The face upright, in the middle and of one size: (side, side, 3), and its landmarks there (5, 2).

    A similarity (turn, size, shift) brings the landmarks as near to the template as may be. Raises BadInput.
    """
    matrix = similarity(_five(landmarks), (TEMPLATE + 0.5) * side / TEMPLATE_SIDE - 0.5)
    face = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=BORDER)
    return np.ascontiguousarray(face, dtype=np.uint8), landmarks @ matrix[:, :2].T + matrix[:, 2]


def similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """(2, 3) matrix of turn, size and shift with the least squares Σ |M pᵢ - qᵢ|², never mirroring.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991: with
    Σ = mean of q'p'ᵀ = U D Vᵀ about the means, R = U S Vᵀ, size = tr(D S) / var(p), S = diag(1, ±1) so that |R| = 1.
    Raises BadInput where all points are one.
    """
    mean, aim = source.mean(0), target.mean(0)
    variance = ((source - mean) ** 2).sum(1).mean()
    if not variance > 1e-12:
        raise BadInput("All landmarks lie at one point.", "Give the five landmarks of a face.")
    u, d, vt = np.linalg.svd((target - aim).T @ (source - mean) / len(source))
    signs = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    linear = (d * signs).sum() / variance * (u * signs) @ vt  # (2, 2)
    return np.column_stack([linear, aim - linear @ mean])


@dataclass(frozen=True, slots=True)
class Bend:
    """A face with another expression or of slightly other proportions; a `transforms.Transform`.

    Each of the first five points, its landmarks, moves by up to `share` of the distance between the eyes, along both
    axes; the image's corners and the middles of its sides stay; a thin-plate spline bends what lies between
    (Bookstein, "Principal warps", PAMI 1989). Further points move along. Raises BadInput without five points.
    """

    share: float

    def __call__(self, image: Image, points: Points | None, rng: np.random.Generator) -> tuple[Image, Points | None]:
        if points is None or len(points) < 5:
            raise BadInput("A face is bent by its landmarks, and there are none.", "Give five points: see `Finder`.")
        landmarks = _five(points[:5])
        reach = self.share * float(np.hypot(*(landmarks[1] - landmarks[0])))
        moved = landmarks + rng.uniform(-reach, reach, (5, 2))
        back = _spline(image.shape[0], image.shape[1], moved, landmarks)
        bent = cv2.remap(image, *_maps(back, image.shape[0], image.shape[1]), cv2.INTER_LINEAR, borderMode=BORDER)
        return np.ascontiguousarray(bent, dtype=np.uint8), np.concatenate([moved, _forward(back, points[5:])])


def _spline(height: int, width: int, now: Points, before: Points) -> RBFInterpolator:
    """From a place in the bent image to where its pixel comes from."""
    from scipy.interpolate import RBFInterpolator

    right, bottom = width - 1, height - 1
    frame = [
        (x, y) for x in (0, right / 2, right) for y in (0, bottom / 2, bottom) if (x, y) != (right / 2, bottom / 2)
    ]
    anchors = np.array(frame, np.float64)
    try:
        return RBFInterpolator(
            np.concatenate([now, anchors]), np.concatenate([before, anchors]), kernel="thin_plate_spline"
        )
    except np.linalg.LinAlgError:
        raise BadInput("Two landmarks lie at one place.", "Give the five landmarks of a face, inside of it.") from None


def _maps(back: RBFInterpolator, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each pixel, x and y of where it comes from: (H, W) each."""
    down, along = (np.arange(0, side - 1 + _STEP, _STEP, dtype=np.float64) for side in (height, width))
    coarse = back(np.stack(np.meshgrid(along, down), -1).reshape(-1, 2)).reshape(len(down), len(along), 2)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) / _STEP, np.arange(height, dtype=np.float32) / _STEP)
    fine = cv2.remap(coarse.astype(np.float32), x, y, cv2.INTER_LINEAR)  # (H, W, 2)
    return np.ascontiguousarray(fine[..., 0]), np.ascontiguousarray(fine[..., 1])


def _forward(back: RBFInterpolator, points: Points, rounds: int = 20) -> Points:
    """Where points of the image before lie in the bent one: p = back(q) solved for q by q ← q + (p - back(q)), which
    closes in because a spline of small moves is nearly the identity."""
    if not len(points):
        return points.reshape(0, 2).astype(np.float64)
    found = points.astype(np.float64)
    for _ in range(rounds):
        found = found + (points - back(found))
    return found


class Finder:
    """Landmarks by YuNet (Wu et al., 2023), OpenCV's face detector. weights: its ONNX file; not part of Everlearn.

    sure: the least confidence, 0-1, with which something is a face. Raises Missing, BadInput for unusable weights.
    """

    def __init__(self, weights: Path, *, sure: float = 0.6) -> None:
        if not weights.is_file():
            raise Missing(f"There are no weights {weights}.", "Give the path of YuNet's ONNX file.")
        try:
            self._net = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), sure)
        except cv2.error as error:
            raise BadInput(f"{weights} is no YuNet: {error.err}.", "Give YuNet's own ONNX file.") from None
        self._turn = threading.Lock()

    def __call__(self, image: Image) -> Points | None:
        """(H, W, 3) RGB -> (5, 2) landmarks of the largest face; None where there is no face."""
        small = thumbnail(image, LONGEST)
        with self._turn:
            self._net.setInputSize((small.shape[1], small.shape[0]))
            _, faces = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if faces is None or not len(faces):
            return None
        largest = max(faces, key=lambda face: float(face[2] * face[3]))  # x, y, width, height, 5 landmarks, confidence
        found = np.asarray(largest[4:14], np.float64).reshape(5, 2)
        return (found + 0.5) * (np.array(image.shape[1::-1]) / small.shape[1::-1]) - 0.5


def _five(landmarks: Points) -> Points:
    if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        raise BadInput(f"Landmarks are {landmarks.shape}.", "Give (5, 2): eyes, nose, corners of the mouth.")
    return np.asarray(landmarks, np.float64)
