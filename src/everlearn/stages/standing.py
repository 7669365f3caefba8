"""What stands in a workspace: its basis, its one live memory, and the head that the memory gives. Shared within a turn,
so that no stage loads or solves what another has."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everlearn.learn.exact.cached import Cached
from everlearn.learn.exact.fit import Fitted, fit
from everlearn.learn.live import Held, LiveMemory

if TYPE_CHECKING:
    from everlearn.model.basis import Basis
    from everlearn.types import Progress
    from everlearn.workspace import Workspace


def basis(workspace: Workspace) -> Basis:
    """The fixed map from images to features that the configuration names."""
    return basis_of(workspace, workspace.config.backbone)


def basis_of(workspace: Workspace, spec: str) -> Basis:
    """The same map over another backbone."""
    return _basis(spec, workspace.config.learn.dimensions, workspace.root)


@lru_cache(maxsize=4)
def _basis(spec: str, dimensions: int | None, root: Path) -> Basis:
    from everlearn.model.backbone import load_backbone
    from everlearn.model.basis import Basis

    backbone = load_backbone(spec, base=root)
    return Basis(backbone) if dimensions is None else Basis(backbone, dimensions=dimensions)


_live: dict[Path, LiveMemory] = {}
_fitted: dict[Path, tuple[str, float, float | None, Held, Fitted]] = {}  # digest, promises, what it holds, its head
"""What the stages of one turn would otherwise load and solve twice; of one workspace at a time."""


def live(workspace: Workspace, *, stored: bool = False, strict: bool = False) -> LiveMemory:
    """The workspace's one memory; within a turn it may stand ahead of what is stored.

    stored: as it lies on disk. strict: the same, and raise Corrupt for a damaged one instead of building it again.
    """
    found = _live.get(workspace.root)
    if stored or strict or found is None or not found.current or found.workspace.config != workspace.config:
        found = LiveMemory(workspace, basis(workspace), strict=strict)
        _live.clear()
        _live[workspace.root] = found
    return found


def fitted(workspace: Workspace, memory: LiveMemory, progress: Progress) -> Fitted:
    """The head that a memory gives, with its out-of-fold view."""
    precision, false_accept = workspace.config.label.precision, workspace.config.learn.unknown
    digest = memory.memory.digest()
    before = _fitted.get(workspace.root)
    if before is not None and before[:4] == (digest, precision, false_accept, memory.held):
        return before[4]
    ids = sorted(memory.held)
    phi = memory.features.all(ids, progress)
    labels = [memory.held[id][0] for id in ids]
    folds = np.array([memory.held[id][1] for id in ids], np.int64)
    found = fit(memory.memory, Cached(ids, phi, labels, folds), precision=precision, false_accept=false_accept)
    _fitted.clear()
    _fitted[workspace.root] = (digest, precision, false_accept, memory.held, found)
    return found
