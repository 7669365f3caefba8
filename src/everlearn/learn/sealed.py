"""What only this workspace may read back: bytes with a seal by a key that never leaves the workspace's private folder.

Pickles can run code when they are read. One without this workspace's seal, or changed since, is refused unread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from everlearn.errors import Corrupt, StoreFault

if TYPE_CHECKING:
    from everlearn.workspace import Workspace

KEY = "seal.key"
_MAGIC = b"everlearn sealed 1\n"
_SIZE = 32


def seal(workspace: Workspace, data: bytes) -> bytes:
    """Raises StoreFault where the key cannot be kept."""
    return _MAGIC + _mark(_key(workspace, make=True), data) + data


def unseal(workspace: Workspace, sealed: bytes, name: str) -> bytes:
    """Raises Corrupt where the seal is missing, or not of this workspace and these bytes."""
    key, begins = _key(workspace), len(_MAGIC) + _SIZE
    mark, data = sealed[len(_MAGIC) : begins], sealed[begins:]
    if not sealed.startswith(_MAGIC) or not key or not hmac.compare_digest(mark, _mark(key, data)):
        raise Corrupt(f"{name} does not bear this workspace's seal, so it is not read.", "Learn again: everlearn learn")
    return data


def _mark(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _key(workspace: Workspace, make: bool = False) -> bytes:
    """32 random bytes that only the owner may read; b"" where there are none."""
    path = workspace.private(KEY)
    try:
        found = path.read_bytes() if path.exists() else b""
        if make and len(found) != _SIZE:  # what a damaged one has sealed is lost; nothing is sealed with it again
            part = path.with_name(f".{KEY}.{secrets.token_hex(4)}.part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_SIZE))
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            found = path.read_bytes()
    except OSError as error:
        raise StoreFault(f"{path} cannot be used: {error.strerror}.", "Make it readable and writable.") from None
    return found if len(found) == _SIZE else b""
