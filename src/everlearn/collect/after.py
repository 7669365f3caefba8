"""What is done with an object of a bucket once it is in the catalog: `keep`, `delete`, `move:PREFIX`, `tag:KEY=VALUE`.

It comes after the commit, so a kill can leave it undone and never an object lost; the next collection finds the object
known, and does it then. An object is touched only while it is still the one that was taken in.
"""

from __future__ import annotations

from typing import Literal

from everlearn.collect.bucket import is_one
from everlearn.errors import BadInput, StoreFault
from everlearn.s3 import Bucket, Entry, OutOfReach, address
from everlearn.types import Found

KEEP = "keep"
_SAID = "Write keep, delete, move:PREFIX or tag:KEY=VALUE."


class After:
    """What `text` says, for the objects of one source. Raises BadInput where it says nothing, or a move would bring
    objects back into what is listed."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.action, self.value = parse(text)
        self._no_tags = ""
        if not source.lower().startswith("s3://"):
            raise BadInput(
                f"--after {text}: {source} is no bucket.", "Leave it out: files of this machine are yours to move."
            )
        name, key = address(source)
        single = is_one(key)
        root = key.rpartition("/")[0] if single else key.strip("/")
        self.bucket, self.prefix = Bucket(name), f"{root}/" if root else ""
        inside = self.value == self.prefix if single else self.value.startswith(self.prefix)
        if self.action == "move" and inside:
            raise BadInput(
                f"--after {text}: this is in s3://{name}/{self.prefix}, which is collected.",
                "Name a prefix outside of it.",
            )

    @property
    def leaves_a_trace(self) -> bool:
        """Whether the object is there afterwards, so that it must be remembered that it was done."""
        return self.action == "tag"

    def carry_out(self, one: Found) -> str | None:
        """Do it; why not, in a line, or None. Raises OutOfReach."""
        key = address(one.uri)[1]
        try:
            now = self.bucket.head(key)
            if now is None or not _same(now, one):
                return None  # it is gone, or it is another object by now, which the next collection takes
            if self.action == "move":
                return self._move(key, one)
            if self.action == "tag":
                return self._tag(key)
            self.bucket.call("delete_object", "removed", key)
        except OutOfReach:
            raise
        except StoreFault as fault:
            return f"it was taken in, but {fault.message.partition('/' + key)[2].strip() or fault.message}"
        return None

    def _move(self, key: str, one: Found) -> str | None:
        """Copied on the server, then deleted. What lies at the target and is another object stays as it is."""
        target = self.value + key.removeprefix(self.prefix)
        there = self.bucket.head(target)
        if there is not None and not _same(there, one):
            return f"it was taken in, but something else lies at s3://{self.bucket.name}/{target}"
        if there is None:
            source = {"Bucket": self.bucket.name, "Key": key}
            self.bucket.call("copy_object", "copied", target, CopySource=source)
        self.bucket.call("delete_object", "removed", key)
        return None

    def _tag(self, key: str) -> str | None:
        """Beside the tags that the object has. They are asked for first: an endpoint that knows no tags would take the
        new ones for the object's content."""
        name, _, value = self.value.partition("=")
        if self._no_tags:
            return self._no_tags
        try:
            tags = {one["Key"]: one["Value"] for one in self.bucket.call("get_object_tagging", "read", key)["TagSet"]}
        except (StoreFault, KeyError, TypeError) as fault:  # the endpoint is there: it was asked for the object's head
            if "AccessDenied" in str(fault):
                return "it was taken in, but cannot be tagged: its tags may not be read with this key"
            self._no_tags = "it was taken in, but cannot be tagged: this endpoint knows no tags"
            return self._no_tags
        if tags.get(name) != value:
            new = [{"Key": name, "Value": value} for name, value in {**tags, name: value}.items()]
            self.bucket.call("put_object_tagging", "tagged", key, Tagging={"TagSet": new})
        return None


def parse(text: str) -> tuple[Literal["keep", "delete", "move", "tag"], str]:
    """The action, and the prefix or `KEY=VALUE` that goes with it. Raises BadInput."""
    action, colon, value = text.partition(":")
    if action in ("keep", "delete") and not colon:
        return action, ""  # type: ignore[return-value]
    if action == "move" and value.strip("/") and "://" not in value:
        return "move", f"{value.strip('/')}/"
    if action == "tag" and "=" in value and not value.startswith("="):
        return "tag", value
    raise BadInput(f"--after {text!r} is none of what can be done.", _SAID)


def _same(there: Entry, one: Found) -> bool:
    return there.size == one.size and (one.etag is None or there.etag == one.etag)
