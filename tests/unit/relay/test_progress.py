"""The figures of one answer."""

from subak.core.events import SOURCES, TOKEN, Event
from subak.relay.progress import Progress

TOKEN_EVENT = Event(TOKEN, b'"x"', 1)
SOURCES_EVENT = Event(SOURCES, b"[]", 1)


def test_the_own_share_is_what_passes_before_asking_and_after_reading() -> None:
    progress = Progress(requested_at=100.0)
    progress.asked_at = 100.25
    assert progress.gateway_ms(101.0) is None
    progress.arrived_at = 107.0
    progress.count([TOKEN_EVENT], 107.0)
    progress.written_at = 107.5
    assert progress.first_token_ms == 7_000
    assert progress.gateway_ms(200.0) == 750


def test_while_the_first_read_is_being_written_now_stands_for_its_end() -> None:
    progress = Progress(requested_at=100.0)
    progress.asked_at = progress.arrived_at = 101.0
    progress.count([TOKEN_EVENT], 101.0)
    assert progress.gateway_ms(101.5) == 1_500


def test_tokens_after_a_seq_leave_out_what_is_none() -> None:
    progress = Progress(requested_at=0.0)
    progress.count([TOKEN_EVENT, TOKEN_EVENT], 1.0)  # 2, 3; 1 is the metadata event
    progress.count([SOURCES_EVENT, TOKEN_EVENT, SOURCES_EVENT, TOKEN_EVENT], 2.0)  # 4 to 7
    assert [progress.tokens_after(seq) for seq in range(8)] == [4, 4, 3, 2, 2, 1, 1, 0]


def test_a_gap_is_taken_once() -> None:
    progress = Progress(requested_at=0.0)
    for at in (1.0, 1.25, 1.75):
        progress.count([TOKEN_EVENT], at)
    assert progress.take_gaps_us() == (250_000, 500_000)
    assert progress.take_gaps_us() == ()
    progress.count([TOKEN_EVENT], 2.0)
    assert progress.take_gaps_us() == (250_000,)
    assert progress.inter_token_ms == 333.333
