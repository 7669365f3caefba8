"""Contracts of the protocols in `types`, as checks to run on your own implementations in your own tests.

>>> import tempfile
>>> from everlearn.store import LocalStore
>>> with tempfile.TemporaryDirectory() as folder:
...     check_store(LocalStore(folder))
"""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

from everlearn.errors import BadInput, Missing
from everlearn.types import Store

BAD_KEYS = ("", "/etc/passwd", "../up", "a/../../up", "a//b", "a/", "./a", "a\\b", "nul\0", "line\nfeed", "x" * 300)
"""Keys that every store refuses with BadInput, whatever the verb."""

GOOD_KEYS = ("plain", "deep/er/file.jpg", "사람/홍길동 001.png", "a b+c%20&d=e?f#g'h\"i*.bin", ".hidden", "x" * 255)
"""Keys that every store takes."""


def check_store(store: Store) -> None:
    """Whether a store keeps the contract of `types.Store`. Works below a folder of its own and clears it away.

    Raises AssertionError that names what is broken.
    """
    home = f"check-{uuid.uuid4().hex}"
    try:
        for check in (_round_trip, _missing, _replace, _copy, _keys, _bad_keys, _failing_source, _whole_or_not_at_all):
            check(store, f"{home}/{check.__name__}")
    finally:
        for key in list(store.keys(home)):
            store.remove(key)
    assert list(store.keys(home)) == [], "what was removed is still listed"


def _get(store: Store, key: str) -> bytes:
    with store.open(key) as file:
        return file.read()


def _round_trip(store: Store, home: str) -> None:
    """The bytes that went in come out, for every name and size, and the file can be read from anywhere in it."""
    for key in GOOD_KEYS:
        store.put(f"{home}/{key}", io.BytesIO(key.encode()))
    for key in GOOD_KEYS:
        assert _get(store, f"{home}/{key}") == key.encode(), f"{key!a} came back changed"
    large = bytes(range(256)) * 4096 * 3 + b"end"
    for data in (b"", b"x", large):
        store.put(f"{home}/size", io.BytesIO(data))
        assert _get(store, f"{home}/size") == data, f"{len(data)} bytes came back changed"
    with store.open(f"{home}/size") as file:
        file.seek(-3, io.SEEK_END)
        assert file.read() == b"end", "an opened file cannot be read from another place"
    half = io.BytesIO(b"skip,take")
    half.seek(5)
    store.put(f"{home}/half", half)
    assert _get(store, f"{home}/half") == b"take", "put must read on from where its data stands"


def _missing(store: Store, home: str) -> None:
    _raises(Missing, lambda: store.open(f"{home}/nothing"), "open of a key that is not there")
    store.put(f"{home}/folder/file", io.BytesIO(b"1"))
    _raises(Missing, lambda: store.open(f"{home}/folder"), "open of a folder")
    _raises(Missing, lambda: store.open(f"{home}/folder/file/below"), "open below a file")
    store.remove(f"{home}/nothing")  # no error
    store.remove(f"{home}/folder/file")
    store.remove(f"{home}/folder/file")
    _raises(Missing, lambda: store.open(f"{home}/folder/file"), "open of a removed key")


def _replace(store: Store, home: str) -> None:
    store.put(f"{home}/key", io.BytesIO(b"a longer first value"))
    store.put(f"{home}/key", io.BytesIO(b"second"))
    assert _get(store, f"{home}/key") == b"second", "put does not replace"


def _copy(store: Store, home: str) -> None:
    store.put(f"{home}/사람 a+b.jpg", io.BytesIO(b"first"))
    for _ in range(2):
        store.copy(f"{home}/사람 a+b.jpg", f"{home}/deep/copy")
    store.copy(f"{home}/deep/copy", f"{home}/deep/copy")
    store.put(f"{home}/사람 a+b.jpg", io.BytesIO(b"second"))
    assert _get(store, f"{home}/deep/copy") == b"first", "a copy changes with what it was copied from"
    store.remove(f"{home}/사람 a+b.jpg")
    assert _get(store, f"{home}/deep/copy") == b"first", "a copy goes with what it was copied from"
    assert set(store.keys(home)) == {f"{home}/deep/copy"}, "copy leaves something behind"
    _raises(Missing, lambda: store.copy(f"{home}/nothing", f"{home}/new"), "copy of a key that is not there")


def _keys(store: Store, home: str) -> None:
    written = {f"{home}/{name}" for name in ("a", "b/c", "b/d/e", "bb/f")}
    for key in written:
        store.put(key, io.BytesIO(b"1"))
    assert isinstance(store.keys(home), Iterator), "keys must be a stream"
    listed = list(store.keys(home))
    assert sorted(listed) == sorted(written), "keys lists something else than was put"
    below = {f"{home}/b/c", f"{home}/b/d/e"}
    assert set(store.keys(f"{home}/b")) == below, "a prefix is a folder: `b` must not list `bb/f`"
    assert set(store.keys(f"{home}/b/")) == below, "a slash at the end of a prefix makes no difference"
    assert list(store.keys(f"{home}/nothing")) == [], "a prefix that is not there holds nothing"
    assert written <= set(store.keys()), "keys without a prefix lists everything"


def _bad_keys(store: Store, home: str) -> None:
    for key in BAD_KEYS:
        name = key if key.startswith("/") or not key else f"{home}/{key}"
        verbs: dict[str, Callable[[], object]] = {
            "put": lambda name=name: store.put(name, io.BytesIO(b"evil")),  # type: ignore[misc]
            "open": lambda name=name: store.open(name),  # type: ignore[misc]
            "remove": lambda name=name: store.remove(name),  # type: ignore[misc]
        }
        for verb, call in verbs.items():
            _raises(BadInput, call, f"{verb} of the key {key[:40]!a}")
    assert list(store.keys(home)) == [], "a refused key was written"


class _Broken(io.RawIOBase):
    """Gives some bytes, then an error."""

    def __init__(self) -> None:
        self._given = False

    def read(self, size: int = -1) -> bytes:
        if self._given or size < 0:
            raise ConnectionResetError("the source broke off")
        self._given = True
        return b"half of it"


def _failing_source(store: Store, home: str) -> None:
    """An error of what is read leaves the old value, and reaches the caller as it is."""
    store.put(f"{home}/key", io.BytesIO(b"old"))
    for key in ("key", "new"):
        broken: BinaryIO = _Broken()  # type: ignore[assignment]
        _raises(ConnectionResetError, lambda key=key, it=broken: store.put(f"{home}/{key}", it), "a broken source")  # type: ignore[misc]
    assert _get(store, f"{home}/key") == b"old", "a put that failed changed the value"
    assert set(store.keys(home)) == {f"{home}/key"}, "a put that failed left something behind"


def _whole_or_not_at_all(store: Store, home: str) -> None:
    """While one value replaces another, a reader sees one or the other."""
    values = [bytes([letter]) * 300_000 for letter in b"AB"]
    store.put(f"{home}/key", io.BytesIO(values[0]))
    done, seen = threading.Event(), list[bytes]()

    def read() -> None:
        while not done.is_set():
            seen.append(_get(store, f"{home}/key"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(20):
            store.put(f"{home}/key", io.BytesIO(values[turn % 2]))
    finally:
        done.set()
        reader.join()
    assert seen, "the reader could not read while another wrote"
    assert all(data in values for data in seen), "a reader saw half a file"


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise {kind.__name__}, not {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise {kind.__name__}")
