"""Signed notes and checkpoints as text: what is written is read back, and no other spelling is."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.notes import Checkpoint, MalformedNote, Note, Signature, VerifierKey

NAME = "subak/0123456789abcdef"
ROOT = bytes(range(32))
CHECKPOINT = Checkpoint(NAME, 1742, ROOT)
KEY = VerifierKey(NAME, bytes(range(32, 64)))
NOTE = Note(str(CHECKPOINT), (Signature(NAME, KEY.key_id, bytes(64)),))


def test_a_checkpoint_is_three_lines() -> None:
    assert str(CHECKPOINT) == f"{NAME}\n1742\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def test_a_note_is_its_text_an_empty_line_and_signatures() -> None:
    encoded = b64encode(KEY.key_id + bytes(64)).decode()
    assert str(NOTE) == f"{CHECKPOINT}\n— {NAME} {encoded}\n"


def test_all_are_read_back() -> None:
    assert Checkpoint.parse(str(CHECKPOINT)) == CHECKPOINT
    assert VerifierKey.parse(str(KEY)) == KEY
    assert Note.parse(str(NOTE)) == NOTE
    several = NOTE._replace(signatures=(*NOTE.signatures, Signature("witness", bytes(4), bytes(64))))
    assert Note.parse(str(several)) == several


@given(at=st.integers(0, 400), bit=st.integers(0, 7))
def test_another_spelling_is_another_note_or_none(at: int, bit: int) -> None:
    content = str(NOTE).encode()
    at %= len(content)
    changed = (content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]).decode("utf-8", "replace")
    try:
        found = Note.parse(changed)
        checkpoint = Checkpoint.parse(found.text)
    except MalformedNote:
        return
    assert (found, checkpoint) != (NOTE, CHECKPOINT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        str(CHECKPOINT)[:-1],
        str(CHECKPOINT) + "extension\n",
        str(CHECKPOINT).replace("1742", "01742"),
        str(CHECKPOINT).replace("1742", "-1"),
        str(CHECKPOINT).replace("1742", "٣"),
        str(CHECKPOINT).replace("=", ""),
        str(CHECKPOINT).replace("8=", "9="),
        str(CHECKPOINT).replace(NAME, "two words"),
        f"{NAME}\n3\nAAAA\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "word",
    [
        "",
        NAME,
        f"{NAME}+00000000+AA==",
        str(KEY).replace("+", "+0", 1),
        str(KEY)[:-4],
        str(KEY).replace(NAME, "other"),
        f"{NAME}+{KEY.key_id.hex()}+AgECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
    ],
)
def test_what_is_no_key_is_refused(word: str) -> None:
    with pytest.raises(MalformedNote):
        VerifierKey.parse(word)


@pytest.mark.parametrize(
    "note", ["", "text\n", "text\n\n", "text\n\n— name\n", "text\n\n- name AAAA\n", str(NOTE) + "\n"]
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(MalformedNote):
        Note.parse(note)
