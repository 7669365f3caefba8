"""Augmentation while a network is trained: every image is altered anew in every epoch.

What is drawn for an image depends on its key alone (`draws`), so it is the same in whichever batch, process or resumed
run the image is met. All geometry is one matrix and one resampling, light is one table of 256 levels; what is off costs
nothing. torchvision's policies, MixUp and CutMix join in; its boxes and key points move along (`marks`). Pixels are
resampled by OpenCV: torchvision's affine takes ten times as long on a small image and leaves black corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch

from everlearn.augment.draws import Column, draws
from everlearn.augment.mixing import mixed
from everlearn.augment.policies import POLICIES, Step, about, matrix, recoloured
from everlearn.augment.transforms import BORDER, LEVELS, rectangle
from everlearn.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from everlearn.types import Image


class Settings(Protocol):
    """Each strength is the most that may happen, 0 is off; `learn.network.recipe.Augmentation` says what each is."""

    @property
    def rotation(self) -> float: ...
    @property
    def shift(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def flip(self) -> bool: ...
    @property
    def brightness(self) -> float: ...
    @property
    def contrast(self) -> float: ...
    @property
    def noise(self) -> float: ...
    @property
    def blur(self) -> float: ...
    @property
    def erase(self) -> float: ...
    @property
    def policy(self) -> str: ...
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...


def augmenter(settings: Settings) -> TrainingAugmenter | None:
    """What the settings ask for; None where that is nothing. Randomness is an argument of each call: a key for each
    image."""
    moves = (settings.rotation, settings.shift, settings.scale, settings.flip)
    looks = (settings.brightness, settings.contrast, settings.noise, settings.blur, settings.erase)
    wanted = any((*moves, *looks, settings.mixup, settings.cutmix)) or settings.policy != "none"
    return TrainingAugmenter(settings) if wanted else None


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to each of N images, but for their colours.

    matrices: (N, 3, 3), where a point (x, y, 1) goes, 0 the centre of the upper left pixel; None: it stays. mirrored:
    (N,), whether left is now right. turned: whether more than that moves, so that pixels are resampled. steps: each
    image's operations of a policy.
    """

    matrices: NDArray[np.float64] | None
    mirrored: NDArray[np.bool_]
    turned: bool
    steps: list[list[Step]]


class TrainingAugmenter:
    """`learn.network.loading.Augmenter`: `many` for images, `batch` for mixing them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mixes = settings.mixup > 0 or settings.cutmix > 0

    def one(self, image: Tensor, key: int | None = None) -> Tensor:
        """(3, H, W) uint8 -> the same. key: None draws one from torch's own generator."""
        if key is None:
            key = int(torch.randint(2**63 - 1, ()))
        return self.many(image[None], np.array([key], np.int64))[0]

    def many(self, images: Tensor, keys: NDArray[np.int64]) -> Tensor:
        """(N, 3, H, W) uint8 and (N,) keys -> (N, 3, H, W) uint8 of new memory, laid out as (N, H, W, 3), which is what
        it is quickest to take as well. An image's result depends on its own key alone. Raises BadInput."""
        pixels = _as_pixels(images, keys)
        drawn = draws(keys)
        changed = self._altered(pixels, self.plan(drawn, *pixels.shape[1:3]), drawn)
        return torch.from_numpy(changed).permute(0, 3, 1, 2)

    def batch(self, images: Tensor, targets: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) float32 in 0..1 and (N, C) shares -> the same, mixed with one another (`mixing.mixed`)."""
        return mixed(images, targets, key, mixup=self.settings.mixup, cutmix=self.settings.cutmix)

    def plan(self, drawn: NDArray[np.float64], height: int, width: int) -> Plan:
        """(N, columns) of `draws` -> where everything goes."""
        settings = self.settings
        mirrored = (drawn[:, Column.MIRROR] < 0.5) & settings.flip
        policy = POLICIES.get(settings.policy)
        steps = [policy.steps(row, height, width) for row in drawn[:, Column.POLICY :]] if policy else []
        turned = bool(settings.rotation or settings.shift or settings.scale or policy)
        if not (turned or settings.flip):
            return Plan(None, mirrored, turned, steps)
        signed = 2 * drawn - 1  # -1..1
        angle = np.radians(settings.rotation) * signed[:, Column.ANGLE]  # (N,) counter-clockwise on the screen
        size = 1 + settings.scale * signed[:, Column.SCALE]
        cos, sin, side = size * np.cos(angle), size * np.sin(angle), np.where(mirrored, -1, 1)
        linear = np.stack([side * cos, sin, -side * sin, cos], 1).reshape(-1, 2, 2)  # mirrored first, then turned
        matrices = about(linear, height, width)
        matrices[:, 0, 2] += settings.shift * width * signed[:, Column.RIGHT]
        matrices[:, 1, 2] += settings.shift * height * signed[:, Column.DOWN]
        for row, chosen in enumerate(steps):
            for step in chosen:
                matrices[row] = matrix(step, height, width) @ matrices[row]
        return Plan(matrices, mirrored, turned, steps)

    def _altered(self, pixels: Image, plan: Plan, drawn: NDArray[np.float64]) -> Image:
        """(N, H, W, 3) -> the same, changed: geometry, a policy's colours, light, then lens, sensor and what hides."""
        settings = self.settings
        out = _moved(pixels, plan)
        for image, chosen in zip(out, plan.steps):
            _recolour(image, chosen)
        if settings.contrast or settings.brightness:
            for image, table in zip(out, self._levels(out, drawn)):
                cv2.LUT(image, table, image)
        if settings.blur:
            shorter = min(pixels.shape[1:3])
            for image, sigma in zip(out, np.maximum(settings.blur * shorter * drawn[:, Column.BLUR], 1e-3).tolist()):
                cv2.GaussianBlur(image, (0, 0), sigma, image, borderType=BORDER)
        if settings.noise:
            for image, row in zip(out, drawn):
                _add_noise(image, 255 * settings.noise * row[Column.NOISE], row[Column.GRAIN])
        if settings.erase:
            for image, row in zip(out, drawn):
                _erase(image, settings.erase * row[Column.AREA], row)
        return out

    def _levels(self, pixels: Image, drawn: NDArray[np.float64]) -> NDArray[np.uint8]:
        """(N, 256): what each level of an image becomes. Contrast is about the image's own mean."""
        settings, signed = self.settings, 2 * drawn - 1
        means = np.array([cv2.mean(image)[:3] for image in pixels]).reshape(-1, 3).mean(1)[:, None]  # (N, 1)
        contrast = 1 + settings.contrast * signed[:, Column.CONTRAST, None]
        brightness = 255 * settings.brightness * signed[:, Column.BRIGHTNESS, None]
        return np.rint(means + (LEVELS - means) * contrast + brightness).clip(0, 255).astype(np.uint8)


