"""DVC pointers for an exported data set, made by the real `dvc` in the workspace's Git repository.

Git keeps the small `.dvc` file, DVC the data: `dvc push` sends it to the remote that the user has configured
(`dvc remote add -d …`), `dvc pull` restores it, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from everlearn.errors import BadInput, NotInstalled

if TYPE_CHECKING:
    from everlearn.workspace import Workspace


def prepare(workspace: Workspace, out: Path) -> None:
    """Make the repository a DVC one where it is none. Raises NotInstalled, and BadInput where there is no Git
    repository or `out` lies outside of the workspace."""
    if find_spec("dvc") is None:
        raise NotInstalled("Export to DVC needs dvc.", "pip install 'everlearn[dvc]'")
    root = Path(os.path.realpath(workspace.root))
    if not out.is_relative_to(root):
        raise BadInput(f"{out} is outside of the workspace {root}.", "DVC keeps what lies in its repository.")
    if shutil.which("git") is None:
        raise BadInput("Export to DVC needs git, which is not installed.", "Install git.")
    done = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BadInput(f"{root} is no Git repository.", "Make it one: git init; or a workspace with: init --git")
    if _dvc(root, "root").returncode:
        sub = [] if Path(done.stdout.strip()) == root else ["--subdir"]
        _checked(root, "init", "-q", *sub)
        _checked(root, "config", "-q", "core.analytics", "false")
        _checked(root, "config", "-q", "core.check_update", "false")


def add(workspace: Workspace, out: Path) -> tuple[Path, ...]:
    """`dvc add`: the data into DVC's cache, `OUT.dvc` beside it. Returns the files that Git should keep."""
    _checked(Path(os.path.realpath(workspace.root)), "add", "-q", str(out))
    return out.with_name(f"{out.name}.dvc"), out.with_name(".gitignore")


def _checked(root: Path, *words: str) -> None:
    done = _dvc(root, *words)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise BadInput(f"dvc {words[0]} failed: {said}", "The exported files are there; mend it and export again.")


def _dvc(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
