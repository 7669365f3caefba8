"""The package is what it says: it imports only what it declares, and nothing heavy before it is used."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "everlearn"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HEAVY = ("cv2", "scipy", "sklearn", "onnx", "onnxruntime", "matplotlib", "PIL", "pyarrow", "torch", "s3fs", "pandas")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=\[; ]", name, maxsplit=1)[0]).lower()


def _imports(path: Path) -> set[str]:
    """The outer packages that a file names, wherever in it; those for type checkers alone as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"everlearn"}


@cache
def _owners() -> Mapping[str, list[str]]:
    """Package to the distributions that bring it: read once, for it looks at every file that is installed."""
    return packages_distributions()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_import_is_declared(path: Path) -> None:
    groups = PROJECT["optional-dependencies"]
    extras = [need for name in groups.keys() - {"test", "bench", "docs"} for need in groups[name]]
    declared = {_plain(need) for need in [*PROJECT["dependencies"], *extras]}
    owners = _owners()
    for package in _imports(path):
        names = {_plain(owner) for owner in owners.get(package, [package])}
        assert names & declared, f"{path.name} imports {package}, which pyproject.toml does not declare"


def test_the_command_line_starts_light() -> None:
    script = f"import sys, everlearn.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_nothing_is_told_of_whoever_uses_it(tmp_path: Path) -> None:
    """onnxruntime writes an identifier of the machine into the home folder, and reports, as it is imported."""
    told = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run(
        [sys.executable, "-c", "import everlearn, onnxruntime"], env={**told, "HOME": str(tmp_path)}, check=True
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_upper_bounds_have_a_reason() -> None:
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'\s*"[\w\[\],.-]+[^"]*(<|==|~=)[^"]*"', line):
            assert "#" in line, f"an upper bound without its reason beside it: {line.strip()}"
