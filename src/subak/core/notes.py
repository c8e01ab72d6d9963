"""Signed notes and checkpoints as text (C2SP signed-note and tlog-checkpoint, v1). No cryptography happens here.

    subak/3f2a…            the log's name, its origin
    1742                   how many leaves
    47DEQpj8HBSa+/TImW…    the root, base64

    — subak/3f2a… base64(key id, 4 bytes, and signature)

What is read must be what would be written: another spelling of the same content is refused, so that no byte of a kept
note can change unseen.
"""

import binascii
from base64 import b64encode
from hashlib import sha256
from typing import Final, NamedTuple

from subak.core.merkle import HASH_BYTES

ED25519: Final = 1
"""The signature type of a note (C2SP signed-note, "Signature types")."""
KEY_ID_BYTES: Final = 4
PUBLIC_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_DASH: Final = "— "
_CHECKPOINT_LINES: Final = 3
_SIZE_DIGITS: Final = 20
"""Of the largest number in eight bytes; Python refuses to read thousands of digits."""


class MalformedNote(ValueError):
    """The text is no note, checkpoint or key of the kind expected."""


class Checkpoint(NamedTuple):
    """What a log was at one moment: its name, its size in leaves and its root."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        """Give the text that is signed."""
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read that text. Raises: MalformedNote."""
        lines = text.split("\n")
        if len(lines) != _CHECKPOINT_LINES + 1 or lines[3] or not is_name(lines[0]) or not _is_size(lines[1]):
            raise MalformedNote("a checkpoint is three lines: origin, size, root")
        found = cls(lines[0], int(lines[1]), _decode(lines[2]))
        if len(found.root) != HASH_BYTES or str(found) != text:
            raise MalformedNote("the checkpoint's size or root isn't spelled as such")
        return found


class VerifierKey(NamedTuple):
    """A log's public key with its name."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Give the four bytes by which a signature names this key."""
        return sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """Give the key as one word: name, key id in hex, base64 of type and key."""
        return f"{self.name}+{self.key_id.hex()}+{_encode(bytes([ED25519]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read that word. Raises: MalformedNote."""
        name, _, rest = text.partition("+")
        content = _decode(rest.partition("+")[2])
        if len(content) != 1 + PUBLIC_KEY_BYTES or content[0] != ED25519 or not is_name(name):
            raise MalformedNote("a verifier key is name+keyid+base64 of an Ed25519 key")
        found = cls(name, content[1:])
        if str(found) != text:
            raise MalformedNote("the key's id doesn't belong to it")
        return found


class Signature(NamedTuple):
    """One signature below a note."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        """Give its line."""
        return f"{_DASH}{self.name} {_encode(self.key_id + self.signature)}\n"


class Note(NamedTuple):
    """A text, which ends in a line end, and who signed it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        """Give the note as it is kept and published."""
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    @classmethod
    def parse(cls, note: str) -> "Note":
        """Read a note. Raises: MalformedNote."""
        text, gap, below = note.rpartition("\n\n")
        if not gap or not below.endswith("\n"):
            raise MalformedNote("a note is a text, an empty line and signatures")
        found = cls(text + "\n", tuple(_parse_signature(line) for line in below[:-1].split("\n")))
        if str(found) != note:
            raise MalformedNote("the note isn't spelled as such")
        return found


def is_name(text: str) -> bool:
    """Whether `text` may name a log or a key: not empty, printable ASCII without spaces and plus."""
    return bool(text) and text.isascii() and text.isprintable() and not set(text) & {" ", "+"}


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) <= _SIZE_DIGITS


def _parse_signature(line: str) -> Signature:
    name, gap, encoded = line.removeprefix(_DASH).partition(" ")
    content = _decode(encoded)
    if not line.startswith(_DASH) or not gap or not is_name(name) or len(content) != KEY_ID_BYTES + _SIGNATURE_BYTES:
        raise MalformedNote("a signature is a dash, a name and base64 of key id and signature")
    return Signature(name, content[:KEY_ID_BYTES], content[KEY_ID_BYTES:])


def _encode(content: bytes) -> str:
    return b64encode(content).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:
        raise MalformedNote("not base64") from error
