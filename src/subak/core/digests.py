"""Keyed digests: how ids, keys and questions are compared and named without being kept (PROTOCOL §1, §4).

HMAC by its definition (RFC 2104), with `hmac` as oracle in the tests: `hmac.digest` takes two or three times as long,
and lets go of the interpreter meanwhile, so that the event loop waits for whatever thread has work (2026-11,
CPython 3.11).
"""

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Final

_NAME_BYTES: Final = 12
_BLOCK_BYTES: Final = 64
_INNER_PAD: Final = bytes([byte ^ 0x36 for byte in range(256)])
_OUTER_PAD: Final = bytes([byte ^ 0x5C for byte in range(256)])


def join_parts(*parts: bytes | None) -> bytes:
    """Join parts so that no two different lists give the same bytes: each with its length, None apart from empty."""
    joined: list[bytes] = []
    for part in parts:
        joined += (b"\x00",) if part is None else (b"\x01", len(part).to_bytes(8), part)
    return b"".join(joined)


def keyed_digest(secret: bytes, label: str, *parts: bytes | None) -> bytes:
    """Give HMAC-SHA-256 of the parts, 32 bytes. `label` separates one use from another."""
    inner, outer = _pads(secret)
    return sha256(outer + sha256(inner + join_parts(label.encode(), *parts)).digest()).digest()


def digest_name(secret: bytes, label: str, text: str) -> str:
    """Give a short name for `text` that log lines may carry: 16 characters, the same for the same secret."""
    return _name(keyed_digest(secret, label, text.encode()))


class DigestKey:
    """A secret that makes many digests: what depends on it alone is hashed once, which saves a third of the time."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        self._inner, self._outer = map(sha256, _pads(secret))

    def digest(self, label: str, *parts: bytes | None) -> bytes:
        """Give what `keyed_digest` gives."""
        inner = self._inner.copy()
        inner.update(join_parts(label.encode(), *parts))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def name(self, label: str, text: str) -> str:
        """Give what `digest_name` gives."""
        return _name(self.digest(label, text.encode()))


def _pads(secret: bytes) -> tuple[bytes, bytes]:
    """Give what stands before the text and before its hash."""
    key = (secret if len(secret) <= _BLOCK_BYTES else sha256(secret).digest()).ljust(_BLOCK_BYTES, b"\0")
    return key.translate(_INNER_PAD), key.translate(_OUTER_PAD)


def _name(digest: bytes) -> str:
    return urlsafe_b64encode(digest[:_NAME_BYTES]).decode("ascii")
