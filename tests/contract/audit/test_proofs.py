"""Inclusion proofs: every row has one, it needs nothing but the first public key, and a changed one fails."""

from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from subak.audit import retention
from subak.audit.proofs import NoProof, Proof, check_proof, prove, read_proof
from tests.audit import TERM_MS, AuditStage, SqlitePlace, end_of


def proof_of(stage: AuditStage, seq: int, size: int | None = None) -> Proof:
    with closing(stage.place.reader(stage.origin)) as reader:
        return prove(reader, seq, size=size)


def test_every_row_is_proven_by_every_checkpoint_that_covers_it(stage: AuditStage) -> None:
    stage.write(9)
    sizes = list(range(1, stage.writer.size + 1))
    with closing(stage.place.reader(stage.origin)) as reader:
        sealed = {one.size for one in reader.checkpoints()}
    for seq in range(stage.writer.size):
        for size in sizes[seq:]:
            if size in sealed:
                proof = read_proof(msgspec.json.encode(proof_of(stage, seq, size)))
                assert check_proof(proof, stage.vkey).size == size


def test_without_a_size_the_first_checkpoint_over_the_row_proves_it(stage: AuditStage) -> None:
    stage.write(5)
    assert check_proof(proof_of(stage, 2), stage.vkey).size == 3


def test_a_proof_holds_across_key_rotations_and_prunings(stage: AuditStage) -> None:
    stage.write(40)
    retention.rotate_key(stage.writer)
    stage.write(3)
    retention.rotate_key(stage.writer)
    stage.clock.jump(100 * 86_400)
    stage.write(10)
    seq = stage.writer.size - 3
    pruned = retention.prune(stage.writer, term_ms=TERM_MS)
    assert pruned is not None
    assert pruned.size > 40
    proof = proof_of(stage, seq)
    assert len(proof.rotations) == 2
    assert check_proof(proof, stage.vkey).size == seq + 1
    with pytest.raises(NoProof, match="past its term"):
        proof_of(stage, 3)


def changed(proof: Proof) -> Iterator[Proof]:
    """Give the proof with each of its parts another one."""
    other = bytes(32)
    yield msgspec.structs.replace(proof, origin="subak/other")
    yield msgspec.structs.replace(proof, seq=proof.seq + 1)
    yield msgspec.structs.replace(proof, core=proof.core.replace("stop", "stip"))
    yield msgspec.structs.replace(proof, pii_commit=other)
    yield msgspec.structs.replace(proof, pii_seal=other)
    yield msgspec.structs.replace(proof, rotations=())
    yield msgspec.structs.replace(proof, path=proof.path[:-1])
    yield msgspec.structs.replace(proof, path=(*proof.path, other))
    for at in range(len(proof.path)):
        yield msgspec.structs.replace(proof, path=(*proof.path[:at], other, *proof.path[at + 1 :]))
    for at, line in enumerate(proof.checkpoint.split("\n")):
        if line:
            middle = len(line) // 2
            letter = "A" if line[middle] != "A" else "B"
            lines = proof.checkpoint.split("\n")
            lines[at] = line[:middle] + letter + line[middle + 1 :]
            yield msgspec.structs.replace(proof, checkpoint="\n".join(lines))


def test_a_proof_with_anything_changed_fails(stage: AuditStage) -> None:
    retention.rotate_key(stage.writer)
    stage.writer.write(end_of())
    stage.write(6)
    proof = proof_of(stage, 2, stage.writer.size)
    check_proof(proof, stage.vkey)
    cases = list(changed(proof))
    assert len(cases) == 8 + len(proof.path) + 4
    for case in cases:
        with pytest.raises(NoProof):
            check_proof(case, stage.vkey)


