"""Forgetting for real, and the certificate that proves it."""

from everlearn.erasure.certificate import Verified, verify
from everlearn.erasure.forget import Forgotten, Selection, forget, resume

__all__ = ["Forgotten", "Selection", "Verified", "forget", "resume", "verify"]
