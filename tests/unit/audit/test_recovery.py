"""What a killed process left open is written by the next one, once."""

from functools import partial

from subak.audit.recovery import recover
from subak.core.facts import Person, Refused, StreamEnded, StreamOpened
from subak.testing import PATIENCE_S
from tests.trail import Entry, name_of
from tests.unit.audit.conftest import Desk, DeskMaker

MAX_AGE_S = 1800.0
LIMITED = Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "chat", Person("user:42", address="192.0.2.1"))


def begin(desk: Desk, *stream_ids: str) -> None:
    for stream_id in stream_ids:
        desk.recorder.begin(StreamOpened(stream_id, "c", "GET chat-stream", Person("user:42")))


def end(desk: Desk, stream_id: str) -> None:
    desk.hears(StreamEnded(stream_id, "c", "GET chat-stream", "stop", "", 1, 1, 1.0, 1.0))


def recovered(desk: Desk) -> list[Entry]:
    """Recover; give the rows that this wrote."""
    before = len(desk.rows())
    desk.log.perform(partial(recover, max_age_s=MAX_AGE_S)).result(PATIENCE_S)
    return desk.rows()[before:]


def test_a_stream_that_began_and_did_not_end_is_interrupted(open_desk: DeskMaker) -> None:
    with open_desk() as killed:
        killed.recorder.open(version="1", store="sqlite")
        begin(killed, "st_a", "st_b", "st_c")
        end(killed, "st_b")
    with open_desk() as following:
        rows = recovered(following)
        assert {row.row.stream for row in rows} == {name_of(following.directory, name) for name in ("st_a", "st_c")}
        assert {(row.operation, row.core["outcome"]) for row in rows} == {("stream.end", "interrupted")}


def test_what_was_recovered_is_not_recovered_again(open_desk: DeskMaker) -> None:
    with open_desk() as killed:
        begin(killed, "st_a")
        killed.hears(LIMITED)
    with open_desk() as killed_at_once:
        assert len(recovered(killed_at_once)) == 2
    with open_desk() as following:
        assert recovered(following) == []


def test_after_a_process_that_said_goodbye_there_is_nothing_to_do(open_desk: DeskMaker) -> None:
    with open_desk() as gone:
        gone.recorder.open(version="1", store="sqlite")
        begin(gone, "st_a")
        gone.hears(LIMITED)
        gone.recorder.close()
    with open_desk() as following:
        assert recovered(following) == []


def test_many_streams_are_recovered(open_desk: DeskMaker) -> None:
    with open_desk() as killed:
        begin(killed, *(f"st_{number}" for number in range(700)))
    with open_desk() as following:
        assert len(recovered(following)) == 700


def test_a_stream_too_old_to_have_been_alive_is_not_looked_for(open_desk: DeskMaker) -> None:
    with open_desk() as killed:
        begin(killed, "st_a")
        killed.clock.advance(2 * MAX_AGE_S + 1)
        begin(killed, "st_b")
    with open_desk() as following:
        (row,) = recovered(following)
        assert row.row.stream == name_of(following.directory, "st_b")


def test_refusals_that_were_still_counted_are_at_least_one(open_desk: DeskMaker) -> None:
    with open_desk() as killed:
        killed.hears(LIMITED, LIMITED)
        killed.clock.advance(10)
        killed.hears(LIMITED, LIMITED, LIMITED)
    with open_desk() as following:
        (row,) = recovered(following)
        assert row.operation == "security.rate_limit_violation"
        assert row.said == {
            "outcome": "refused",
            "policy": "chat",
            "code": "rate_limit_exceeded",
            "status": 429,
            "count": 1,
            "is_lower_bound": True,
        }
        assert row.personal is not None
        assert (row.personal.subject, row.personal.address) == ("user:42", "192.0.2.1")