def test_a_key_that_comes_later_proves_nothing_earlier(stage: AuditStage) -> None:
    stage.write(2)
    proof = proof_of(stage, 1, 3)
    rotated = retention.rotate_key(stage.writer)
    later = proof_of(stage, rotated.seq)
    with pytest.raises(NoProof, match="comes after its checkpoint"):
        check_proof(msgspec.structs.replace(proof, rotations=later.rotations), stage.vkey)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"format":"subak.audit.proof.v2"}'])
def test_what_is_no_proof_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(NoProof, match="no proof"):
        read_proof(content)


def test_a_row_that_isnt_sealed_yet_or_isnt_there_has_no_proof(stage: AuditStage) -> None:
    stage.write(2)
    stage.writer.write(end_of())
    with pytest.raises(NoProof, match="isn't sealed yet"):
        proof_of(stage, 3)
    with pytest.raises(NoProof, match="no row 9"):
        proof_of(stage, 9)
    with pytest.raises(NoProof, match="no checkpoint over 4 rows"):
        proof_of(stage, 1, 4)
    with pytest.raises(NoProof, match="no checkpoint over 1 rows that covers"):
        proof_of(stage, 1, 1)


def test_a_row_that_was_changed_gets_no_proof(stage: AuditStage) -> None:
    stage.write(4)
    stage.place.tamper("UPDATE audit_event SET core = replace(core, 'POST', 'GET') WHERE seq = 2")
    with pytest.raises(NoProof, match="aren't the ones that were sealed"):
        proof_of(stage, 2)
    if isinstance(stage.place, SqlitePlace):
        stage.place.tamper("UPDATE audit_event SET core = CAST(X'FFFE' AS TEXT) WHERE seq = 2")
        with pytest.raises(NoProof, match="aren't the ones that were sealed"):
            proof_of(stage, 2)
    stage.place.tamper("DELETE FROM audit_event WHERE seq = 2")
    with pytest.raises(NoProof, match="missing"):
        proof_of(stage, 2)


def test_another_program_checks_it_by_the_format_alone(stage: AuditStage) -> None:
    """Written from the format's description."""
    stage.write(12)
    retention.rotate_key(stage.writer)
    stage.write(9)
    said = msgspec.json.decode(msgspec.json.encode(proof_of(stage, 7, stage.writer.size)))
    key, vkey = b64decode(str(stage.vkey).split("+", 2)[2])[1:], str(stage.vkey)
    for rotation in said["rotations"]:
        signed = parts(
            b"subak.audit.rotation.v1", said["origin"].encode(), number(rotation["seq"]), rotation["vkey"].encode()
        )
        Ed25519PublicKey.from_public_bytes(key).verify(b64decode(rotation["signature"]), signed)
        vkey = rotation["vkey"]
        key = b64decode(vkey.split("+", 2)[2])[1:]
    text, _, signatures = said["checkpoint"].partition("\n\n")
    _, name, signature = signatures.split()
    assert name == said["origin"] == text.split("\n")[0]
    assert b64decode(signature)[:4].hex() == vkey.split("+")[1]
    Ed25519PublicKey.from_public_bytes(key).verify(b64decode(signature)[4:], (text + "\n").encode())
    size, root = int(text.split("\n")[1]), b64decode(text.split("\n")[2])
    leaf = sha256(
        b"\x00"
        + parts(
            b"subak.audit.leaf.v1",
            said["origin"].encode(),
            number(said["seq"]),
            said["core"].encode(),
            *(None if said[name] is None else b64decode(said[name]) for name in ("pii_commit", "pii_seal")),
        )
    ).digest()
    assert folded(leaf, said["seq"], size, [b64decode(one) for one in said["path"]]) == root


def parts(*given: bytes | None) -> bytes:
    return b"".join(b"\x00" if one is None else b"\x01" + number(len(one)) + one for one in given)


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def folded(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 9162 §2.1.3.2."""
    fn, sn, found = index, size - 1, leaf
    for sibling in path:
        assert sn != 0
        if fn & 1 or fn == sn:
            found = sha256(b"\x01" + sibling + found).digest()
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = sha256(b"\x01" + found + sibling).digest()
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return found
