"""How fast `patches` features are: 800 filters of 6x6 on 32x32 colour images, and the default from image to phi.

    python benchmarks/patches_speed.py [--images 512] [--repeat 5]

Peer: the plain torch version (convolution, local mean and deviation, rectification, adaptive pooling), where torch is
installed; the same filters, both signs of each response, the same 3x3 cells. Medians; the two take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.model import patches
from everlearn.model.backbone import load_backbone
from everlearn.model.basis import Basis
from everlearn.model.graph import Graph, in_batches, session, threads
from everlearn.model.patches import Patches, Scale


def ours(filters: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    backbone = Patches(scales=(Scale(32, 1, 3, 9),), filters=filters)
    graph = Graph()
    found = backbone.build(graph, graph.input("images", np.uint8, ["N", 32, 32, 3]))
    graph.output("features", found, np.float32, ["N", backbone.dimensions])
    runs = session(graph.model())

    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        parts = in_batches(lambda part: runs.run(None, {"images": part})[0], images, backbone.batch, threads())
        return np.concatenate(list(parts))

    return run


def naive(filters: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads())
    with np.load(patches.DICTIONARY, allow_pickle=False) as file:
        whitening = file["basis"].reshape(len(file["basis"]), -1) * file["basis_scale"]
        weights = (file["filters"][:filters] * file["filter_scale"][:filters, None]) @ whitening
    size = patches.PATCH
    kernel = torch.from_numpy(weights.reshape(-1, size, size, 3).transpose(0, 3, 1, 2).astype(np.float32).copy())

    @torch.inference_mode()
    def run(images: NDArray[np.uint8]) -> NDArray[Any]:
        found = []
        for start in range(0, len(images), 64):
            x = torch.from_numpy(images[start : start + 64].transpose(0, 3, 1, 2).astype(np.float32))
            mean = functional.avg_pool2d(x, size, 1).mean(1, keepdim=True)
            variance = functional.avg_pool2d(x * x, size, 1).mean(1, keepdim=True) - mean * mean
            answers = functional.conv2d(x, kernel) / torch.sqrt(variance.clamp_min(0) + patches.CONTRAST)
            both = [torch.relu(sign * answers - patches.THRESHOLD) for sign in (1, -1)]
            found.append(torch.cat([functional.adaptive_avg_pool2d(part, 3).flatten(1) for part in both], 1))
        return torch.cat(found).numpy()

    return run


def rates(works: dict[str, Callable[[], object]], images: int, repeat: int) -> dict[str, float]:
    """Images per second, medians of `repeat` rounds in which all take turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeat + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: images / statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--images", type=int, default=512)
    ask.add_argument("--filters", type=int, default=800)
    ask.add_argument("--repeat", type=int, default=5)
    given = ask.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (given.images, 32, 32, 3), dtype=np.uint8)
    fast, basis = ours(given.filters), Basis(load_backbone("patches"))
    works: dict[str, Callable[[], object]] = {
        f"{given.filters} filters, 32x32": lambda: fast(images),
        "default, image to phi": lambda: basis.phi(list(images)),
    }
    if importlib.util.find_spec("torch"):
        slow = naive(given.filters)
        works["plain torch"] = lambda: slow(images)
    found = rates(works, given.images, given.repeat)
    for name, rate in found.items():
        print(f"{name:26} {rate:8.0f} images/s")
    if "plain torch" in found:
        print(f"{'ratio':26} {next(iter(found.values())) / found['plain torch']:8.1f}")
    else:
        print("plain torch: not installed, no ratio")


if __name__ == "__main__":
    main()
