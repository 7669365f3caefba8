"""From which trust on a class's boxes may be taken without asking: proved on reviewed images."""

from __future__ import annotations

import hashlib


def draw(id: str) -> float:
    """A number in [0, 1) that belongs to the sample, and to nothing that is on it."""
    return int.from_bytes(hashlib.sha256(b"audit\0" + id.encode()).digest()[:8], "big") / 2**64


def audited(id: str, share: float) -> bool:
    """Whether a person is asked about a sample however sure the models are. A larger share keeps those of a smaller."""
    return draw(id) < share
