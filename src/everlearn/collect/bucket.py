"""Objects in a bucket of any S3 endpoint, as a source: `s3://bucket/prefix`.

The bucket is listed in full each time, page by page; `take` compares (key, ETag, size) with what it has seen, so that
only what is new or was written over is fetched. What comes is checked against the bucket's own digests.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from everlearn.collect.fetch import Spool
from everlearn.collect.files import IMAGE_ENDINGS, VIDEO_ENDINGS, Entry, ending, is_left_behind, refused
from everlearn.collect.folder import Names
from everlearn.collect.options import SourceOptions
from everlearn.collect.video import frame_rule, frames
from everlearn.errors import BadInput, Missing, StoreFault
from everlearn.image import MAX_BYTES
from everlearn.naming import is_unwritable
from everlearn.s3 import CHUNK, Bucket, OutOfReach, address, etag_of
from everlearn.s3 import Entry as Object
from everlearn.types import Found, Refused

TRIES = 3
"""Times that an object is asked for before what comes is refused."""
_MD5 = re.compile("[0-9a-f]{32}")
_DIGESTS = {"ChecksumSHA256": hashlib.sha256, "ChecksumSHA1": hashlib.sha1}


def is_one(key: str) -> bool:
    """Whether it names an object to take in, and not the prefix of many."""
    return ending(key) in IMAGE_ENDINGS | VIDEO_ENDINGS and not key.endswith("/")


class BucketSource:
    """All images and videos below a prefix of a bucket, which is a folder's name: `s3://b/door` takes `door/a.jpg`, not
    `doorway/a.jpg`. Or one object. Labels, times and cameras come from keys, as in a folder.

    Raises BadConfig for an address that is none, BadInput for options that cannot be. Nothing is asked of the bucket
    yet; then everything raises OutOfReach.
    """

    def __init__(self, url: str, options: SourceOptions) -> None:
        frame_rule(options)
        name, key = address(url)
        self.options, self.names, self.bucket = options, Names(options), Bucket(name)
        self.single = is_one(key)
        self.prefix = key if self.single else f"{key.rstrip('/')}/" if key.strip("/") else ""
        self.url = f"s3://{name}/{self.prefix}".rstrip("/")
        self.spool = Spool(Path(options.scratch)) if options.scratch else None

    def is_empty(self) -> bool:
        return next(self.objects(), None) is None

    def items(self) -> Iterator[Found | Refused]:
        root_label = self._root_label() if self.names.by == "folder" else None
        for one in self.pictures():
            entry = self.entry(one)
            said = self.names.said(entry, root_label)
            found = said if isinstance(said, Refused) else self.offer(one)
            if isinstance(found, Refused) or isinstance(said, Refused):
                yield found
                continue
            if said.when:
                found = replace(found, captured_at=said.when, time_from="name")
            parts = self._video(entry, found) if ending(one.key) in VIDEO_ENDINGS else iter([found])
            for part in parts:
                yield part if isinstance(part, Refused) else said.put_on(part, self.names.label_by)

    def estimate(self) -> int | None:
        """Counting them is listing them."""
        return None

    def pictures(self) -> Iterator[Object]:
        """What is listed now and is an image or a video by its name; the rest is passed over."""
        for one in self.objects():
            if ending(one.key) in IMAGE_ENDINGS | VIDEO_ENDINGS and not is_left_behind(self.entry(one).below):
                yield one

    def entry(self, one: Object) -> Entry:
        """An object as the readers of folders know files."""
        below = one.key.rpartition("/")[2] if self.single else one.key.removeprefix(self.prefix)
        return Entry(f"s3://{self.bucket.name}/{one.key}", below, one.key, one.size, one.modified)

    def offer(self, one: Object) -> Found | Refused:
        """An object, unread, or why not."""
        uri, video = f"s3://{self.bucket.name}/{one.key}", ending(one.key) in VIDEO_ENDINGS
        limit = MAX_BYTES if self.options.max_bytes is None else self.options.max_bytes
        if is_unwritable(one.key):
            return refused(uri, "its key holds a line break, control character or undecodable byte: rename it")
        if one.size == 0:
            return refused(uri, "an empty object")
        if one.size > limit and not video:
            return refused(uri, f"{one.size} bytes, more than the limit of {limit}")
        name = unicodedata.normalize("NFC", one.key.rpartition("/")[2])
        found = Found(uri, name, bytes, size=one.size, modified=one.modified, etag=one.etag)
        return replace(found, read=partial(self._bytes, found, one))

    def objects(self) -> Iterator[Object]:
        entries = self.bucket.entries(self.prefix)
        if not self.single:
            yield from (one for one in entries if not one.key.endswith("/"))  # markers of empty folders
        elif (first := next(entries, None)) and first.key == self.prefix:
            yield first

    def _root_label(self) -> str | None:
        """As in a folder: what lies beside folders is a stray, what lies in one without any is of its class."""
        root = (self.prefix.rpartition("/")[0] if self.single else self.prefix.rstrip("/")) or self.bucket.name
        page = self.bucket.call("list_objects_v2", "listed", Prefix=self.prefix, Delimiter="/")
        return None if page.get("CommonPrefixes") else root.rpartition("/")[2]

    def _bytes(self, found: Found, one: Object) -> bytes:
        data = self.spool.get(found) if self.spool else None
        if data is None:
            file = io.BytesIO()
            fetch(self.bucket, one, file)
            data = file.getvalue()
            if self.spool:
                self.spool.keep(found, data)
        return data

    def _video(self, entry: Entry, whole: Found) -> Iterator[Found | Refused]:
        """The frames, from a temporary file; then the video itself, with its last frame for its bytes, so that a whole
        one is recognised the next time and not fetched."""
        if self.options.known is not None and self.options.known(whole):
            yield whole
            return
        if self.spool is None:
            yield refused(whole.uri, "a video in a bucket needs a workspace to be read in")
            return
        try:
            path = self.spool.file(whole, partial(fetch, self.bucket, Object(entry.target, entry.size, whole.etag, 0)))
        except BadInput as error:
            yield refused(whole.uri, error.message)
            return
        last: Found | Refused | None = None
        for last in frames(replace(entry, target=str(path)), self.options, whole.captured_at):
            yield last if isinstance(last, Refused) else replace(last, etag=whole.etag)
        path.unlink(missing_ok=True)
        if isinstance(last, Found):
            yield replace(last, uri=whole.uri, etag=whole.etag)


def fetch(bucket: Bucket, one: Object, file: BinaryIO) -> None:
    """Write an object into a file, checked by the bucket's digests, or say why it cannot be. Raises BadInput for what
    is wrong with this one, OutOfReach where the next would fail as well."""
    before = None
    for attempt in range(TRIES):
        time.sleep(0.2 * attempt)
        file.seek(0)
        file.truncate()
        try:
            answer = bucket.read(one.key, file, most=one.size, ChecksumMode="ENABLED")
        except Missing:
            raise BadInput("it was removed since the bucket was listed", "") from None
        except StoreFault as fault:
            if attempt == TRIES - 1 and isinstance(fault, OutOfReach):
                raise
            wrong = fault.message.partition(" cannot be ")[2]
            continue
        if one.etag and (etag := etag_of(answer)) and etag != one.etag:
            raise BadInput("it has changed since the bucket was listed: the next collection takes it", "")
        md5, found = _md5(file), _disagreement(answer, one, file)
        if found is None or (found == "its ETag" and answer.get("ServerSideEncryption") and md5 == before):
            return  # where a server encrypts, the ETag may be another digest: then the same bytes twice are believed
        before, wrong = md5, f"what comes does not agree with {found}"
    raise BadInput(f"cannot be fetched: {wrong} (tried {TRIES} times)", "")


def _md5(file: BinaryIO) -> str:
    return hashlib.file_digest(_rewound(file), partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _disagreement(answer: Mapping[str, Any], one: Object, file: BinaryIO) -> str | None:
    """Which of the digests that the bucket tells is not that of the bytes. The ETag is the MD5 of an object that was
    put in one part and is encrypted with no key of its owner's (Amazon S3 API reference, `Object`)."""
    if file.seek(0, io.SEEK_END) != one.size:
        return f"its size of {one.size} bytes"
    for name, digest in _DIGESTS.items():
        said = answer.get(name)
        if said and "-" not in said and said != _base64(hashlib.file_digest(_rewound(file), digest).digest()):
            return f"its {name.removeprefix('Checksum')}"
    said = answer.get("ChecksumCRC32")
    if said and "-" not in said and said != _base64(_crc32(file).to_bytes(4, "big")):
        return "its CRC32"
    own_key = "kms" in str(answer.get("ServerSideEncryption")) or answer.get("SSECustomerAlgorithm")
    etag = etag_of(answer) or ""
    return "its ETag" if _MD5.fullmatch(etag) and not own_key and etag != _md5(file) else None


def _crc32(file: BinaryIO) -> int:
    value = 0
    _rewound(file)
    while chunk := file.read(CHUNK):
        value = zlib.crc32(chunk, value)
    return value


def _rewound(file: BinaryIO) -> Any:
    file.seek(0)
    return file


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