def _moved(pixels: Image, plan: Plan) -> Image:
    """(N, H, W, 3) -> new memory, after all geometry."""
    if not plan.turned or plan.matrices is None:
        out = pixels.copy()
        for row in np.flatnonzero(plan.mirrored):
            cv2.flip(pixels[row], 1, out[row])
        return out
    out = np.empty_like(pixels)
    for image, moved, to in zip(pixels, plan.matrices, out):
        warped(image, moved, to)
    return out


def warped(image: NDArray[Any], moved: NDArray[np.float64], to: NDArray[Any], method: int = cv2.INTER_LINEAR) -> None:
    """Write into `to` what an image (H, W, ...) becomes by a matrix (3, 3), mirrored at its border: no new edge."""
    height, width = to.shape[:2]
    cv2.warpAffine(image, moved[:2], (width, height), to, method, BORDER)


def _as_pixels(images: Tensor, keys: NDArray[np.int64]) -> Image:
    """(N, 3, H, W) -> (N, H, W, 3), the same memory where it is laid out so already."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise BadInput(f"Images are {tuple(images.shape)} {images.dtype}.", "Give (N, 3, H, W) uint8.")
    if len(images) != len(keys):
        raise BadInput(f"{len(images)} images have {len(keys)} keys.", "Give one for each.")
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def _recolour(image: Image, steps: list[Step]) -> None:
    before = found = torch.from_numpy(image).permute(2, 0, 1)
    for step in steps:
        found = recoloured(found, step)
    if found is not before:
        before.copy_(found)


def _add_noise(image: Image, sigma: float, seed: float) -> None:
    """Gaussian, each channel of each pixel by itself, in place. sigma: in levels; seed: 0..1."""
    noise = np.empty((image.shape[0], image.shape[1] * 3), np.int16)  # one channel: of three, only the first is filled
    cv2.setRNGSeed(int(seed * (2**31 - 1)))  # of this thread alone
    cv2.randn(noise, 0, sigma)  # type: ignore[call-overload]  # its stubs know no plain numbers
    cv2.add(image, noise.reshape(image.shape), image, dtype=cv2.CV_8U)


def _erase(image: Image, area: float, row: NDArray[np.float64]) -> None:
    """One rectangle in the image's mean colour, sides between 1:3 and 3:1 (Zhong et al., 2020, arXiv:1708.04896)."""
    aspect = 3 ** (2 * row[Column.ASPECT] - 1)
    height, width = image.shape[:2]
    where = rectangle(height, width, area, aspect, row[[Column.TOP, Column.LEFT]])
    image[where] = np.rint(cv2.mean(image)[:3])
