"""Everlearn keeps a vision model learning after it is deployed.

Few names, and nothing heavy is imported until it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime tells Microsoft of itself as it is imported

if TYPE_CHECKING:
    from everlearn.config import Config
    from everlearn.learn.estimators.align import AlignedClassifier
    from everlearn.learn.estimators.exact import ExactClassifier, ExactRegressor
    from everlearn.learn.estimators.fading import FadingClassifier
    from everlearn.learn.estimators.tasks import ExactTasks
    from everlearn.learn.exact.memory import ExactMemory
    from everlearn.learn.progressive import progressive
    from everlearn.learn.stream import learn_stream
    from everlearn.stages.summing import exact_sums
    from everlearn.stages.trainer import StagedTrainer
    from everlearn.workspace import Workspace

__all__ = [
    "AlignedClassifier",
    "Config",
    "ExactClassifier",
    "ExactMemory",
    "ExactRegressor",
    "ExactTasks",
    "FadingClassifier",
    "StagedTrainer",
    "Workspace",
    "__version__",
    "exact_sums",
    "learn_stream",
    "progressive",
]

_WHERE = {
    "AlignedClassifier": "everlearn.learn.estimators.align",
    "Config": "everlearn.config",
    "ExactClassifier": "everlearn.learn.estimators.exact",
    "ExactMemory": "everlearn.learn.exact.memory",
    "ExactRegressor": "everlearn.learn.estimators.exact",
    "ExactTasks": "everlearn.learn.estimators.tasks",
    "FadingClassifier": "everlearn.learn.estimators.fading",
    "StagedTrainer": "everlearn.stages.trainer",
    "Workspace": "everlearn.workspace",
    "exact_sums": "everlearn.stages.summing",
    "learn_stream": "everlearn.learn.stream",
    "progressive": "everlearn.learn.progressive",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("everlearn")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'everlearn' has no attribute {name!r}")
