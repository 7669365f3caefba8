"""A version of a Roboflow project, pulled through Roboflow's own SDK: `roboflow://workspace/project/version`.

The version is downloaded as a YOLO data set into the workspace's private folder and read there. A version never
changes, so it is fetched once; `doctor` and `forget` remove it with all scratch. The key comes from ROBOFLOW_API_KEY
alone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from everlearn.catalog.origins import Origin
from everlearn.collect.files import printable
from everlearn.collect.options import SourceOptions
from everlearn.collect.yolo import YoloSource
from everlearn.errors import BadInput, NotInstalled
from everlearn.s3 import OutOfReach
from everlearn.types import Found, Refused
from everlearn.workspace import SCRATCH

SCHEME = "roboflow://"
KEY = "ROBOFLOW_API_KEY"
FORMAT = "yolov11"
_ADDRESS = re.compile(r"roboflow://([A-Za-z0-9][\w-]*)/([A-Za-z0-9][\w-]*)/([0-9]{1,9})/?")


class RoboflowSource:
    """Images with boxes, of one version. Raises BadInput for an address that is none or where the key is missing,
    NotInstalled without the SDK; `items` raises OutOfReach where Roboflow does not give the version."""

    def __init__(self, url: str, options: SourceOptions) -> None:
        found = _ADDRESS.fullmatch(url)
        if found is None:
            raise BadInput(f"'{printable(url)}' is no address.", "Write roboflow://WORKSPACE/PROJECT/VERSION.")
        if options.scratch is None:
            raise BadInput(f"{url} must be downloaded, and there is no folder for it.", "Collect it in a workspace.")
        self.url, self.options = url.rstrip("/"), options
        self.workspace, self.project, self.version = found.groups()
        self.folder = Path(options.scratch) / f"{SCRATCH}roboflow" / self.workspace / self.project / self.version
        self.origin = Origin(f"{self.workspace}/{self.project}", self.version)
        if self.folder.is_dir():
            return
        if find_spec("roboflow") is None:
            raise NotInstalled(f"{url} needs Roboflow's SDK.", "pip install 'everlearn[roboflow]'")
        if not os.environ.get(KEY):
            raise BadInput(f"{url} needs a key, and {KEY} is not set.", f"export {KEY}=… (app.roboflow.com, API keys)")

    def items(self) -> Iterator[Found | Refused]:
        if not self.folder.is_dir():
            self._fetch()
        source = YoloSource(str(self.folder), self.options)
        said = source.origin
        self.origin = replace(self.origin, licence=said.licence, url=said.url)
        for one in source.items():
            if isinstance(one, Found):
                yield replace(one, uri=self._named(one.uri))
            else:
                yield replace(one, path=self._named(one.path))

    def estimate(self) -> int | None:
        return None

    def _named(self, path: str) -> str:
        return self.url + path.removeprefix(str(self.folder))

    def _fetch(self) -> None:
        """Whole or not at all. Raises OutOfReach."""
        part = self.folder.with_name(f"{self.version}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        key = os.environ.get(KEY, "")
        with ExitStack() as quiet:  # the SDK prints: results are ours to print
            quiet.enter_context(redirect_stdout(io.StringIO()))
            if not sys.stderr.isatty():
                quiet.enter_context(redirect_stderr(io.StringIO()))
            try:
                from roboflow import Roboflow

                project = Roboflow(api_key=key).workspace(self.workspace).project(self.project)
                project.version(int(self.version)).download(FORMAT, location=str(part), overwrite=True)
            except Exception as error:  # the SDK raises what its servers say, and what its HTTP library raises
                reason = printable((" ".join(str(error).split()) or type(error).__name__).replace(key, "…"), 300)
                raise OutOfReach(
                    f"Roboflow does not give {self.url}: {reason}", f"Check the address, the net, and {KEY}."
                ) from None
        if not (part / "data.yaml").is_file():
            raise OutOfReach(f"{self.url} has no data.yaml.", "Is it a project for object detection?")
        part.rename(self.folder)
