"""Buckets as sources, on a real S3 server: nothing is fetched twice, nothing is lost, no secret is shown."""

from __future__ import annotations

import io
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from everlearn import stages
from everlearn.catalog import samples
from everlearn.collect.sources import open_source
from everlearn.image import encode_png
from everlearn.stages import data
from everlearn.store import S3Store
from everlearn.types import SILENT, Found
from everlearn.workspace import Workspace
from tests import child
from tests.proxy import Answer, Proxy, error, proxy
from tests.servers import S3Server
from tests.wheel import make, run, standing


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8))


FILES = {f"{seed % 3}/door_{seed:02}.png": picture(seed) for seed in range(15)}
OTHER = picture(99)


class Door:
    """A bucket with a prefix `in`, behind a proxy, and a workspace."""

    def __init__(self, server: S3Server, proxy: Proxy, root: Path) -> None:
        name = f"door-{uuid.uuid4().hex[:8]}"
        self.server, self.proxy, self.folder, self.url = server, proxy, server.root / name, f"s3://{name}/in"
        server.bucket(name)
        self.store = S3Store(f"s3://{name}")
        self.workspace = Workspace.open(root)
        self.root = root

    def put(self, files: dict[str, bytes], prefix: str = "in/") -> None:
        for key, content in files.items():
            self.store.put(prefix + key, io.BytesIO(content))
        self.proxy.calm()

    def keys(self) -> set[str]:
        return set(self.store.keys())

    def collect(self, *words: object, code: int = 0) -> dict[str, Any]:
        self.proxy.asked.clear()
        done = run(self.root, "collect", self.url, *words)
        assert done.code == code, done
        return done.values

    def count(self) -> int:
        with self.workspace.catalog.read() as tx:
            return sum(samples.counts(tx).values())


@pytest.fixture(scope="module")
def module_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with proxy(s3_server) as made:
        yield made


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("blank") / "w").root


