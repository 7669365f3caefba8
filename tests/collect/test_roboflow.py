"""Versions of Roboflow: from a stand-in of its SDK, and through the SDK itself from a stand-in of its servers."""

import importlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from everlearn.catalog.origins import Origin
from everlearn.collect.options import SourceOptions
from everlearn.collect.sources import open_source
from everlearn.errors import BadInput, EverlearnError, NotInstalled
from everlearn.types import Found
from tests.collect.test_data_sets import ROBOFLOW
from tests.collect.test_readers import picture

URL = "roboflow://doorway/visitors-abc/3"
SECRET = "aBcSecretKey123"
FAKE = """
import shutil, sys
class Roboflow:
    def __init__(self, api_key=None):
        assert api_key == "aBcSecretKey123", f"no such key: {api_key}"
    def workspace(self, name=None):
        print("loading Roboflow workspace...", name)
        return self
    def project(self, name):
        if name != "visitors-abc":
            raise RuntimeError(f"404 for https://api.roboflow.com/doorway/{name}?api_key=aBcSecretKey123")
        return self
    def version(self, number):
        assert number == 3
        return self
    def download(self, model_format=None, location=None, overwrite=False):
        assert model_format == "yolov11" and overwrite
        print("Downloading", file=sys.stderr)
        shutil.unpack_archive(ARCHIVE, location)
"""


def archive(root: Path) -> Path:
    """A version as Roboflow zips it."""
    data, picture_ = io.BytesIO(), picture(root / "a.jpg").read_bytes()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("data.yaml", ROBOFLOW)
        for side in ("train", "valid"):
            file.writestr(f"{side}/images/{side}_jpg.rf.{'a' * 32}.jpg", picture_ + side.encode())
            file.writestr(f"{side}/labels/{side}_jpg.rf.{'a' * 32}.txt", "1 0.5 0.5 0.2 0.4\n")
    path = root / "version.zip"
    path.write_bytes(data.getvalue())
    return path


def check(items: list[object]) -> None:
    assert all(isinstance(one, Found) for one in items), items
    assert sorted(one.uri for one in items) == [
        f"{URL}/{side}/images/{side}_jpg.rf.{'a' * 32}.jpg" for side in ("train", "valid")
    ]
    assert {(one.label, one.about, one.group) for one in items} == {
        ("cat", ("cat", "person"), f"roboflow:{side}_jpg") for side in ("train", "valid")
    }


@pytest.fixture
def sdk(tmp_path, monkeypatch):
    """A module that looks like the SDK."""
    code = f"ARCHIVE = {str(archive(tmp_path))!r}\n{FAKE}"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "roboflow.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "roboflow", raising=False)
    importlib.invalidate_caches()
    monkeypatch.setenv("ROBOFLOW_API_KEY", SECRET)
    yield SourceOptions(scratch=str(tmp_path / "private"))
    sys.modules.pop("roboflow", None)


def test_a_version_is_fetched_once_and_says_where_it_is_from(sdk, tmp_path, monkeypatch, capsys):
    source = open_source(URL, sdk)
    check(list(source.items()))
    assert source.origin == Origin(
        "doorway/visitors-abc", "3", "CC BY 4.0", "https://universe.roboflow.com/doorway/visitors-abc/dataset/3"
    )
    assert all(one.read().startswith(b"\xff\xd8") for one in source.items())
    assert capsys.readouterr() == ("", "")  # the SDK's chatter
    monkeypatch.delenv("ROBOFLOW_API_KEY")
    (tmp_path / "version.zip").unlink()
    check(list(open_source(f"{URL}/", sdk).items()))


def test_what_roboflow_says_no_to_keeps_the_key_to_itself(sdk, tmp_path):
    source = open_source("roboflow://doorway/other/3", sdk)
    with pytest.raises(EverlearnError, match="does not give roboflow://doorway/other/3") as caught:
        list(source.items())
    assert SECRET not in str(caught.value)
    assert "api_key=…" in str(caught.value)
    (tmp_path / "version.zip").write_bytes(b"cut off")  # a download that breaks leaves nothing to be taken for whole
    with pytest.raises(EverlearnError, match="does not give"):
        list(open_source(URL, sdk).items())
    archive(tmp_path)
    check(list(open_source(URL, sdk).items()))


@pytest.mark.parametrize("url", ["roboflow://a/b", "roboflow://a/b/c", "roboflow://../b/1", "roboflow://a/../1"])
def test_addresses_that_are_none(sdk, url):
    with pytest.raises(BadInput):
        open_source(url, sdk)


def test_what_is_missing_is_said_before_anything_is_fetched(sdk, monkeypatch):
    monkeypatch.delenv("ROBOFLOW_API_KEY")
    with pytest.raises(BadInput, match="ROBOFLOW_API_KEY"):
        open_source(URL, sdk)
    monkeypatch.setattr("everlearn.collect.roboflow.find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match="SDK"):
        open_source(URL, sdk)


class Servers(BaseHTTPRequestHandler):
    """What the SDK asks of Roboflow's API, and the download itself."""

    def __init__(self, data: bytes, *args: object) -> None:
        self.data = data
        super().__init__(*args)

    def do_POST(self) -> None:
        self._say({"workspace": "doorway"})

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        here = f"http://{self.headers['Host']}"
        version = {"id": "doorway/visitors-abc/3", "augmentation": {}, "created": 1, "images": 2, "preprocessing": {},
                   "splits": {}, "name": "v3", "exports": ["yolov11"], "generating": False, "progress": 1}  # fmt: skip
        project = {"id": "doorway/visitors-abc", "annotation": "x", "classes": {}, "colors": {}, "created": 1,
                   "images": 2, "name": "Visitors", "public": True, "splits": {}, "type": "object-detection",
                   "unannotated": 0, "updated": 1}  # fmt: skip
        answers = {
            "/doorway": {"workspace": {"name": "Doorway", "projects": [], "url": "doorway"}},
            "/doorway/visitors-abc": {"project": project, "versions": [version]},
            "/doorway/visitors-abc/3": {"version": version},
            "/doorway/visitors-abc/3/yolov11": {"export": {"link": f"{here}/version.zip"}},
        }
        if path == "/version.zip":
            self._send(self.data)
        elif path in answers and SECRET in query:
            self._say(answers[path])
        else:
            self._say({"error": f"there is no {path}"}, 404)

    def _say(self, value: object, code: int = 200) -> None:
        self._send(json.dumps(value).encode(), code)

    def _send(self, data: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.skipif(find_spec("roboflow") is None, reason="Roboflow's SDK is not installed: pip install roboflow")
def test_through_the_sdk_itself(tmp_path):
    """In a process of its own: the SDK reads the address of its servers while it is imported."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Servers, archive(tmp_path).read_bytes()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys; from everlearn.collect.sources import open_source\n"
        "from everlearn.collect.options import SourceOptions\n"
        "from tests.collect.test_roboflow import URL, check\n"
        "check(list(open_source(URL, SourceOptions(scratch=sys.argv[1])).items()))"
    )
    environment = {
        **os.environ, "API_URL": f"http://127.0.0.1:{server.server_port}", "HOME": str(tmp_path),
        "ROBOFLOW_API_KEY": SECRET, "NO_PROXY": "*", "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())]),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "private")], env=environment, capture_output=True, text=True
        )
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
