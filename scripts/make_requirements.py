"""Write requirements.txt from pyproject.toml, for tools that want that file; `--check` only compares."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements() -> str:
    """The text of requirements.txt: the core, and the extras as comments."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = ["# Written by scripts/make_requirements.py from pyproject.toml: edit that, then `make requirements`."]
    lines += project["dependencies"]
    for name in sorted(extras.keys() - {"test", "bench", "docs"}):
        lines += ["", f"# {name}: pip install 'everlearn[{name}]'", *(f"# {need}" for need in extras[name])]
    return "\n".join(lines) + "\n"


def main() -> int:
    target = ROOT / "requirements.txt"
    if "--check" not in sys.argv[1:]:
        target.write_text(requirements(), "utf-8")
        return 0
    if target.is_file() and target.read_text("utf-8") == requirements():
        return 0
    print("requirements.txt is not in step with pyproject.toml. Run `make requirements`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
