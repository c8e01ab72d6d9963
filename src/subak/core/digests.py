"""Keyed digests: how ids, keys and questions are compared and named without being kept (PROTOCOL §1, §4)."""

import hmac
from base64 import urlsafe_b64encode
from typing import Final

_NAME_BYTES: Final = 12


def join_parts(*parts: bytes | None) -> bytes:
    """Join parts so that no two different lists give the same bytes: each with its length, None apart from empty."""
    return b"".join([b"\x00" if part is None else b"\x01" + len(part).to_bytes(8) + part for part in parts])


def keyed_digest(secret: bytes, label: str, *parts: bytes | None) -> bytes:
    """Give HMAC-SHA-256 of the parts, 32 bytes. `label` separates one use from another."""
    return hmac.digest(secret, join_parts(label.encode(), *parts), "sha256")


def digest_name(secret: bytes, label: str, text: str) -> str:
    """Give a short name for `text` that log lines may carry: 16 characters, the same for the same secret."""
    digest = keyed_digest(secret, label, text.encode())
    return urlsafe_b64encode(digest[:_NAME_BYTES]).decode("ascii")
