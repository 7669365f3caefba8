"""The stages of the wheel, each given what it needs of the others: the rooms do not know each other, this floor does.

`data`: collect, label, augment. `validating`: judging and scoring. `teach`: learning; `learners`: what
can learn; `standing`: the basis and the live memory. `answering`: which model is meant, and what
it answers. `prove`: evaluation; `comparing`: which model is better. `predicting`: answers. `extracting`: features for
other programs. `summing`: sums over more images than a workspace should hold.
`training`: a network by a recipe; `sides`: what it learns of; `jobs`: its folder and processes; `saved`: its stages;
`trained`: the version that comes of it; `picturing`; `networks`: it as every turn's learner; `trainer`: from Python;
`continual`: without forgetting; `automatic`, `tuning`, `trials`: recipes that are found. `arrays`: images by row.
`subjects`: ways of learning that experiments try, `trying` a recipe among them; `crossvalidating`: cross-validation,
learning curves, 5x2 cv. `tuning`: searches over a recipe's settings, of `trials`, to what is `tuned`; `automatic`: a
recipe by measuring.
`analysing`: stages and runs beside each other. `checking`: the experiment checklist.
`use`: feedback, deployment, drift. `ensembles`: several models as one version, of `members`; `distilling`: a small one
of a large one; `chaining`: two tasks in one network; `ground`: what the networks of one experiment are trained on.
`watching`: when to turn. `uploading`: copies in a bucket.
`care`: what is going on, and what a crash left behind. `exporting`: a version for other programs.
"""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = {
    "collect": "data", "gather": "data", "validate": "validating", "label": "data", "augment": "data",
    "preview": "data",
    "anything_new": "teach", "nothing_new": "teach", "basis": "standing", "learn": "teach",
    "evaluate": "prove", "registered": "answering", "Evaluated": "prove", "Validated": "validating",
    "compare": "comparing", "compare_all": "comparing", "compare_ways": "crossvalidating",
    "crossval": "crossvalidating", "curve": "crossvalidating", "checklist": "checking",
    "analyze": "analysing", "listed": "analysing",
    "predict": "predicting", "feedback": "use", "deploy": "use", "export": "exporting",
    "ensemble": "ensembles", "distill": "distilling", "chain": "chaining",
    "status": "care", "doctor": "care", "Watcher": "watching", "upload": "uploading",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Stages are imported when they are asked for, so that a light command stays light."""
    if name not in _ROOMS:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"everlearn.stages.{_ROOMS[name]}"), name)
