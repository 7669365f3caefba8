"""A training's folder: all that its processes need, and what each of them does with it.

`job.json` and `rows.npz` are written first; `work` reads them. So one process, several on one machine and several
machines that share a disk do the same, and a killed run can go on.
"""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from everlearn import faults, track
from everlearn.errors import ClusterFault, Corrupt
from everlearn.learn.network import recipe as recipes
from everlearn.stages.saved import folder_of
from everlearn.stages.sides import Sides, arrays_of, targets_of
from everlearn.workspace import CHECKPOINTS, read_json, write_whole

if TYPE_CHECKING:
    from everlearn.learn.fit import Watch
    from everlearn.learn.network.continual.method import Method
    from everlearn.learn.network.loading import Data
    from everlearn.learn.network.recipe import Recipe
    from everlearn.learn.network.staged import Trained
    from everlearn.model.trainable import Network
    from everlearn.types import Progress
    from everlearn.workspace import Workspace


JOB, ROWS, START, RESULT, SAID = "job.json", "rows.npz", "start.pt", "result.json", "said.txt"


def work(root: str, run: str, force: bool = False, watches: Sequence[Watch] = (), alone: bool = False) -> list[Trained]:
    """Train what lies in a run's folder: what each process of a training does.

    root: of the workspace. watches: of the first process. alone: nothing was launched, this process is all there is.
    """
    from everlearn.augment.training import augmenter
    from everlearn.learn.fit import Watches
    from everlearn.learn.network import staged
    from everlearn.learn.network.runtime import runtime

    folder = Path(root) / CHECKPOINTS / run
    job = read(folder)
    recipe = recipes.load(job["recipe"])
    here = runtime(recipe.precision)
    network, data, validation = _network(Path(root), folder, job), *_data(folder, job)
    method = _method(folder, job)
    done = staged.train(
        staged.Job(recipe, folder, job["about"], job["fingerprint"], warm=job["from"] is not None, keep_state=True),
        network, data, validation, augmenter, run=here, watch=Watches(*watches if here.first else ()), method=method,
        force=force,
    )  # fmt: skip
    if here.first and not alone:
        write_whole(folder / RESULT, json.dumps([one.to_json() for one in done]).encode())
    here.wait()
    return done


def carried_out(
    workspace: Workspace, folder: Path, recipe: Recipe, watches: Sequence[Watch | None], progress: Progress, force: bool
) -> list[Trained]:  # fmt: skip
    """In this process, or in as many as there are GPUs, or as the recipe asks for; or on the machines of a cluster."""
    from everlearn import engine
    from everlearn.learn.network.launch import launch, launched, processes, tell
    from everlearn.learn.network.staged import Trained

    root, run = str(workspace.root), folder.name
    there = [one for one in watches if one is not None]
    if launched():
        tell(run)
        return work(root, run, force, there, alone=True)
    cluster = engine.opened(workspace.config.engine)
    far = cluster if isinstance(cluster, engine.Ray) else None
    wanted = recipe.processes or (processes(None) if far is None else far.members)
    if wanted == 1 and far is None:
        return work(root, run, force, there, alone=True)
    (folder / RESULT).unlink(missing_ok=True)
    if far is None:
        progress.say(f"Training in {wanted} processes.")
        launch(_in_a_process, wanted, root, run, force)
    else:
        progress.say(f"Training in {wanted} processes of the Ray cluster; all read and write {folder}.")
        heard = _Heard(folder / SAID, progress)
        far.together(partial(_in_a_process, root, run, force, True), wanted, heard)
        heard()
    return [Trained.from_json(one) for one in json.loads((folder / RESULT).read_text(encoding="utf-8"))]


class _Heard:
    """Says what the first of a cluster's processes has written."""

    def __init__(self, path: Path, progress: Progress) -> None:
        path.unlink(missing_ok=True)
        self._path, self._progress, self._at = path, progress, 0

    def __call__(self) -> None:
        text = self._path.read_bytes()[self._at :] if self._path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self._progress.say(line)


def followed(workspace: Workspace, force: bool) -> tuple[str, Recipe, list[Trained]]:
    """What the first of a launcher's processes leads."""
    from everlearn.learn.network.launch import told

    run = told()
    if run is None:
        raise ClusterFault("The first process has failed before the training began.", "It says why.")
    folder = folder_of(workspace, run)
    recipe = recipes.load(read(folder)["recipe"])
    done = work(str(workspace.root), run, force, alone=True)
    return run, recipe, done


