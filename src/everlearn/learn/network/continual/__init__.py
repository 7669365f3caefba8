"""Learning new classes without losing the old ones, in a network that is trained. Each method is one file of a screen.

`method.py` says what a method is asked; `naive.py` answers nothing. `experiences.py` walks through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlearn.learn.network.continual.method import Method

METHODS = ("replay", "derpp", "lwf", "ewc")


def opened(about: Mapping[str, Any], folder: Path | None = None) -> Method:
    """The method that a run's settings describe, as every process of a training opens it.

    about: name, one of METHODS; known: columns learned already; seed; of replay and derpp: batch, old images in a
    step, and reservoir: folder, budget in bytes, shape and kind of its samples; state: a file with what the method
    noted before. folder: of the run.
    """
    from everlearn.learn.network import checkpoint
    from everlearn.learn.network.continual.derpp import DerPlusPlus
    from everlearn.learn.network.continual.ewc import Ewc
    from everlearn.learn.network.continual.lwf import Lwf
    from everlearn.learn.network.continual.replay import Replay
    from everlearn.learn.network.continual.reservoir import Reservoir

    name, known, seed = str(about["name"]), [int(one) for one in about["known"]], int(about["seed"])
    method: Method
    if name in ("replay", "derpp"):
        where = about["reservoir"]
        held = Reservoir(Path(where["folder"]), where["budget"], tuple(where["shape"]), where["kind"])
        method = (Replay if name == "replay" else DerPlusPlus)(held, batch=about["batch"], known=known, seed=seed)
    else:
        method = Lwf(known=known) if name == "lwf" else Ewc(known=known, seed=seed)
    if about.get("state"):
        method.restore(checkpoint.load(Path(about["state"])))
    return method
