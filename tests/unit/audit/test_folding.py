"""A flood of refusals is recorded by its first and by its number, in bounded memory."""

from collections import Counter

from subak.audit.folding import MAX_WINDOWS, WINDOW_S, Folding, Kind
from subak.audit.operations import Operation
from subak.audit.records import Record, check_record
from subak.core.facts import Person, Refused
from tests.unit.audit.conftest import Desk

KIND = Kind(Operation.RATE_LIMIT_VIOLATION, "rate_limit_exceeded", "chat")


def record() -> Record:
    return Record(KIND.operation, {"policy": "chat"})


class Flood:
    """A folding and what it wrote."""

    def __init__(self) -> None:
        self.written: list[Record] = []
        self.folding = Folding(self.written.append)

    def comes(self, account: str, now: float, times: int = 1) -> None:
        for _ in range(times):
            self.folding.note(KIND, account, now, record)

    @property
    def counts(self) -> list[object]:
        """Give how many each row stands for: None for a first."""
        return [row.fields.get("count") for row in self.written]


def test_the_first_is_written_at_once_and_the_count_when_the_window_closes() -> None:
    flood = Flood()
    flood.comes("a", 100.0, times=1000)
    assert flood.counts == [None]
    flood.folding.close_due(100.0 + WINDOW_S - 0.1)
    assert flood.counts == [None]
    flood.folding.close_due(100.0 + WINDOW_S)
    assert flood.counts == [None, 1000]
    assert len(flood.folding) == 0


def test_one_alone_is_one_row() -> None:
    flood = Flood()
    flood.comes("a", 100.0)
    flood.folding.close_due(200.0)
    assert flood.counts == [None]


def test_each_account_has_its_window_and_a_new_one_afterwards() -> None:
    flood = Flood()
    flood.comes("a", 100.0, times=3)
    flood.comes("b", 105.0, times=2)
    flood.folding.close_due(110.0)
    assert flood.counts == [None, None, 3]
    flood.comes("a", 111.0, times=2)
    flood.folding.close_due(114.0)
    assert flood.counts == [None, None, 3, None, 2]
    flood.folding.close_all()
    assert flood.counts == [None, None, 3, None, 2, 2]


def test_a_million_accounts_take_no_more_memory_and_lose_no_refusal() -> None:
    flood = Flood()
    for number in range(1_000_000):
        flood.folding.note(KIND, number, 100.0, record)
    assert len(flood.folding) == MAX_WINDOWS
    flood.folding.close_due(100.0 + WINDOW_S)
    (rest,) = flood.written[MAX_WINDOWS:]
    assert rest.fields == {
        "outcome": "refused",
        "code": "rate_limit_exceeded",
        "policy": "chat",
        "count": 1_000_000 - MAX_WINDOWS,
    }
    assert rest.personal is None
    check_record(rest)


def test_the_rows_add_up_to_what_was_refused() -> None:
    flood = Flood()
    refused = Counter[str]()
    for step in range(2000):
        account = str(step % 7 * (step % 3))
        refused[account] += 1
        flood.comes(account, 100.0 + step * 0.05)
        flood.folding.close_due(100.0 + step * 0.05)
    flood.folding.close_all()
    counts = [row.fields.get("count") for row in flood.written]
    firsts, closings = counts.count(None), [count for count in counts if isinstance(count, int)]
    assert sum(closings) + (firsts - len(closings)) == refused.total()


def test_what_the_rest_is_written_as_is_what_the_table_permits(desk: Desk) -> None:
    codes = {"rate_limit_exceeded": "chat", "unauthenticated": "token_expired", "stream_not_found": "", "x": "y"}
    for code, reason in codes.items():
        for number in range(MAX_WINDOWS + 2):
            desk.hears(Refused("/v1/streams", "POST", 400, code, reason, Person(f"user:{number}")))
    desk.clock.advance(10)
    rest = [row for row in desk.rows() if row.personal is None]
    assert sum(count for row in rest if isinstance(count := row.core["count"], int)) == 3 * MAX_WINDOWS + 8


def test_ipv6_hosts_are_folded_by_their_network(desk: Desk) -> None:
    for number in range(5):
        who = Person(address=f"2001:db8:0:1::{number:x}")
        desk.hears(Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "chat", who))
    desk.clock.advance(10)
    first, closing = desk.rows()
    assert (first.core.get("count"), closing.core["count"]) == (None, 5)
    assert closing.personal is not None
    assert closing.personal.address == "2001:db8:0:1::0"


def test_the_count_is_on_its_way_within_ten_seconds(desk: Desk) -> None:
    for _ in range(3):
        desk.hears(Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "chat", Person("user:42")))
    desk.clock.advance(10)
    assert [row.core.get("count") for row in desk.rows()] == [None, 3]


def test_what_is_still_counted_is_written_at_the_end_of_the_process(desk: Desk) -> None:
    for _ in range(3):
        desk.hears(Refused("/v1/streams", "POST", 401, "unauthenticated", "token_expired", Person(address="192.0.2.1")))
    desk.recorder.close()
    assert [row.core.get("count") for row in desk.rows()] == [None, 3]