def _in_a_process(root: str, run: str, force: bool, said: bool = False) -> None:
    """One of several; the first follows the run in the catalog, and speaks. said: into a file, from another machine."""
    from everlearn.learn.fit import Quiet
    from everlearn.workspace import Workspace

    class Lines(Quiet):
        def begin(self, stage: Any, facts: dict[str, Any]) -> None:
            self.say(
                f"{stage.name}: {facts['processes']} processes, {facts['batch']} images a step "
                f"({facts['batch_of_one_process']} of each), learning rate {facts['learning_rate']:g} "
                f"({stage.optimizer.learning_rate:g} x {facts['processes']})"
            )

        def epoch(self, found: Any) -> bool | None:
            self.say(
                f"  epoch {found.epoch}: loss {found.train_loss:.4f}, validation loss {found.val_loss:.4f}, "
                f"accuracy {found.val_accuracy:.4f}, {found.images_per_second:.0f} images/s"
            )
            return None

        def say(self, text: str) -> None:
            if said:
                with (Path(root) / CHECKPOINTS / run / SAID).open("a", encoding="utf-8") as file:
                    file.write(f"{text}\n")
            else:
                os.write(2, f"{text}\n".encode())

    if not (Path(root) / CHECKPOINTS / run / JOB).is_file():
        raise ClusterFault(
            f"{socket.gethostname()} does not see the run in {root}.",
            "Put the workspace on a disk that every machine has under the same name.",
        )
    workspace = Workspace.open(root)
    with ExitStack() as stack:
        watches: list[Watch] = []
        if int(os.environ.get("RANK", "0")) == 0:
            following = stack.enter_context(track.follow(workspace, run))
            watches = [track.Follow(following), Lines()]
        work(root, run, force, watches)


def _network(root: Path, folder: Path, job: Mapping[str, Any]) -> Network:
    """As it begins: new, or from another training's stage, with room for new classes."""
    from everlearn.learn.network import checkpoint
    from everlearn.model.trainable import build, from_stage_file

    about, recipe = job["about"], job["recipe"]
    columns = max(1, len(about["classes"]))
    if job["from"] is None:
        return build(about["network"], classes=columns, size=about["size"], seed=recipe["seed"], base=root)
    network = from_stage_file(checkpoint.load(folder / START), base=root)
    network.grow(columns)
    return network


def _data(folder: Path, job: Mapping[str, Any]) -> tuple[Data, Data]:
    from everlearn.learn.network.loading import Data

    try:
        with np.load(folder / ROWS) as file:
            rows = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise Corrupt(
            f"{folder / ROWS} cannot be read: {error}.", "Begin another run: everlearn train --anew"
        ) from None
    shape, dtype, path = tuple(job["shape"]), np.dtype(job["dtype"]), Path(job["inputs"])
    try:
        inputs = np.memmap(path, dtype, "r").reshape(-1, *shape)
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.", "Begin another run: everlearn train --anew") from None
    classes = tuple(job["about"]["classes"])
    made = [Data(inputs, rows[f"{side}_targets"], classes, rows[f"{side}_rows"]) for side in ("train", "validation")]
    return made[0], made[1]


def _method(folder: Path, job: Mapping[str, Any]) -> Method | None:
    if not job.get("method"):
        return None
    from everlearn.learn.network.continual import opened

    return opened(job["method"], folder)  # type: ignore[no-any-return]


def write(
    workspace: Workspace, folder: Path, network: Network, recipe: Recipe, divided: Sides, classes: Sequence[str],
    begin: Mapping[str, Any] | None, begun_from: str | None, progress: Progress, fingerprint: Mapping[str, Any],
) -> None:  # fmt: skip
    """All that the processes of this run need. job.json last: without it there is no run to go on with."""
    from everlearn.learn.network import checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays_of(workspace, network)
    ids = [one.id for one in (*divided.train, *divided.validation)]
    rows = arrays.rows(ids, progress)
    targets, about = targets_of(workspace, divided, classes, begin)
    split = len(divided.train)
    file = io.BytesIO()
    np.savez(
        file, train_rows=rows[:split], validation_rows=rows[split:], train_targets=targets[:split],
        validation_targets=targets[split:],
    )  # fmt: skip
    write_whole(folder / ROWS, file.getvalue())
    if begin is not None:
        checkpoint.save(folder / START, dict(begin))
    about |= {"network": recipe.network, "classes": list(classes), "size": network.size, "task": workspace.config.task,
              "recipe": recipe.name, "licence": network.licence}  # fmt: skip
    values = json.loads(recipe.model_dump_json())
    job = {
        "recipe": values, "from": begun_from, "about": about, "inputs": str(arrays.path), "shape": arrays.shape,
        "dtype": arrays.dtype.name, "method": fingerprint.get("method"),
        "fingerprint": fingerprint,
    }  # fmt: skip
    write_whole(folder / JOB, json.dumps(job, ensure_ascii=False).encode())
    faults.point("train.job")


def read(folder: Path) -> dict[str, Any]:
    """Raises Corrupt where it is not what `write` wrote."""
    job = read_json(folder / JOB)
    if not {"recipe", "from", "about", "inputs", "shape", "dtype", "fingerprint"} <= job.keys():
        raise Corrupt(f"{folder / JOB} lacks what a training needs.", "Begin another run: everlearn train --anew")
    return job


def tidy(folder: Path) -> None:
    """What only a running training needs; rows.npz has labels by sample."""
    for name in (ROWS, START, RESULT, SAID, "last.pt", JOB):
        (folder / name).unlink(missing_ok=True)
