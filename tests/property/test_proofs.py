"""Whatever is handed in as a proof is judged, never a crash; and no change of a good one's JSON goes through."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.audit import retention
from subak.audit.proofs import NoProof, Proof, check_proof, prove, read_proof
from subak.core.notes import VerifierKey
from tests.audit import AuditStage, SqlitePlace


class Good:
    """A proof that holds, and the key that it holds under."""

    def __init__(self, folder: Path) -> None:
        stage = AuditStage(SqlitePlace(folder), folder)
        stage.write(6)
        retention.rotate_key(stage.writer)
        stage.write(6)
        with closing(stage.place.reader(stage.origin)) as reader:
            self.proof = prove(reader, 9, size=stage.writer.size)
        stage.close()
        self.vkey: VerifierKey = stage.vkey
        self.content = msgspec.json.encode(self.proof)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return Good(tmp_path_factory.mktemp("log"))


def holds(content: bytes, vkey: VerifierKey) -> Proof | None:
    """Give the proof if it is one and holds."""
    try:
        proof = read_proof(content)
        check_proof(proof, vkey)
    except NoProof:
        return None
    return proof


@given(content=st.binary(max_size=200))
def test_bytes_are_no_proof(good: Good, content: bytes) -> None:
    assert holds(content, good.vkey) is None


@given(at=st.integers(0), other=st.binary(max_size=3), width=st.integers(0, 4))
def test_a_proof_whose_json_was_changed_says_the_same_or_fails(good: Good, at: int, other: bytes, width: int) -> None:
    at %= len(good.content)
    found = holds(good.content[:at] + other + good.content[at + width :], good.vkey)
    assert found in {None, good.proof}


@given(
    member=st.sampled_from(["origin", "core", "checkpoint", "seq", "vkey"]),
    text=st.text() | st.sampled_from(["9" * 5000, "subak/x\n" + "9" * 5000 + "\nAAAA\n\n"]),
    number=st.integers(0, 2**62 - 1),
)
def test_a_proof_with_another_member_fails(good: Good, member: str, text: str, number: int) -> None:
    said = msgspec.json.decode(good.content)
    if member == "vkey":
        said["rotations"][0]["vkey"] = text
    else:
        said[member] = number if member == "seq" else text
    found = holds(msgspec.json.encode(said), good.vkey)
    assert found in {None, good.proof}
