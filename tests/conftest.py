"""What several tests share: the real data beside the repository, and real servers."""

from __future__ import annotations

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy: else scikit-learn's array checks skip themselves

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def no_pictures() -> Iterator[Callable[..., Any]]:
    """Pictures of a training take longer than the small trainings of most tests: none are drawn, but where a test asks
    for the fixture `pictures`."""
    try:
        from everlearn.stages import picturing
    except ImportError:  # without the extra [train] nothing is trained
        yield lambda *_: []
        return
    drawn = picturing.pictures
    picturing.pictures = lambda *_: []
    yield drawn
    picturing.pictures = drawn


@pytest.fixture
def pictures(no_pictures: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are drawn in this test."""
    monkeypatch.setattr("everlearn.stages.picturing.pictures", no_pictures)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights (`EVERLEARN_SHARED`, else ../shared); never part of the repository."""
    folder = Path(os.environ.get("EVERLEARN_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder} is not there (EVERLEARN_SHARED names it)")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    if reason := servers.postgres_missing():
        pytest.skip(reason)
    with servers.postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database on a real server."""
    with servers.postgres_database(postgres_server, f"test_{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """A real S3 server; `bucket(name)` makes a bucket, `environment()` says how to reach it."""
    if reason := servers.s3_missing():
        pytest.skip(reason)
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server
