"""Augmentation while training: processor time an image, Everlearn's and torchvision's transforms v2, in one run.

    python benchmarks/augmentation.py [--side 64] [--images 512] [--rounds 5]

For each stage of the recipe five-stage that alters images, for noise, blur and a mirror, and for the two policies: the
same strengths by `v2.Compose` (RandomAffine, bilinear; ColorJitter, GaussianNoise, GaussianBlur, RandomErasing), image
by image, as a torch data set does, and by Everlearn, 64 images at once. One thread; the two take turns; the quickest
round of each counts. torchvision's affine leaves black corners; `+ pad` mirrors the border as Everlearn does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from everlearn.augment.training import augmenter
from everlearn.learn.network.recipe import Augmentation, load

BATCH = 64
BILINEAR = v2.InterpolationMode.BILINEAR
EXTRA = {
    "mirror": Augmentation(flip=True),
    "noise 0.05": Augmentation(noise=0.05),
    "blur 0.02": Augmentation(blur=0.02),
    "randaugment": Augmentation(policy="randaugment"),
    "trivialaugment": Augmentation(policy="trivialaugment"),
}


def theirs(settings: Augmentation, side: int, pad: bool) -> Callable[[Tensor], Tensor]:
    """The same by torchvision."""
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip()] if settings.flip else []
    if settings.rotation or settings.shift or settings.scale:
        scale = (1 - settings.scale, 1 + settings.scale) if settings.scale else None
        affine = v2.RandomAffine(settings.rotation, (settings.shift,) * 2, scale, interpolation=BILINEAR)
        border = side // 3
        steps += [v2.Pad(border, padding_mode="reflect"), affine, v2.CenterCrop(side)] if pad else [affine]
    steps += {"randaugment": [v2.RandAugment()], "trivialaugment": [v2.TrivialAugmentWide()]}.get(settings.policy, [])
    if settings.brightness or settings.contrast:
        steps.append(v2.ColorJitter(settings.brightness, settings.contrast))
    if settings.blur:
        sigma = settings.blur * side
        steps.append(v2.GaussianBlur(2 * int(3 * sigma) + 1, (1e-3, sigma)))
    if settings.noise:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(sigma=settings.noise)]
        steps.append(v2.ToDtype(torch.uint8, scale=True))
    if settings.erase:
        steps.append(v2.RandomErasing(1.0, (0.001, settings.erase)))
    return v2.Compose(steps)


def quickest(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of processor time of the quickest round of each, taken in turn."""
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for place, way in enumerate(ways):
            begin = time.thread_time()
            way()
            best[place] = min(best[place], time.thread_time() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    shape = (asked.images, asked.side, asked.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    planes = images.contiguous()  # as torchvision likes it
    wanted = {one.name: one.augmentation for one in load("five-stage").stages} | EXTRA
    print(f"{asked.images} images of {asked.side} x {asked.side}, microseconds of processor time an image")
    print(f"{'':<16}{'torchvision':>12}{'+ pad':>8}{'everlearn':>11}{'ratio':>8}")
    for name, settings in wanted.items():
        ours = augmenter(settings)
        if ours is None:
            continue
        keys = np.arange(asked.images)
        parts = [slice(start, start + BATCH) for start in range(0, asked.images, BATCH)]
        moves = bool(settings.rotation or settings.shift or settings.scale)

        def by_torchvision(pad: bool, settings: Augmentation = settings) -> Callable[[], object]:
            change = theirs(settings, asked.side, pad)
            return lambda: torch.stack([change(image) for image in planes])

        def by_everlearn(ours=ours, keys=keys, parts=parts) -> object:
            return [ours.many(images[part], keys[part]) for part in parts]

        ways = [by_torchvision(False), by_everlearn, *([by_torchvision(True)] if moves else [])]
        plain, own, *padded = (seconds / asked.images * 1e6 for seconds in quickest(ways, asked.rounds))
        shown = f"{padded[0]:8.0f}" if padded else f"{'':8}"
        print(f"{name:<16}{plain:12.0f}{shown}{own:11.0f}{plain / own:7.1f}x")


if __name__ == "__main__":
    main()