@pytest.fixture
def door(
    s3_server: S3Server, module_proxy: Proxy, blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Door:
    for name, value in {**s3_server.environment(), "AWS_ENDPOINT_URL": module_proxy.endpoint}.items():
        monkeypatch.setenv(name, value)
    module_proxy.calm()
    module_proxy.tags.clear()
    shutil.copytree(blank, tmp_path / "w")
    return Door(s3_server, module_proxy, tmp_path / "w")


# --- once, and in parallel ------------------------------------------------------------------------------------------


def test_an_object_is_fetched_once_and_again_when_it_is_written_over(door: Door) -> None:
    door.put(FILES | {"notes.txt": b"no image", ".hidden/a.png": b"x"})
    door.store.bucket.call("put_object", "written", "in/deep/")  # a folder, as consoles make them
    first = door.collect("--labels-from", "folder")
    assert (first["collected"], first["refused"]) == (15, 0)
    assert set(door.proxy.gets()) == {f"in/{key}" for key in FILES}
    assert set(door.proxy.gets().values()) == {1}
    assert door.collect("--labels-from", "folder")["duplicates"] == 15
    assert not door.proxy.gets()
    over = next(iter(FILES))
    door.put({over: OTHER})  # the same key, another content
    assert door.collect("--labels-from", "folder")["collected"] == 1
    assert door.proxy.gets() == {f"in/{over}": 1}
    labels = {one[1] for one in standing(door.workspace).values()}
    assert labels <= {"0", "1", "2", None}
    with door.workspace.catalog.read() as tx:
        assert {one.source for batch in samples.batches(tx) for one in batch} == {door.url}


def test_threads_change_neither_order_nor_outcome(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {key.replace("door", "copy"): content for key, content in FILES.items()}
    door.put(FILES | twice)

    def slow(method: str, key: str) -> None:
        time.sleep(0.01 * (hash(key) % 5) if method == "GET" else 0)

    options = data._options(door.workspace)
    door.proxy.before = slow
    order = [item.uri for item in open_source(door.url, options).items() if isinstance(item, Found)]
    assert order == sorted(order)
    door.collect("--labels-from", "folder")
    with door.workspace.catalog.read() as tx:
        first = [(one.id, one.key, one.label) for batch in samples.batches(tx) for one in batch]
    other = make(door.root.parent / "one", collect={"parallel": 1})
    run(other.root, "collect", door.url, "--labels-from", "folder")
    with other.catalog.read() as tx:
        assert [(one.id, one.key, one.label) for batch in samples.batches(tx) for one in batch] == first


def test_one_object_and_a_prefix_that_is_a_folder(door: Door) -> None:
    door.put({"a.png": picture(0), "b.png": picture(1)})
    door.put({"a.png": picture(2)}, prefix="inn/")
    whole = [item.uri for item in open_source(door.url).items() if isinstance(item, Found)]
    assert whole == [f"{door.url}/a.png", f"{door.url}/b.png"]
    assert [item.name for item in open_source(f"{door.url}/b.png").items() if isinstance(item, Found)] == ["b.png"]


def test_names_tell_time_and_camera(door: Door) -> None:
    door.put({"person001_20250704_133022_porch.png": picture(0)})
    door.collect("--labels-from", "filename")
    with door.workspace.catalog.read() as tx:
        [one] = next(samples.batches(tx))
    assert (one.label, one.camera, one.time_from) == ("person001", "porch", "name")
    assert str(one.captured_at) == "2025-07-04 13:30:22"


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_what_comes_damaged_is_asked_for_again_and_then_refused(door: Door) -> None:
    door.put(FILES)
    bad, flaky, short = list(FILES)[:3]
    seen: set[str] = set()

    def spoil(method: str, key: str, answer: Answer) -> Answer:
        status, headers, body = answer
        first = key not in seen
        if method == "GET" and key:
            seen.add(key)
            if key == f"in/{bad}" or (key == f"in/{flaky}" and first):
                headers = {name: value for name, value in headers.items() if "checksum" not in name.lower()}
                body = body[:-1] + bytes([body[-1] ^ 1])
            if key == f"in/{short}":
                body = body[:-5]
        return status, headers, body

    door.proxy.after = spoil
    came = door.collect()
    assert (came["collected"], came["refused"]) == (13, 2)
    reasons = {one["path"].rpartition("/in/")[2]: one["reason"] for one in came["rejected"]}
    assert "does not agree with its ETag" in reasons[bad]
    assert set(reasons) == {bad, short}
    gets = door.proxy.gets()
    assert (gets[f"in/{bad}"], gets[f"in/{flaky}"]) == (3, 2)
    door.proxy.calm()
    assert door.collect()["collected"] == 2


def test_an_etag_that_is_no_md5_because_the_server_encrypts(door: Door) -> None:
    door.put({"a.png": picture(0), "b.png": picture(1)})

    def encrypted(method: str, key: str, answer: Answer) -> Answer:
        status, headers, body = answer
        headers = {name: value for name, value in headers.items() if "checksum" not in name.lower()}
        if key == "in/a.png":  # a key of the owner's: the ETag says nothing of the content
            headers |= {"x-amz-server-side-encryption": "aws:kms"}
        if key == "in/b.png":  # the server's own key: on some servers it does, on some not
            headers |= {"x-amz-server-side-encryption": "AES256"}
        body = body.replace(b"&#34;", b"") if not key else body[:-1] + b"!"
        return status, headers, body

    door.proxy.after = encrypted
    assert door.collect()["collected"] == 2
    assert door.proxy.gets() == {"in/a.png": 1, "in/b.png": 2}


def test_objects_that_vanish_or_change_after_the_listing(door: Door) -> None:
    door.put(FILES)
    gone, changed = list(FILES)[:2]

    def meanwhile(method: str, key: str) -> Answer | None:
        if method == "GET" and key == f"in/{changed}":
            (door.folder / key).write_bytes(OTHER)
            time.sleep(1.1)  # until the server looks again
        return error(404, "NoSuchKey") if method == "GET" and key == f"in/{gone}" else None

    door.proxy.before = meanwhile
    came = door.collect("--after", "delete")
    assert (came["collected"], came["refused"]) == (13, 2)
    assert "removed since" in str(came["rejected"])
    assert "changed since" in str(came["rejected"])
    assert door.keys() == {f"in/{gone}", f"in/{changed}"}  # refused objects stay


def test_an_endpoint_that_goes_away_keeps_what_has_come(door: Door) -> None:
    door.put(FILES)

    def away(method: str, key: str) -> Answer | None:
        many = sum(door.proxy.gets().values()) > 9
        return error(403, "InvalidAccessKeyId") if method == "GET" and key and many else None

    door.proxy.before = away
    told = door.collect(code=2)["error"]
    assert told["code"] == "store"
    assert "Check AWS_ACCESS_KEY_ID" in told["remedy"]
    fetched = 9
    assert 0 < door.count() <= fetched
    door.proxy.calm()
    rest = door.collect()
    assert rest["collected"] + rest["duplicates"] == 15
    assert door.count() == 15
    assert sum(door.proxy.gets().values()) <= 15 - rest["duplicates"]


def test_addresses_and_options_that_cannot_be(door: Door, tmp_path: Path) -> None:
    door.put({"a.png": picture(0)})
    for words, said in {
        ("s3://no-such-bucket/x",): "The bucket is not there",
        (f"{door.url}/no",): "Correct the prefix",
        ("s3://b",): "Write s3://bucket/prefix",
        ("https://example.org/a.png",): "s3://bucket/prefix",
        (f"{door.url}/a.csv",): "Copy it here",
        (door.url, "--after", "burn"): "move:PREFIX",
        (door.url, "--after", "move:in"): "outside",
        (door.url, "--after", "move:in/done"): "outside",
        (door.url, "--after", "move:/"): "move:PREFIX",
        (door.url, "--after", "tag:=x"): "move:PREFIX",
        (str(tmp_path), "--after", "delete"): "Leave it out",
    }.items():
        done = run(door.root, "collect", *words)
        assert done.code == 2, words
        assert said in str(done.values["error"]), done.values
    assert door.count() == 0
    assert door.keys() == {"in/a.png"}


def test_no_secret_is_shown_or_kept(door: Door) -> None:
    door.put({"a.png": picture(0), "empty.png": b""})
    said = str(run(door.root, "collect", door.url))
    secret = "wJalrXUtnFEMI/K7MDENG"
    for bad in (f"s3://AKIAEXAMPLE:{secret}@bucket/x", f"s3://AKIAEXAMPLE:{secret}@", f"https://u:{secret}@h/x"):
        said += str(run(door.root, "collect", bad))
    settings = door.root / "everlearn.yaml"
    settings.write_text(settings.read_text() + f"\ncollect: {{sources: ['s3://AKIAEXAMPLE:{secret}@bucket/x']}}\n")
    said += str(run(door.root, "run"))
    for word in ("AKIAEXAMPLE", secret, "MDENG", door.server.secret_key, door.server.access_key):
        assert word not in said
        kept = [path for path in door.root.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
        assert kept in ([], [settings])
    assert door.server.secret_key not in repr(vars(door.store)) + repr(door.store)


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["collect.stored:6", "collect.committed:1", "collect.after:3"])
def test_killed_and_run_again_nothing_is_fetched_twice(door: Door, tmp_path: Path, point: str) -> None:
    door.put(FILES)
    words = ("-w", door.root, "collect", door.url, "--labels-from", "folder", "--after", "move:done")
    environment = {**door.server.environment(), "AWS_ENDPOINT_URL": door.proxy.endpoint}
    code, said = child.everlearn(tmp_path, *words, fault=point, environment=environment)
    assert code == child.KILLED, said
    code, said = child.everlearn(tmp_path, *words, environment=environment)
    assert code == 0, said
    assert door.proxy.gets() == dict.fromkeys((f"in/{key}" for key in FILES), 1)
    assert door.keys() == {f"done/{key}" for key in FILES}
    assert door.count() == 15
    assert not list((door.root / ".everlearn").glob("scratch-*"))


# --- afterwards -----------------------------------------------------------------------------------------------------


def test_known_objects_are_deleted_too_and_refused_ones_stay(door: Door) -> None:
    door.put(FILES | {"empty.png": b""})
    door.collect()
    assert len(door.keys()) == 16
    done = door.collect("--after", "delete")
    assert (done["duplicates"], done["refused"]) == (15, 1)
    assert door.keys() == {"in/empty.png"}
    assert not door.proxy.gets()
    door.store.remove("in/empty.png")
    assert door.collect("--after", "delete")["collected"] == 0  # an empty prefix is what it leaves


def test_a_move_writes_over_nothing(door: Door) -> None:
    first, second = list(FILES)[:2]
    door.put(FILES)
    door.put({first: b"something else", second: FILES[second]}, prefix="done/")
    done = door.collect("--after", "move:done")
    assert (done["collected"], done["refused"]) == (15, 1)
    assert "something else lies at" in done["rejected"][0]["reason"]
    assert door.keys() == {f"in/{first}"} | {f"done/{key}" for key in FILES}
    with door.store.open(f"done/{first}") as file:
        assert file.read() == b"something else"


def test_tags_are_added_once_beside_others(door: Door) -> None:
    door.put(FILES)
    one = f"in/{next(iter(FILES))}"
    other = b"<Tagging><TagSet><Tag><Key>owner</Key><Value>me</Value></Tag></TagSet></Tagging>"
    door.proxy.tags[one] = other
    settings = door.root / "everlearn.yaml"
    settings.write_text(settings.read_text() + "\ncollect: {after: 'tag:seen=yes'}\n")
    door.collect()
    assert door.proxy.count("PUT", "tagging") == 15
    assert set(door.proxy.tags) == {f"in/{key}" for key in FILES}
    assert all(b"<Key>seen</Key><Value>yes</Value>" in tags for tags in door.proxy.tags.values())
    assert b"<Key>owner</Key>" in door.proxy.tags[one]
    door.collect()
    assert door.proxy.count("PUT") == door.proxy.count("HEAD") == 0
    assert door.collect("--after", "tag:seen=twice")["duplicates"] == 15
    assert door.proxy.count("PUT", "tagging") == 15


def test_an_endpoint_without_tags_loses_nothing(
    door: Door, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)  # it would take the tags for the object's content
    door.put({"a.png": picture(0)})
    done = door.collect("--after", "tag:seen=yes")
    assert (done["collected"], done["refused"]) == (1, 1)
    assert "knows no tags" in done["rejected"][0]["reason"]
    assert (door.folder / "in/a.png").read_bytes() == picture(0)


# --- what lies there ------------------------------------------------------------------------------------------------


def test_a_data_set_is_read_where_it_lies(door: Door) -> None:
    names = list(FILES)[:6]
    images = {f"images/train/{n}.png": FILES[name] for n, name in enumerate(names)}
    labels = {f"labels/train/{n}.txt": f"{n % 2} 0.5 0.5 0.4 0.4\n".encode() for n in range(6)}
    door.put(images | labels | {"data.yaml": b"train: images/train\nnames: [cat, dog]\n"})
    came = door.collect()
    assert (came["collected"], came["refused"]) == (6, 0)
    assert {one[1:3] for one in standing(door.workspace).values()} == {("cat", "yolo"), ("dog", "yolo")}
    assert door.collect()["duplicates"] == 6
    assert not [key for key in door.proxy.gets() if key.endswith(".png")]
    with door.workspace.catalog.read() as tx:
        uris = samples.seen(tx, [])
        assert uris == {}
    assert "images alone" in str(door.collect("--after", "delete", code=2))
    assert "scratch" not in str([path.name for path in (door.root / ".everlearn").iterdir()])


def test_a_video_gives_frames_and_is_fetched_once(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "door.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(15):
        writer.write(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    door.put({"door_20250704_133022.avi": path.read_bytes(), "broken.mp4": b"no video"})
    came = door.collect()
    assert (came["collected"], came["refused"]) == (3, 1)
    with door.workspace.catalog.read() as tx:
        times = sorted(str(one.captured_at) for batch in samples.batches(tx) for one in batch)
    assert times == ["2025-07-04 13:30:22", "2025-07-04 13:30:23", "2025-07-04 13:30:24"]
    door.collect("--after", "move:done")
    assert door.proxy.gets() == {"in/broken.mp4": 1}
    assert door.keys() == {"done/door_20250704_133022.avi", "in/broken.mp4"}


def test_what_was_forgotten_does_not_come_back(door: Door) -> None:
    door.put(FILES)
    door.collect("--labels-from", "folder")
    assert run(door.root, "forget", "--label", "1").code == 0
    again = door.collect("--labels-from", "folder", "--after", "delete")
    assert (again["collected"], again["suppressed"]) == (0, 5)
    assert door.keys() == {f"in/{key}" for key in FILES if key.startswith("1/")}


# --- watched --------------------------------------------------------------------------------------------------------


def test_new_objects_are_a_reason_to_turn(door: Door, tmp_path: Path) -> None:
    door.put(FILES | {"empty.png": b"", "notes.txt": b"x"})
    settings = door.root / "everlearn.yaml"
    (tmp_path / "folder").mkdir()
    sources = [door.url, "s3://no-such-bucket/x", str(tmp_path / "folder")]
    settings.write_text(settings.read_text() + f"\ncollect: {{sources: {sources}, labels_from: folder}}\n")
    workspace = Workspace.open(door.root)
    said: list[str] = []
    workspace.say = said.append
    watcher = stages.Watcher(workspace)
    assert watcher.reason() == "15 new files"
    came = stages.gather(workspace, (), SILENT, ready=watcher.ready)
    watcher.turned()
    assert came.collected == 15
    assert [one.path.rpartition("/")[2] for one in came.rejected] == ["empty.png", "x"]
    stages.validate(workspace, SILENT)
    assert watcher.reason() is None
    assert len(said) == 1 and "no-such-bucket" in said[0]
    door.put({"0/new.png": OTHER})
    watcher._listed.clear()  # it rests between two listings
    assert watcher.reason() == "1 new file"
