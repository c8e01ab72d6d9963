"""Portable proofs that one row stands in a log: made by whoever keeps it, checked with its first public key alone.

A proof is one JSON object, format `subak.audit.proof.v1`:

    format       "subak.audit.proof.v1"
    origin       the log's name
    seq          the row's place, counted from 0
    core         the row's core: a string that holds the exact JSON text, whose UTF-8 bytes are hashed
    pii_commit   base64 of 32 bytes; null for a row that never had a personal part
    pii_seal     likewise
    path         the audit path: base64 of 32 bytes each, the hash next to the leaf first (RFC 6962 §2.1.1)
    checkpoint   the signed note over the tree that the path leads to (C2SP signed-note, tlog-checkpoint)
    rotations    each key rotation before that checkpoint, oldest first: {seq, vkey, signature}, the last in base64

base64 is the standard alphabet with padding (RFC 4648 §4). Nothing else may stand in the object. Who checks it knows
the log's first verifier key (`name+keyid+base64`, C2SP), whose name is `origin`, from elsewhere, and

1.  goes through `rotations`: each signature is Ed25519 by the key before it, the first one by the known key, over
    parts("subak.audit.rotation.v1", origin, seq, vkey). From size seq + 1 on that `vkey` seals;
2.  opens `checkpoint` with the key that `rotations` end in: one of its signature lines bears that key's name and id,
    and is Ed25519 over the text with its last line end. The text's first line is `origin`, its second the size, which
    is above `seq` and above each rotation's, its third base64 of the root;
3.  hashes the leaf: SHA-256(0x00 ‖ parts("subak.audit.leaf.v1", origin, seq, core, pii_commit, pii_seal));
4.  folds `path` into it as RFC 9162 §2.1.3.2 says, an inner node being SHA-256(0x01 ‖ left ‖ right), and compares the
    root.

parts(a, b, …) joins what it is given: 0x00 for null; else 0x01, the length, the bytes. Lengths and numbers are 8 bytes,
big-endian; text is UTF-8.

It proves that the key's holder sealed this row at this place. That the log wasn't rolled back or forked since shows
only where the same checkpoint, or a later one, was published: it is then compared with what left the host.
"""

from typing import Annotated, Final, Literal

import msgspec

from subak.audit.checkpoints import BadSignature, check_rotation, open_checkpoint
from subak.audit.errors import StoreDamaged
from subak.audit.records import LeafHasher, Row
from subak.audit.store import LogReader, StoredCheckpoint
from subak.core.merkle import CompactRange, MalformedRange, check_inclusion, hash_spans, inclusion_path
from subak.core.notes import Checkpoint, MalformedNote, VerifierKey

MAX_PROOF_BYTES: Final = 4 * 1024 * 1024
_MOST: Final = 2**62
_Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Seq = Annotated[int, msgspec.Meta(ge=0, lt=_MOST)]


class NoProof(Exception):
    """There is no proof of that row, or what was given doesn't prove it. The text says why."""


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From row `seq` on, which is `key.rotate`, the key `vkey` seals."""

    seq: _Seq
    vkey: str
    signature: bytes


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row and what proves it. Its JSON is the format above."""

    format: Literal["subak.audit.proof.v1"]
    origin: str
    seq: _Seq
    core: str
    pii_commit: _Hash | None
    pii_seal: _Hash | None
    path: Annotated[tuple[_Hash, ...], msgspec.Meta(max_length=64)]
    checkpoint: str
    rotations: tuple[Rotation, ...]


