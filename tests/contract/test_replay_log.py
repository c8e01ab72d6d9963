"""What every replay log and store must do (`subak.replay.base`; PROTOCOL §1, §4, I1, I3, I4, I6, I15)."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from subak.core.envelope import (
    StreamMetrics,
    done_event,
    encode_frames,
    error_event,
    metadata_event,
    to_json,
    token_event,
)
from subak.core.errors import BudgetExhausted, CursorExpired, ErrorCode, KeyReused
from subak.core.events import EVENT_OVERHEAD_BYTES, SOURCES, Event, Failed, FinishReason
from subak.replay.base import (
    Batch,
    Created,
    IdempotencyKey,
    Known,
    LogClosed,
    StreamLog,
    StreamMeta,
    Tombstone,
)
from tests.contract.conftest import OpenStore, StoreUnderTest
from tests.stage import Terms
from tests.wire import transcribe

KEY = IdempotencyKey(digest=b"key", fingerprint=b"question")
SAME_KEY_OTHER_QUESTION = IdempotencyKey(digest=b"key", fingerprint=b"other question")


def stream_id(number: int) -> str:
    return f"st_{number:028d}"


def meta(number: int = 1, owner: str = "") -> StreamMeta:
    return StreamMeta(stream_id(number), owner, 1_795_359_600_000)


def metadata(number: int = 1) -> Event:
    return metadata_event(stream_id(number), "c_contract", 1_795_359_600_000)


def token(text: str) -> Event:
    return token_event(text, 1_795_359_600_100)


def done(reason: FinishReason = FinishReason.STOP) -> Event:
    return done_event(reason, StreamMetrics(None, 0, 0, 1.0), None, 1_795_359_600_200)


def failed(code: ErrorCode = ErrorCode.UPSTREAM_ERROR) -> Event:
    return error_event(Failed(code, "contract"), "c_contract", 1_795_359_600_200)


def size_of(*events: Event) -> int:
    return sum(len(event.data) + EVENT_OVERHEAD_BYTES for event in events)


class RecordingReader:
    """Keeps its batches, and what the log said of itself meanwhile."""

    def __init__(self, log: StreamLog) -> None:
        self.batches: list[tuple[int, Batch]] = []
        self.last_seqs: list[int] = []
        self.on_next: Callable[[], None] = lambda: None
        self._log = log

    @property
    def frames(self) -> bytes:
        return b"".join(batch.frames for _, batch in self.batches)

    def on_batch(self, first_seq: int, batch: Batch) -> None:
        self.batches.append((first_seq, batch))
        self.last_seqs.append(self._log.last_seq)
        self.on_next()


async def create(under_test: StoreUnderTest, number: int = 1, key: IdempotencyKey | None = None) -> StreamLog:
    """Make a log with its metadata event, as a publisher does."""
    creation = await under_test.store.create(meta(number), key)
    assert isinstance(creation, Created)
    creation.log.append((metadata(number),))
    await under_test.settle()
    return creation.log


async def append(under_test: StoreUnderTest, log: StreamLog, *events: Event) -> None:
    log.append(events)
    await under_test.settle()


async def find_log(under_test: StoreUnderTest, number: int = 1) -> StreamLog:
    found = await under_test.store.find(stream_id(number))
    assert found is not None
    assert not isinstance(found, Tombstone)
    return found


async def find_tombstone(under_test: StoreUnderTest, number: int = 1) -> Tombstone:
    found = await under_test.store.find(stream_id(number))
    assert isinstance(found, Tombstone)
    return found


async def read_all(log: StreamLog, max_bytes: int) -> list[Batch]:
    batches: list[Batch] = []
    after = 0
    while after < log.last_seq:
        batches.append(await log.read(after, max_bytes))
        after = batches[-1].last_seq
    return batches


# The log: append and read


async def test_a_new_log_is_empty(under_test: StoreUnderTest) -> None:
    creation = await under_test.store.create(meta(owner="ann"), None)
    assert isinstance(creation, Created)
    log = creation.log
    assert log.meta == meta(owner="ann")
    assert (log.last_seq, log.is_ended, log.size_bytes) == (0, False, 0)
    assert await log.events() == ()


async def test_events_are_kept_in_order_and_counted_from_one(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"), token("b"))
    await append(under_test, log, token("c"))
    assert log.last_seq == 4
    assert tuple(await log.events()) == (metadata(), token("a"), token("b"), token("c"))


async def test_append_tells_how_much_is_not_safe_yet(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    assert 0 <= log.append((token("a"),)) <= size_of(token("a"))


async def test_the_terminal_event_ends_the_log(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    was_ended = log.is_ended
    await append(under_test, log, token("a"), done())
    assert (was_ended, log.is_ended, log.last_seq) == (False, True, 3)


@pytest.mark.parametrize("ending", [done(), failed()], ids=["done", "error"])
async def test_nothing_is_appended_after_the_terminal_event(under_test: StoreUnderTest, ending: Event) -> None:
    log = await create(under_test)
    await append(under_test, log, ending)
    for late in (token("late"), done(), failed()):
        with pytest.raises(LogClosed):
            log.append((late,))
    await under_test.settle()
    assert tuple(await log.events()) == (metadata(), ending)


async def test_sizes_count_data_and_overhead(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    events = [metadata(), token("a" * 1000), token("é"), done()]
    await append(under_test, log, *events[1:])
    assert log.size_bytes == size_of(*events)
    assert [log.size_after(seq) for seq in range(5)] == [size_of(*events[seq:]) for seq in range(5)]


async def test_a_read_gives_frames_from_the_cursor_on(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"), token("b"), done())
    batch = await log.read(1, 1 << 20)
    assert transcribe(batch.frames) == ['2 token "a"', '3 token "b"', "4 done stop"]
    assert batch.frames == encode_frames(log.head, 2, [token("a"), token("b"), done()])
    assert (batch.last_seq, batch.size_bytes, batch.is_end) == (4, size_of(token("a"), token("b"), done()), True)


async def test_a_read_that_stops_before_the_terminal_event_is_not_the_end(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"), done())
    batch = await log.read(0, size_of(metadata(), token("a")))
    assert (batch.last_seq, batch.is_end) == (2, False)


async def test_a_read_gives_one_event_at_least_and_more_while_they_fit(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"), token("b"), token("c"))
    two = size_of(token("a"), token("b"))
    assert [(await log.read(1, max_bytes)).last_seq for max_bytes in (0, 1, two - 1, two, two + 1)] == [2, 2, 2, 3, 3]


@pytest.mark.parametrize("max_bytes", [1, 500, 2000, 1 << 20])
async def test_reading_in_batches_gives_every_frame_once(under_test: StoreUnderTest, max_bytes: int) -> None:
    log = await create(under_test)
    events = [token("x" * (number * 37 % 900)) for number in range(40)]
    await append(under_test, log, *events, done())
    batches = await read_all(log, max_bytes)
    assert b"".join(batch.frames for batch in batches) == encode_frames(log.head, 1, [metadata(), *events, done()])
    assert sum(batch.size_bytes for batch in batches) == log.size_bytes
    assert [batch.is_end for batch in batches] == [False] * (len(batches) - 1) + [True]


# The log: hand-over to readers at the tail


async def test_readers_get_what_becomes_safe_after_they_have_subscribed(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"))
    reader = RecordingReader(log)
    log.subscribe(reader)
    await append(under_test, log, token("b"), token("c"))
    await append(under_test, log, done())
    assert transcribe(reader.frames) == ['3 token "b"', '4 token "c"', "5 done stop"]
    assert sum(batch.size_bytes for _, batch in reader.batches) == log.size_after(2)


async def test_batches_are_consecutive_and_only_the_last_one_is_the_end(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    reader = RecordingReader(log)
    log.subscribe(reader)
    for number in range(10):
        await append(under_test, log, *[token(str(number))] * (number % 3 + 1))
    await append(under_test, log, token("z"), done())
    following = 2
    for first_seq, batch in reader.batches:
        assert first_seq == following
        following = batch.last_seq + 1
    assert following == log.last_seq + 1
    assert [batch.is_end for _, batch in reader.batches] == [False] * (len(reader.batches) - 1) + [True]


async def test_live_and_replayed_frames_are_the_same_bytes(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    reader = RecordingReader(log)
    log.subscribe(reader)
    await append(under_test, log, token("a\u2028\x00"), token("b\r\n"))
    await append(under_test, log, done())
    assert reader.frames == (await log.read(1, 1 << 20)).frames


async def test_every_reader_gets_every_batch(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    readers = [RecordingReader(log) for _ in range(3)]
    for reader in readers:
        log.subscribe(reader)
    await append(under_test, log, token("a"), token("b"))
    await append(under_test, log, done())
    assert readers[0].frames
    assert readers[0].batches == readers[1].batches == readers[2].batches


async def test_no_reader_sees_an_event_that_the_log_does_not_hold(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    reader = RecordingReader(log)
    log.subscribe(reader)
    await append(under_test, log, token("a"), token("b"))
    await append(under_test, log, done())
    assert all(held >= batch.last_seq for held, (_, batch) in zip(reader.last_seqs, reader.batches, strict=True))


async def test_a_reader_that_has_unsubscribed_hears_nothing_more(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    gone, staying = RecordingReader(log), RecordingReader(log)
    log.subscribe(gone)
    log.subscribe(staying)
    log.unsubscribe(gone)
    log.unsubscribe(gone)
    await append(under_test, log, token("a"))
    assert gone.batches == []
    assert len(staying.batches) == 1


async def test_a_reader_may_unsubscribe_while_it_is_called(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    leaving, staying = RecordingReader(log), RecordingReader(log)
    leaving.on_next = lambda: log.unsubscribe(leaving)
    log.subscribe(leaving)
    log.subscribe(staying)
    await append(under_test, log, token("a"))
    await append(under_test, log, token("b"))
    assert transcribe(leaving.frames) == ['2 token "a"']
    assert transcribe(staying.frames) == ['2 token "a"', '3 token "b"']


# The store: finding, sweeping


async def test_a_stream_is_found_by_its_id_and_by_no_other(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"))
    found = await find_log(under_test)
    assert found.meta == meta()
    assert (await found.read(0, 1 << 20)).frames == (await log.read(0, 1 << 20)).frames
    assert await under_test.store.find(stream_id(2)) is None


async def test_streams_do_not_mix(under_test: StoreUnderTest) -> None:
    first, second = await create(under_test, 1), await create(under_test, 2)
    await append(under_test, first, token("a"), done())
    await append(under_test, second, token("b"))
    assert tuple(await (await find_log(under_test, 2)).events()) == (metadata(2), token("b"))
    assert not second.is_ended


async def test_an_ended_log_is_kept_whole_for_the_replay_window(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, token("a"), done())
    await under_test.pass_time(298)
    assert (await find_log(under_test)).last_seq == 3


async def test_a_tombstone_tells_how_the_stream_ended_and_what_it_said(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    sources = Event(SOURCES, to_json([]), 1)
    await append(under_test, log, token("Ciao "), sources, token("bella\u2028"), done())
    await under_test.pass_time(302)
    tombstone = await find_tombstone(under_test)
    assert tombstone.meta == meta()
    assert (tombstone.last_seq, tombstone.ending) == (5, done())
    assert tombstone.text == "Ciao bella\u2028".encode()


async def test_a_tombstone_is_gone_after_its_time(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await append(under_test, log, done())
    await under_test.pass_time(300 + 3590)
    await find_tombstone(under_test)
    await under_test.pass_time(15)
    assert await under_test.store.find(stream_id(1)) is None


async def test_a_live_log_is_never_swept(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await under_test.pass_time(10_000)
    await append(under_test, log, token("a"))
    assert (await find_log(under_test)).last_seq == 2


async def test_the_replay_window_begins_with_the_end(under_test: StoreUnderTest) -> None:
    log = await create(under_test)
    await under_test.pass_time(1000)
    await append(under_test, log, done())
    await under_test.pass_time(290)
    assert (await find_log(under_test)).is_ended


# The store: the budget in bytes


async def fill(under_test: StoreUnderTest, number: int, size_bytes: int, *, is_ended: bool) -> StreamLog:
    """Make a log that takes exactly that much memory, all of it text but for the overheads."""
    log = await create(under_test, number)
    ending = (done(),) if is_ended else ()
    rest = size_bytes - size_of(metadata(number), token(""), *ending)
    await append(under_test, log, token("x" * rest), *ending)
    assert log.size_bytes == size_bytes
    return log


async def kinds(under_test: StoreUnderTest, numbers: Sequence[int]) -> list[str]:
    """Give what is left of streams: `log`, `text` or `stone`."""
    found = [await under_test.store.find(stream_id(number)) for number in numbers]
    assert None not in found
    return ["log" if not isinstance(item, Tombstone) else "stone" if item.text is None else "text" for item in found]


async def test_the_oldest_ended_logs_make_room_first_and_leave_their_text(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    for number in (1, 2, 3):
        await fill(under_test, number, 3000, is_ended=True)
    assert await kinds(under_test, (1, 2, 3)) == ["log", "log", "log"]
    await fill(under_test, 4, 1500, is_ended=False)
    assert await kinds(under_test, (1, 2, 3, 4)) == ["text", "log", "log", "log"]


async def test_ended_means_ended_first_not_begun_first(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    early = await fill(under_test, 1, 3000, is_ended=False)
    await fill(under_test, 2, 3000, is_ended=True)
    await append(under_test, early, done())
    await fill(under_test, 3, 4000, is_ended=False)
    assert await kinds(under_test, (1, 2, 3)) == ["log", "text", "log"]


async def test_texts_make_room_when_no_ended_log_is_left(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    for number in (1, 2):
        await fill(under_test, number, 3000, is_ended=True)
    await fill(under_test, 3, 7000, is_ended=False)
    assert await kinds(under_test, (1, 2, 3)) == ["stone", "text", "log"]
    assert (await find_tombstone(under_test, 1)).ending == done()


async def test_a_live_log_is_never_cut_for_memorys_sake(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    await fill(under_test, 1, 3000, is_ended=True)
    live = await fill(under_test, 2, 12_000, is_ended=False)
    await append(under_test, live, token("more"))
    assert live.last_seq == 3
    assert tuple(await live.events())[2] == token("more")
    assert await kinds(under_test, (1, 2)) == ["stone", "log"]


async def test_new_streams_are_refused_when_live_logs_take_all_memory(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    live = await fill(under_test, 1, 10_001, is_ended=False)
    with pytest.raises(BudgetExhausted) as caught:
        await under_test.store.create(meta(2), KEY)
    assert caught.value.retry_after_s is not None
    assert await under_test.store.find(stream_id(2)) is None
    assert await under_test.store.lookup_key(KEY) is None
    await append(under_test, live, done())
    assert isinstance(await under_test.store.create(meta(2), KEY), Created)


async def test_no_new_stream_is_refused_while_an_ended_log_could_make_room(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    await fill(under_test, 1, 4000, is_ended=True)
    await fill(under_test, 2, 6000, is_ended=False)
    assert isinstance(await under_test.store.create(meta(3), None), Created)


async def test_a_log_that_made_room_can_still_be_read_by_who_has_it(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    log = await fill(under_test, 1, 3000, is_ended=True)
    await fill(under_test, 2, 8000, is_ended=False)
    await find_tombstone(under_test, 1)
    assert (await log.read(1, 1 << 20)).is_end


async def test_what_was_swept_gives_its_memory_back(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(budget_bytes=10_000))
    for number in range(1, 6):
        await fill(under_test, number, 9000, is_ended=True)
        await under_test.pass_time(300 + 3600 + 3)
    await fill(under_test, 6, 9000, is_ended=True)
    assert await kinds(under_test, (6,)) == ["log"]


# The store: idempotency keys


async def test_a_key_that_was_never_used_is_unknown(under_test: StoreUnderTest) -> None:
    assert await under_test.store.lookup_key(KEY) is None


async def test_the_same_key_and_question_attach(under_test: StoreUnderTest) -> None:
    await create(under_test, 1, KEY)
    assert await under_test.store.lookup_key(KEY) == stream_id(1)
    assert await under_test.store.create(meta(2), KEY) == Known(stream_id(1))
    assert await under_test.store.find(stream_id(2)) is None


async def test_the_same_key_with_another_question_is_refused(under_test: StoreUnderTest) -> None:
    await create(under_test, 1, KEY)
    with pytest.raises(KeyReused):
        await under_test.store.lookup_key(SAME_KEY_OTHER_QUESTION)
    with pytest.raises(KeyReused):
        await under_test.store.create(meta(2), SAME_KEY_OTHER_QUESTION)
    assert await under_test.store.find(stream_id(2)) is None


async def test_of_simultaneous_creations_with_one_key_exactly_one_creates(under_test: StoreUnderTest) -> None:
    creations = await asyncio.gather(*[under_test.store.create(meta(number), KEY) for number in range(1, 11)])
    created = [creation for creation in creations if isinstance(creation, Created)]
    assert len(created) == 1
    known = {creation.stream_id for creation in creations if isinstance(creation, Known)}
    assert known == {created[0].log.meta.stream_id}


async def test_creations_without_key_have_nothing_in_common(under_test: StoreUnderTest) -> None:
    for number in (1, 2):
        assert isinstance(await under_test.store.create(meta(number), None), Created)


ONE_TOKEN = (token("a"),)
SOURCES_ONLY = (Event(SOURCES, to_json([{"source": "a"}]), 1),)


@pytest.mark.parametrize(
    ("events", "ending", "may_be_asked_again"),
    [
        ((), None, False),
        ((), failed(), True),
        ((), failed(ErrorCode.UPSTREAM_TIMEOUT), True),
        ((), failed(ErrorCode.PRODUCER_LOST), True),
        (SOURCES_ONLY, failed(), True),
        (ONE_TOKEN, failed(), False),
        ((), failed(ErrorCode.EVENT_TOO_LARGE), False),
        ((), failed(ErrorCode.TOO_LONG), False),
        ((), done(), False),
        ((), done(FinishReason.CANCELLED), False),
        ((), done(FinishReason.ABANDONED), False),
        (ONE_TOKEN, done(), False),
    ],
    ids=lambda value: None if isinstance(value, bool) else _name(value),
)
async def test_a_key_is_free_again_only_after_a_retryable_failure_without_a_token(
    under_test: StoreUnderTest, events: tuple[Event, ...], ending: Event | None, *, may_be_asked_again: bool
) -> None:
    log = await create(under_test, 1, KEY)
    if said := (*events, *([ending] if ending else [])):
        await append(under_test, log, *said)
    assert (await under_test.store.lookup_key(KEY) is None) == may_be_asked_again
    creation = await under_test.store.create(meta(2), KEY)
    assert isinstance(creation, Created) == may_be_asked_again
    assert await under_test.store.lookup_key(KEY) == stream_id(2 if may_be_asked_again else 1)


def _name(value: object) -> str:
    if isinstance(value, Event):
        return value.data.split(b'"')[3].decode()
    return "live" if value is None else "sources" if value is SOURCES_ONLY else "token" if value else "nothing"


async def test_a_key_stays_bound_to_its_question_when_it_is_free_again(under_test: StoreUnderTest) -> None:
    log = await create(under_test, 1, KEY)
    await append(under_test, log, failed())
    with pytest.raises(KeyReused):
        await under_test.store.create(meta(2), SAME_KEY_OTHER_QUESTION)


@pytest.mark.parametrize("ending", [done(), failed()], ids=["done", "error"])
async def test_a_key_outlives_its_log_and_is_no_new_question_then(under_test: StoreUnderTest, ending: Event) -> None:
    log = await create(under_test, 1, KEY)
    await append(under_test, log, ending)
    await under_test.pass_time(302)
    await find_tombstone(under_test)
    assert await under_test.store.lookup_key(KEY) == stream_id(1)
    assert await under_test.store.create(meta(2), KEY) == Known(stream_id(1))


async def test_a_key_outlives_its_tombstone_and_has_expired_then(under_test: StoreUnderTest) -> None:
    """PROTOCOL §4: a key that outlives its log answers 410, never a new question."""
    log = await create(under_test, 1, KEY)
    await append(under_test, log, token("a"), done())
    await under_test.pass_time(300 + 3600 + 5)
    assert await under_test.store.find(stream_id(1)) is None
    with pytest.raises(CursorExpired) as caught:
        await under_test.store.lookup_key(KEY)
    assert caught.value.members == {"status_url": f"/v1/streams/{stream_id(1)}"}
    with pytest.raises(CursorExpired):
        await under_test.store.create(meta(2), KEY)
    with pytest.raises(KeyReused):
        await under_test.store.lookup_key(SAME_KEY_OTHER_QUESTION)


async def test_a_key_is_forgotten_after_a_day(under_test: StoreUnderTest) -> None:
    log = await create(under_test, 1, KEY)
    await append(under_test, log, done())
    await under_test.pass_time(86_390)
    with pytest.raises(KeyReused):
        await under_test.store.lookup_key(SAME_KEY_OTHER_QUESTION)
    await under_test.pass_time(15)
    assert await under_test.store.lookup_key(KEY) is None
    assert isinstance(await under_test.store.create(meta(2), SAME_KEY_OTHER_QUESTION), Created)


async def test_keys_are_bounded_and_the_oldest_go_first(open_store: OpenStore) -> None:
    under_test = await open_store(Terms(max_keys=3))
    keys = [IdempotencyKey(bytes([number]), b"question") for number in range(5)]
    for number, key in enumerate(keys[:3]):
        await append(under_test, await create(under_test, number, key), failed())
    await create(under_test, 10, keys[0])
    await create(under_test, 3, keys[3])
    assert [await under_test.store.create(meta(20), key) for key in (keys[0], keys[3])] == [
        Known(stream_id(10)),
        Known(stream_id(3)),
    ]
    await create(under_test, 4, keys[4])
    with pytest.raises(KeyReused):
        await under_test.store.lookup_key(IdempotencyKey(keys[0].digest, b"other"))
    for forgotten in keys[1:3]:
        assert await under_test.store.lookup_key(IdempotencyKey(forgotten.digest, b"other")) is None
