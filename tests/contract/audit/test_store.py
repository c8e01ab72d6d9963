"""What every store of the audit log must do (`subak.audit.store`)."""

from collections.abc import Iterator

import pytest

from subak.audit.errors import LogInUse, StoreDamaged
from subak.audit.records import Row
from subak.audit.store import Batch, LogStore, Query, StoredBase, StoredCheckpoint, StoredRotation
from subak.core.merkle import CompactRange, Span, leaf_hash
from tests.audit import Place

ORIGIN = "subak/contract"


def row(seq: int, *, operation: str = "stream.end", subject: bytes | None = None, stream: str | None = None) -> Row:
    outcome = "stop" if operation == "stream.end" else None
    personal = (None,) * 6 if subject is None else (b"c" * 32, b"s" * 32, subject, b"address", b"n" * 12, b"content")
    return Row(seq, 1000 + seq, operation, outcome, stream, f'{{"seq":{seq},"text":"é"}}'.encode(), *personal)


@pytest.fixture
def store(place: Place) -> Iterator[LogStore]:
    store = place.store(ORIGIN)
    yield store
    store.close()


def test_a_new_log_is_empty(store: LogStore) -> None:
    assert (store.origin, store.end(), store.base()) == (ORIGIN, 0, StoredBase(0, b""))
    assert list(store.rows(0)) == []
    assert store.checkpoint_at_most(10) is None


def test_rows_come_back_byte_for_byte(store: LogStore) -> None:
    rows = [row(0), row(1, subject=b"\x00\xff" * 16, stream="name")]
    store.append(Batch(rows))
    assert list(store.rows(0)) == rows
    assert store.end() == 2


def test_more_rows_than_one_page_come_in_order(store: LogStore) -> None:
    rows = [row(seq) for seq in range(4001)]
    store.append(Batch(rows))
    assert list(store.rows(1)) == rows[1:]
    assert [found.seq for found in store.search(Query(limit=3000, is_newest_first=True))] == list(range(4000, 1000, -1))


def test_a_batch_is_stored_whole_or_not_at_all(store: LogStore) -> None:
    store.append(Batch([row(0)]))
    with pytest.raises(StoreDamaged):
        store.append(Batch([row(1), row(0)], StoredCheckpoint(2, "note", b"")))
    assert store.end() == 1
    assert store.checkpoint_at_most(10) is None


def test_a_batch_brings_its_checkpoint_and_certificate(store: LogStore) -> None:
    checkpoint, rotation = StoredCheckpoint(1, "note", b"hashes"), StoredRotation(0, "vkey", b"signature")
    store.append(Batch([row(0)], checkpoint, rotation))
    assert list(store.checkpoints()) == [checkpoint]
    assert list(store.checkpoints(after=1)) == []
    assert store.rotations() == [rotation]


def test_a_second_writer_is_refused(store: LogStore, place: Place) -> None:
    assert store.end() == 0
    with pytest.raises(LogInUse, match="nother process writes"):
        place.store(ORIGIN)


def test_the_log_is_free_once_its_writer_has_gone(place: Place) -> None:
    place.store(ORIGIN).close()
    place.store(ORIGIN).close()


def test_a_reader_sees_one_moment_beside_the_writer(store: LogStore, place: Place) -> None:
    store.append(Batch([row(0)]))
    reader = place.reader(ORIGIN)
    try:
        assert reader.end() == 1
        store.append(Batch([row(1)]))
        assert [found.seq for found in reader.rows(0)] == [0]
    finally:
        reader.close()
    assert store.end() == 2


def test_redaction_takes_the_personal_columns_of_these_rows_only(store: LogStore) -> None:
    rows = [row(seq, subject=bytes([seq]) * 32) for seq in range(4)]
    store.append(Batch(rows))
    store.redact([Span(1, 2), Span(3, 4)])
    store.redact([Span(1, 2)])
    found = list(store.rows(0))
    assert [one.is_redacted for one in found] == [False, True, False, True]
    assert [(one.core, one.pii_commit, one.pii_seal) for one in found] == [
        (one.core, one.pii_commit, one.pii_seal) for one in rows
    ]


def test_pruning_keeps_what_follows_and_the_base(store: LogStore) -> None:
    tree = CompactRange()
    for seq in range(3):
        tree.append(leaf_hash(bytes([seq])))
    store.append(Batch([row(seq) for seq in range(5)], StoredCheckpoint(3, "note", tree.to_bytes())))
    store.append(Batch(checkpoint=StoredCheckpoint(2, "older", b"")))
    store.prune(tree)
    store.prune(tree)
    assert [one.seq for one in store.rows(0)] == [3, 4]
    assert store.base() == StoredBase(3, tree.to_bytes())
    assert [one.size for one in store.checkpoints()] == [3]
    store.scrub()
    store.prune(CompactRange(7, tree.hashes + tree.hashes[:1]))
    assert (store.end(), store.base().size) == (7, 7)


def test_the_newest_checkpoint_below_a_size_is_found(store: LogStore) -> None:
    for size in (2, 5, 9):
        store.append(Batch(checkpoint=StoredCheckpoint(size, f"note {size}", b"")))
    assert [getattr(store.checkpoint_at_most(size), "size", None) for size in (1, 2, 8, 9, 100)] == [None, 2, 5, 9, 9]


def test_the_first_row_that_isnt_older_is_found(store: LogStore) -> None:
    store.append(Batch([row(seq) for seq in range(3)]))
    assert [store.first_since(time_ms) for time_ms in (0, 1001, 1003)] == [0, 1, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [0, 1, 2, 3]),
        (Query(operations=("stream.start",)), [0, 2]),
        (Query(outcome="stop"), [1, 3]),
        (Query(stream="a"), [0, 1]),
        (Query(subjects=(b"p", b"q")), [0, 2]),
        (Query(subjects=()), []),
        (Query(addresses=(b"address",), since_ms=1001), [2]),
        (Query(until_ms=1002), [0, 1]),
        (Query(after_seq=1, limit=1), [2]),
        (Query(after_seq=2, is_newest_first=True), [1, 0]),
        (Query(operations=("stream.start", "stream.end"), stream="b", outcome="stop"), [3]),
    ],
)
def test_a_search_gives_the_rows_asked_for(store: LogStore, query: Query, expected: list[int]) -> None:
    store.append(
        Batch(
            [
                row(0, operation="stream.start", subject=b"p", stream="a"),
                row(1, stream="a"),
                row(2, operation="stream.start", subject=b"q", stream="b"),
                row(3, stream="b"),
            ]
        )
    )
    assert [one.seq for one in store.search(query)] == expected
