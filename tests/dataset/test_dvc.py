"""With the real git, git-lfs and dvc."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from everlearn.dataset.build import build
from everlearn.dataset.export import export, read
from everlearn.errors import BadInput
from everlearn.workspace import LFS
from tests.make import Quiet, add_image, make_workspace

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
needs_dvc = pytest.mark.skipif(importlib.util.find_spec("dvc") is None, reason="dvc is not installed: everlearn[dvc]")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path):
    """Neither the user's Git settings, nor DVC's site-wide cache, nor a repository further up."""
    (tmp_path / "home").mkdir()
    for name, value in (
        ("HOME", tmp_path / "home"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CEILING_DIRECTORIES", tmp_path),
        ("DVC_SITE_CACHE_DIR", tmp_path / "home" / "dvc"),
        ("DVC_NO_ANALYTICS", "1"),
    ):
        monkeypatch.setenv(name, str(value))


def run(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def dvc(folder, *words):
    return run(folder, sys.executable, "-m", "dvc", *words)


def commit(folder, message):
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", message)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_git
@needs_dvc
def test_what_was_pushed_is_pulled_byte_for_byte(tmp_path):
    workspace = make_workspace(tmp_path, git=True)
    out = workspace.root / "datasets" / "door"
    report = export(workspace, build(workspace), out, "dvc", Quiet())
    assert report.pointers == (workspace.root / "datasets" / "door.dvc", workspace.root / "datasets" / ".gitignore")
    before = tree(out)
    dvc(workspace.root, "remote", "add", "-q", "-d", "disk", str(tmp_path / "remote"))
    commit(workspace.root, "first")
    assert not any(name.startswith("datasets/door/") for name in run(workspace.root, "git", "ls-files").splitlines())
    dvc(workspace.root, "push", "-q")

    add_image(workspace, (workspace.root / "everlearn.yaml").read_bytes(), "a")
    export(workspace, build(workspace), out, "dvc", Quiet())
    after = tree(out)
    assert after != before
    dvc(workspace.root, "push", "-q")
    commit(workspace.root, "second")

    for revision, wanted in (("HEAD", after), ("HEAD~1", before)):
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(workspace.root / ".dvc" / "cache")
        run(workspace.root, "git", "checkout", "-q", revision, "--", "datasets/door.dvc")
        dvc(workspace.root, "pull", "-q")
        assert tree(out) == wanted
        assert len(list(read(out))) == len([name for name in wanted if name.endswith(("png", "jpg"))]) > 10


@needs_git
@needs_dvc
def test_the_same_snapshot_leaves_the_pointer_as_it_is(tmp_path):
    workspace = make_workspace(tmp_path, git=True)
    snapshot, out = build(workspace), workspace.root / "door"
    export(workspace, snapshot, out, "dvc", Quiet())
    before = (workspace.root / "door.dvc").read_bytes()
    export(workspace, snapshot, out, "dvc", Quiet())
    assert (workspace.root / "door.dvc").read_bytes() == before


@needs_git
@needs_dvc
def test_what_dvc_needs_is_told(tmp_path):
    workspace = make_workspace(tmp_path)
    snapshot = build(workspace)
    with pytest.raises(BadInput, match="no Git repository"):
        export(workspace, snapshot, workspace.root / "door", "dvc", Quiet())
    with pytest.raises(BadInput, match="outside of the workspace"):
        export(workspace, snapshot, tmp_path / "door", "dvc", Quiet())
    assert not (workspace.root / "door").exists()


@needs_git
def test_without_dvc_the_remedy_is_the_install_line(tmp_path, monkeypatch):
    from everlearn.errors import NotInstalled

    workspace = make_workspace(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "dvc", None)
    with pytest.raises(NotInstalled, match=r"everlearn\[dvc\]"):
        export(workspace, build(workspace), workspace.root / "door", "dvc", Quiet())


@needs_git
@needs_lfs
def test_a_committed_model_is_an_lfs_pointer(tmp_path):
    workspace = make_workspace(tmp_path, 1, git=True)
    model = workspace.root / "model_updates" / "versions" / "model_v1.0_20250704.onnx"
    model.write_bytes(os.urandom(5000))
    (workspace.root / ".env").write_text("EVERLEARN_STORE=secret\n")
    commit(workspace.root, "model")
    pointer = run(workspace.root, "git", "show", f"HEAD:{model.relative_to(workspace.root)}")
    assert pointer.startswith("version https://git-lfs.github.com/spec/v1\n")
    assert "size 5000" in pointer
    named = run(workspace.root, "git", "ls-files").splitlines()
    assert "everlearn.yaml" in named
    assert "new_data/collected/.gitkeep" in named
    assert not [n for n in named if n.endswith((".png", ".jpg", ".db", ".env"))]


@needs_git
def test_without_git_lfs_all_else_works(tmp_path, monkeypatch):
    """A PATH with git alone."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(bin))
    workspace = make_workspace(tmp_path, 1, git=True)
    assert run(workspace.root, "git", "rev-parse", "--is-inside-work-tree").strip() == "true"
    attributes = (workspace.root / ".gitattributes").read_text()
    assert all(f"{pattern} filter=lfs" in attributes for pattern in LFS)
    commit(workspace.root, "no model yet")
