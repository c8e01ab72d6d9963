"""Ed25519 signatures over checkpoints, key rotations and receipts. The one module that signs and checks them."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from subak.core.digests import join_parts
from subak.core.merkle import HASH_BYTES
from subak.core.notes import Checkpoint, MalformedNote, Note, Signature, VerifierKey

_ROTATION: Final = b"subak.audit.rotation.v1"
_RECEIPT: Final = b"subak.audit.receipt.v1"


class BadSignature(Exception):
    """Nobody who may has signed this. The text says what is wrong."""


class SealingKey:
    """The private key of one log."""

    __slots__ = ("_private", "seed", "vkey")

    def __init__(self, origin: str, seed: bytes) -> None:
        """`seed` is the Ed25519 private key, 32 bytes."""
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.vkey = VerifierKey(origin, self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, origin: str) -> "SealingKey":
        """Make a new one."""
        return cls(origin, Ed25519PrivateKey.generate().private_bytes_raw())

    def sign_checkpoint(self, checkpoint: Checkpoint) -> str:
        """Give the signed note."""
        text = str(checkpoint)
        signature = Signature(self.vkey.name, self.vkey.key_id, self._private.sign(text.encode()))
        return str(Note(text, (signature,)))

    def sign_rotation(self, seq: int, successor: VerifierKey) -> bytes:
        """Certify that from row `seq` on `successor` seals this log."""
        return self._private.sign(_rotation(self.vkey.name, seq, successor))

    def sign_receipt(self, seq: int, leaf: bytes) -> bytes:
        """Promise that row `seq` with this leaf hash stands in the log."""
        return self._private.sign(_receipt(self.vkey.name, seq, leaf))


def open_checkpoint(note: str, *keys: VerifierKey) -> Checkpoint:
    """Give the checkpoint of a note that one of the keys has signed.

    Raises:
        MalformedNote: it isn't one.
        BadSignature: none of the keys signed it.
    """
    found = Note.parse(note)
    checkpoint = Checkpoint.parse(found.text)
    for key in keys:
        for signature in found.signatures:
            if (signature.name, signature.key_id) == (key.name, key.key_id):
                _check(key, signature.signature, found.text.encode(), "checkpoint")
                return checkpoint
    raise BadSignature("the checkpoint is signed by a key that isn't this log's")


def check_rotation(key: VerifierKey, seq: int, successor: VerifierKey, signature: bytes) -> None:
    """Raise BadSignature unless `key` has named `successor`."""
    _check(key, signature, _rotation(key.name, seq, successor), "key rotation")


def check_receipt(key: VerifierKey, seq: int, leaf: bytes, signature: bytes) -> None:
    """Raise BadSignature unless `key` has given this receipt, MalformedNote if it can't be one."""
    if len(leaf) != HASH_BYTES or seq < 0:
        raise MalformedNote("a receipt names a row and its leaf hash")
    _check(key, signature, _receipt(key.name, seq, leaf), "receipt")


def _rotation(origin: str, seq: int, successor: VerifierKey) -> bytes:
    return join_parts(_ROTATION, origin.encode(), seq.to_bytes(8), str(successor).encode())


def _receipt(origin: str, seq: int, leaf: bytes) -> bytes:
    return join_parts(_RECEIPT, origin.encode(), seq.to_bytes(8), leaf)


def _check(key: VerifierKey, signature: bytes, content: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, content)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the {what}'s signature is wrong") from error
