"""Without an optional part a command says how it is installed; it is no fault of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Gone())
from everlearn.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words", [["train"], ["distill", "--teacher", "champion"], ["tune"]], ids=lambda words: words[0]
)
def test_without_torch(tmp_path: Path, words: list[str]) -> None:
    workspace = str(tmp_path / "w")

    def ever(*given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", SCRIPT, *given], capture_output=True, text=True, check=False)

    assert ever("init", workspace).returncode == 0
    found = ever("-w", workspace, *words, "--json")
    error = json.loads(found.stdout)["error"]
    assert (found.returncode, error["code"]) == (2, "not_installed"), found.stderr
    assert "everlearn[train]" in error["remedy"]
