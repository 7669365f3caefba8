"""Running the command line in this process, and pictures to run it on."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from everlearn.cli.main import run


class Everlearn:
    """`ever("collect", folder)` runs a command with --json in its workspace and gives the object on stdout."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.code = 0
        self.stderr = ""

    def __call__(self, *words: object, code: int | None = 0) -> dict[str, Any]:
        """code: the exit code that is expected; None: any."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            self.code = run(["-w", str(self.workspace), *map(str, words), "--json"])
        self.stderr = err.getvalue()
        assert code in (None, self.code), (words, self.code, out.getvalue(), self.stderr)
        lines = out.getvalue().splitlines()
        assert len(lines) == 1, out.getvalue()
        values = json.loads(lines[0])
        assert isinstance(values, dict)
        return values

    def init(self, *words: object, settings: str = "learn: {dimensions: 64}\n") -> Everlearn:
        """Make the workspace. settings: instead of the commented everlearn.yaml."""
        assert run(["init", str(self.workspace), "-q", *map(str, words)]) == 0
        (self.workspace / "everlearn.yaml").write_text(settings)
        return self

    def snapshot(self) -> str:
        return str(self("dataset", "build")["snapshot"])


@pytest.fixture
def ever(tmp_path: Path) -> Everlearn:
    return Everlearn(tmp_path / "workspace")


def pixels(seed: int, side: int = 48, cells: int = 6) -> np.ndarray:
    """A sharp, colourful picture unlike any other: (side, side, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 255, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST))


def picture(path: Path, seed: int, side: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, pixels(seed, side))
    assert done
    path.write_bytes(data.tobytes())
    return path


def folders(root: Path, classes: str = "ab", each: int = 4, first: int = 0) -> Path:
    """A folder for each class, with pictures in it."""
    for number, label in enumerate(classes):
        for n in range(each):
            picture(root / label / f"{n}.png", first + number * 1000 + n)
    return root