def prove(reader: LogReader, seq: int, *, size: int | None = None) -> Proof:
    """Prove row `seq` by the checkpoint over `size` rows, or by the first one that covers it.

    Reads the rows from the checkpoint before it to the one that proves it: not on a loop.

    Raises:
        NoProof: the row isn't there or isn't sealed yet, or there is no such checkpoint.
        StoreUnavailable, StoreDamaged: as the store says.
    """
    sealed = _checkpoint_for(reader, seq, size)
    known = _known_before(reader, seq)
    row: Row | None = None
    leaves: list[bytes] = []
    hasher = LeafHasher(reader.origin)
    for one in reader.rows(known.size):
        if one.seq >= sealed.size:
            break
        row = one if one.seq == seq else row
        leaves.append(hasher.leaf(one))
    if row is None or len(leaves) != sealed.size - known.size:
        raise NoProof(f"Rows up to {sealed.size - 1} are missing: run `subak audit verify`.")
    proof = Proof(
        format="subak.audit.proof.v1",
        origin=reader.origin,
        seq=seq,
        core=row.core.decode(errors="replace"),
        pii_commit=row.pii_commit,
        pii_seal=row.pii_seal,
        path=tuple(hash_spans(inclusion_path(seq, sealed.size), known, leaves)),
        checkpoint=sealed.note,
        rotations=tuple(Rotation(*one) for one in reader.rotations() if one.seq < sealed.size),
    )
    if not _leads_to(proof, Checkpoint.parse(sealed.note.partition("\n\n")[0] + "\n")):
        raise NoProof("The rows aren't the ones that were sealed: run `subak audit verify`.")
    return proof


def read_proof(content: bytes) -> Proof:
    """Read a proof's JSON. Raises: NoProof."""
    try:
        return msgspec.json.decode(content, type=Proof)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NoProof(f"It is no proof: {error}.") from error


def check_proof(proof: Proof, first: VerifierKey) -> Checkpoint:
    """Give the checkpoint under which the row stands in the log whose first key is `first`.

    Raises:
        NoProof: it doesn't; the text says which step fails.
    """
    if first.name != proof.origin:
        raise NoProof(f"The proof is of the log {proof.origin}, and the key belongs to {first.name}.")
    try:
        unchecked = Checkpoint.parse(proof.checkpoint.partition("\n\n")[0] + "\n")
        sealed = open_checkpoint(proof.checkpoint, _key_at(proof, first, unchecked.size))
    except (ValueError, BadSignature, OverflowError) as error:
        raise NoProof(f"The proof doesn't hold: {error}.") from error
    if sealed.origin != proof.origin:
        raise NoProof(f"The proof doesn't hold: its checkpoint is of another log, {sealed.origin}.")
    if not _leads_to(proof, sealed):
        raise NoProof("The proof doesn't hold: row and path don't lead to the root that was sealed.")
    return sealed


def _key_at(proof: Proof, first: VerifierKey, size: int) -> VerifierKey:
    key = first
    for rotation in proof.rotations:
        if rotation.seq >= size:
            raise MalformedNote("it names a key rotation that comes after its checkpoint")
        successor = VerifierKey.parse(rotation.vkey)
        check_rotation(key, rotation.seq, successor, rotation.signature)
        key = successor
    return key


def _leads_to(proof: Proof, sealed: Checkpoint) -> bool:
    row = Row(proof.seq, 0, "", None, None, proof.core.encode(), proof.pii_commit, proof.pii_seal, *(None,) * 4)
    leaf = LeafHasher(proof.origin).leaf(row)
    return check_inclusion(leaf, proof.seq, sealed.size, proof.path, sealed.root)


def _checkpoint_for(reader: LogReader, seq: int, size: int | None) -> StoredCheckpoint:
    base = reader.base().size
    if seq < base:
        raise NoProof(f"Row {seq} is past its term and was deleted; the oldest one kept is {base}.")
    if not 0 <= seq < reader.end():
        raise NoProof(f"There is no row {seq}; the newest one is {reader.end() - 1}.")
    sealed = next(reader.checkpoints(seq), None) if size is None else reader.checkpoint_at_most(size)
    if sealed is None:
        raise NoProof(f"Row {seq} isn't sealed yet. Try again in a second, or run `subak audit checkpoint`.")
    if size is not None and (sealed.size != size or size <= seq):
        raise NoProof(f"There is no checkpoint over {size} rows that covers row {seq}.")
    return sealed


def _known_before(reader: LogReader, seq: int) -> CompactRange:
    """Give the tree of the newest checkpoint that ends before the row: what is older needn't be read."""
    stored = reader.checkpoint_at_most(seq)
    size, hashes = reader.base() if stored is None else (stored.size, stored.hashes)
    try:
        return CompactRange.from_bytes(size, hashes)
    except MalformedRange as error:
        raise StoreDamaged(f"The checkpoint over {size} rows lost its hashes: run `subak audit verify`.") from error
