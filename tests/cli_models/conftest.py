"""Workspaces of real handwritten digits, taught through the command line once and copied for each test."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from everlearn.cli.main import run

SETTINGS = """\
learn: {dimensions: 64}
gates: {quality: null, diversity: null, accuracy: 0.6, precision: 0.6, recall: 0.6, f1: 0.6, margin: 0.5, alpha: 0.5}
watch: {poll_seconds: 0.05}
"""


class Everlearn:
    """`ever("run", folder)` runs a command with --json in its workspace and gives the object on stdout."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.lines: list[dict[str, Any]] = []

    def __call__(self, *words: object, code: int | None = 0) -> dict[str, Any]:
        """code: the exit code that is expected; None: any."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            got = run(["-w", str(self.workspace), *map(str, words), "--json"])
        assert code in (None, got), (words, got, out.getvalue(), err.getvalue())
        self.lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert len(self.lines) == 1 or words[0] == "watch", out.getvalue()
        return self.lines[-1] if self.lines else {}

    def error(self, *words: object, code: int = 2) -> dict[str, str]:
        """The error of a command that must fail."""
        error = self(*words, code=code)["error"]
        assert set(error) == {"code", "message", "remedy"}
        assert error["message"]
        assert "\n" not in error["message"]
        return error  # type: ignore[no-any-return]

    def people(self, *words: object) -> str:
        """What people see on stdout."""
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            run(["-w", str(self.workspace), *map(str, words)])
        return out.getvalue()

    def init(self, *words: object, settings: str = SETTINGS) -> Everlearn:
        with redirect_stdout(io.StringIO()):
            assert run(["init", str(self.workspace), "-q", *map(str, words)]) == 0
        path = self.workspace / "everlearn.yaml"
        given = {"task", "backbone", "catalog", "store"}
        kept = [line for line in path.read_text().splitlines() if line.partition(":")[0] in given]
        path.write_text("\n".join(kept) + "\n" + settings)
        return self


@cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) values 0-16, (1797,) digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def write(path: Path, scan: np.ndarray) -> Path:
    """One scan as a picture of 32 x 32 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grown = cv2.resize((scan * 15.9).astype(np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(path), grown)
    return path


def digits(folder: Path, classes: Sequence[int], each: int, first: int = 0, flat: bool = False) -> Path:
    """`each` scans of each class below the folder; flat: all beside each other."""
    images, labels = scans()
    for digit in classes:
        for n in np.flatnonzero(labels == digit)[first : first + each]:
            write(folder / (f"{digit}_{n}.png" if flat else f"{digit}/{n}.png"), images[n])
    return folder


@pytest.fixture(scope="session")
def _taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Day 1: three classes; day 2: two more. v1.0 and v1.1, both promoted."""
    folder = tmp_path_factory.mktemp("taught")
    ever = Everlearn(folder / "workspace").init()
    for day, classes in enumerate(((1, 4, 7), (8, 9))):
        turn = ever("run", digits(folder / f"day{day}", classes, 40), "--labels-from", "folder")
        assert turn["decision"] == "promoted", turn
    return folder / "workspace"


@pytest.fixture
def taught(_taught: Path, tmp_path: Path) -> Everlearn:
    """A copy of the workspace that learned on two days."""
    shutil.copytree(_taught, tmp_path / "workspace")
    return Everlearn(tmp_path / "workspace")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Everlearn]:
    """A fresh workspace: `make("--task", "regress", settings=…)`."""
    return lambda *words, **options: Everlearn(tmp_path / "workspace").init(*words, **options)
