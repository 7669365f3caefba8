"""One bucket, on AWS or any endpoint that speaks S3: how it is reached, what can go wrong, and the few requests that
`store.S3Store` and `collect.bucket` are made of.

Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a named profile
(AWS_PROFILE) or the machine's role; the endpoint from EVERLEARN_S3_ENDPOINT, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL;
the region from AWS_REGION or AWS_DEFAULT_REGION. None of them is kept, shown or logged by us.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, BinaryIO

from everlearn.errors import BadConfig, Missing, NotInstalled, StoreFault

CHUNK = 1 << 20
"""Bytes read at a time."""

_OUT_OF_REACH = frozenset(
    {"NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidAccessKeyId", "SignatureDoesNotMatch",
     "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "SlowDown", "ServiceUnavailable", "InternalError",
     "AllAccessDisabled", "AccountProblem", "NotSignedUp", "ProfileNotFound", "NoRegionError", "301", "500", "502",
     "503", "504"}
)  # fmt: skip


_ENDPOINT = "Ask who runs the endpoint: it does not list objects as S3 does."
_CODE = re.compile(r"[\w.-]{1,80}", re.ASCII)


class OutOfReach(StoreFault):
    """Not one object, but the bucket, its endpoint or the right to it is what fails: the next request would, too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing tells it. etag: without its quotation marks; modified: in seconds since 1970."""

    key: str
    size: int
    etag: str | None
    modified: float


def address(url: str) -> tuple[str, str]:
    """Bucket and the rest of `s3://bucket/rest`. Raises BadConfig, and shows no secret that may stand in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise BadConfig(
            f"{shown(url)!a} is no address of a bucket.",
            "Write s3://bucket/prefix; keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return bucket, key


def shown(url: str) -> str:
    """An address as it may be shown: where it may hold a secret, with slashes of its own, only its scheme is left."""
    scheme, mark, rest = url.partition("://")
    odd = set(rest.partition("/")[0]) & set("@:") if scheme.lower() == "s3" else set(rest) & set("@?")
    secret = mark and (odd or (scheme.lower() == "s3" and re.match(r"[^/]*[:@]|[^@]*:[^@]*@", rest)))
    return f"{scheme}://***" if secret else url


class Bucket:
    """The requests, each with its faults told as ours. It may be used by several threads at once."""

    def __init__(
        self, name: str, *, endpoint: str | None = None, region: str | None = None, profile: str | None = None
    ) -> None:
        self.name = name
        self._endpoint = endpoint or os.environ.get("EVERLEARN_S3_ENDPOINT") or None
        self._region = region or os.environ.get("AWS_REGION") or None
        self._profile = profile

    def __repr__(self) -> str:
        return f"Bucket({self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the open connection: whoever is sent a bucket opens its own, with credentials of its own."""
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def call(self, request: str, doing: str, key: str = "", **values: Any) -> dict[str, Any]:
        """One request of this name in botocore. doing: what it is for, in an error. Raises Missing where there is no
        such object, OutOfReach, StoreFault."""
        if key:
            values["Key"] = key
        with self.faults(doing, key):
            answer: dict[str, Any] = self._files.call_s3(request, Bucket=self.name, **values)
            return answer

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose keys begin with the prefix, page by page, 1,000 each; no more than a page is held."""
        request: dict[str, str] = {"Prefix": prefix}
        while True:
            page = self.call("list_objects_v2", "listed", **request)
            yield from self._listed(page, prefix)
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == request.get("ContinuationToken"):
                raise OutOfReach(f"s3://{self.name}/{prefix} cannot be listed: a page without a next one.", _ENDPOINT)
            request["ContinuationToken"] = token

    def _listed(self, page: Mapping[str, Any], prefix: str) -> Iterator[Entry]:
        """A page's objects. What was not asked for is not taken, since it may be deleted or moved afterwards."""
        for item in page.get("Contents", ()):
            try:
                one = Entry(item["Key"], int(item["Size"]), etag_of(item), item["LastModified"].timestamp())
            except (KeyError, ValueError, AttributeError):
                raise OutOfReach(
                    f"s3://{self.name} cannot be listed: a page without sizes or times.", _ENDPOINT
                ) from None
            if not one.key.startswith(prefix):
                raise OutOfReach(f"s3://{self.name}/{prefix} cannot be listed: it gives other keys.", _ENDPOINT)
            yield one

    def head(self, key: str) -> Entry | None:
        """One object, unread, or None where it is not there."""
        try:
            item = self.call("head_object", "read", key)
        except Missing:
            return None
        return Entry(key, int(item["ContentLength"]), etag_of(item), item["LastModified"].timestamp())

    def read(self, key: str, file: BinaryIO, *, most: int | None = None, **values: Any) -> dict[str, Any]:
        """Write an object to a file, from beginning to end in one request; the headers of the answer. No more than
        `most` bytes and one of it are read."""
        from fsspec.asyn import sync

        with self.faults("read", key):
            return sync(self._files.loop, self._read, key, file, most, values)

    async def _read(self, key: str, file: BinaryIO, most: int | None, values: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self._files._call_s3("get_object", Bucket=self.name, Key=key, **values)
        body, left = answer.pop("Body"), CHUNK if most is None else most + 1
        try:
            while left > 0 and (chunk := await body.read(min(CHUNK, left))):
                file.write(chunk)
                left -= 0 if most is None else len(chunk)
        finally:
            body.close()
        return answer

    @cached_property
    def _files(self) -> Any:
        said = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
        mark = hashlib.sha256(repr(said).encode()).digest()  # credentials may change between two stores of one process
        try:
            return _client(self._endpoint, self._region, self._profile, mark, os.getpid())
        except ImportError as error:
            raise NotInstalled(f"s3://{self.name} needs s3fs.", "pip install 'everlearn[s3]'") from error

    @contextmanager
    def faults(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except (NotInstalled, StoreFault, Missing):
            raise
        except Exception as error:
            raise _fault(f"s3://{self.name}/{key}".rstrip("/"), doing, error) from error


def etag_of(answer: Mapping[str, Any]) -> str | None:
    """The mark of the content, without its quotation marks."""
    return str(answer.get("ETag") or "").strip('"') or None


@lru_cache(8)
def _client(endpoint: str | None, region: str | None, profile: str | None, mark: bytes, process: int) -> Any:
    """One for all buckets that are reached alike by this process: to make one takes some tenths of a second."""
    import s3fs

    return s3fs.S3FileSystem(
        profile=profile,
        endpoint_url=endpoint,  # None: botocore asks AWS_ENDPOINT_URL itself
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def _fault(what: str, doing: str, error: Exception) -> StoreFault | Missing:
    """Our error for one of botocore, s3fs or the network. The server's own words stay out: they may quote a key."""
    code = code_of(error)
    if code is not None and not _CODE.fullmatch(code):  # it is the server's word, and will stand in a terminal
        code = "an error without a proper code"
    if code == "NoSuchKey" or (code == "404" and doing == "read"):
        return Missing(f"There is no object {what}.", "`everlearn doctor` finds what is missing.")
    kind = code or type(error).__name__
    away, fault = kind in _OUT_OF_REACH, StoreFault
    if kind in ("NoSuchBucket", "404", "FileNotFoundError"):
        away, remedy = True, "The bucket is not there: make it, or correct its name."
    elif isinstance(error, PermissionError) or "Credential" in kind or kind == "ProfileNotFound":
        away = away or "Credential" in kind or doing == "listed"
        remedy = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and what this key may do."
    elif "Connect" in kind or "Timeout" in kind or "Endpoint" in kind:
        away = True
        remedy = "The endpoint does not answer: check AWS_ENDPOINT_URL (or EVERLEARN_S3_ENDPOINT) and the network."
    else:
        remedy = "Try again; if it stays, ask who runs the endpoint."
    if away:
        fault = OutOfReach
    return fault(f"{what} cannot be {doing}: {kind}.", remedy)


def code_of(error: BaseException | None) -> str | None:
    """The S3 error code (`NoSuchKey`) that s3fs has hidden behind an OSError."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code") or "") or None
        error = error.__cause__
    return None
