"""Copies a model and its card to a folder or a bucket, where programs see the old one or the new one, and it whole."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlearn import faults
from everlearn.catalog import versions
from everlearn.errors import BadInput
from everlearn.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from everlearn.catalog.versions import Version
    from everlearn.workspace import Workspace

MODEL = "model.onnx"
CARD = "model.json"


@dataclass(frozen=True, slots=True)
class Deployed:
    """Where a model now lies. path: the file that programs open."""

    version: str
    path: str
    card: str


def deploy(workspace: Workspace, version: Version, to: str, card: Mapping[str, Any]) -> Deployed:
    """Copy to `to`: the version under its own name, then `model.onnx` and `model.json`, which programs open.

    Each file appears whole; `model.onnx` carries its own card in its metadata, so it is never out of step with itself.
    The path and the evaluation that let it pass are recorded. Raises BadInput for a retired version, StoreFault.
    """
    if version.retired:
        raise BadInput(f"{version.name} is retired: it knows samples that were forgotten.", "Choose a newer one.")
    target = open_store(to)
    own_name = version.key.rpartition("/")[2]
    with workspace.store.open(version.key) as file:
        model = file.read()
    text = json.dumps(card, ensure_ascii=False, indent=1, default=str).encode()
    target.put(own_name, io.BytesIO(model))
    target.put(own_name.removesuffix(".onnx") + ".json", io.BytesIO(text))
    faults.point("deploy.copied")
    target.put(MODEL, io.BytesIO(model))
    faults.point("deploy.switched")
    target.put(CARD, io.BytesIO(text))
    with workspace.catalog.write() as tx:
        done = versions.evaluations(tx, version.name)
        versions.deployed(tx, version.name, f"{to.rstrip('/')}/{MODEL}", done[-1]["id"] if done else None)
        versions.record(tx, "deployed", version.name, f"copied to {to}", details={"path": to})
    faults.point("deploy.recorded")
    return Deployed(version.name, f"{to.rstrip('/')}/{MODEL}", f"{to.rstrip('/')}/{CARD}")
