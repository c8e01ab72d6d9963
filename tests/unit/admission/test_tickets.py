"""Stream tickets: one first use, then one stream."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.admission.reasons import Reason
from subak.admission.tickets import Redeemed, TicketRules, Tickets
from subak.core.errors import RateLimited, TicketsUsedUp, Unauthenticated
from subak.core.principal import ANONYMOUS, Principal
from subak.testing import FakeClock
from tests.issuer import NOW_S

ANN: Final = Principal("user:ann")
BEN: Final = Principal("user:ben")
RULES: Final = TicketRules(first_use_s=30.0, bound_s=2_100.0, max_tickets=3, max_per_caller=2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tickets(clock: FakeClock) -> Tickets:
    return Tickets(RULES, clock=clock, secret=b"k")


def reason_of(tickets: Tickets, ticket: str, stream_id: str | None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        tickets.redeem(ticket, stream_id)
    return caught.value.reason


def test_a_ticket_stands_for_its_principal_once_then_for_its_stream_alone(tickets: Tickets) -> None:
    ticket, expires_in_s = tickets.issue(ANN)
    assert expires_in_s == 30
    assert tickets.redeem(ticket, None) == Redeemed(ANN, None)
    tickets.bind(ticket, "st_1")
    assert [tickets.redeem(ticket, "st_1") for _ in range(3)] == [Redeemed(ANN, "st_1")] * 3
    assert reason_of(tickets, ticket, "st_2") == Reason.TICKET_OF_ANOTHER_STREAM
    assert reason_of(tickets, ticket, None) == Reason.TICKET_OF_ANOTHER_STREAM


def test_a_first_use_may_be_a_resume(tickets: Tickets) -> None:
    ticket, _ = tickets.issue(ANN)
    assert tickets.redeem(ticket, "st_1") == Redeemed(ANN, None)
    tickets.bind(ticket, "st_1")
    assert tickets.redeem(ticket, "st_1").stream_id == "st_1"


def test_two_first_uses_at_once_are_one(tickets: Tickets) -> None:
    ticket, _ = tickets.issue(ANN)
    tickets.redeem(ticket, None)
    assert reason_of(tickets, ticket, None) == Reason.TICKET_IN_USE


def test_an_unused_ticket_is_over_after_its_time(tickets: Tickets, clock: FakeClock) -> None:
    ticket, _ = tickets.issue(ANN)
    clock.advance(29)
    late, _ = tickets.issue(BEN)
    clock.advance(1)
    assert reason_of(tickets, ticket, None) == Reason.TICKET_UNKNOWN
    assert tickets.redeem(late, None).principal == BEN
    assert len(tickets) == 1


def test_a_first_use_in_the_last_moment_can_still_be_bound(tickets: Tickets, clock: FakeClock) -> None:
    ticket, _ = tickets.issue(ANN)
    clock.advance(29)
    tickets.redeem(ticket, None)
    clock.advance(2)
    tickets.issue(BEN)
    tickets.bind(ticket, "st_1")
    assert tickets.redeem(ticket, "st_1").principal == ANN


def test_a_bound_ticket_is_over_when_its_stream_must_be(tickets: Tickets, clock: FakeClock) -> None:
    ticket, _ = tickets.issue(ANN)
    tickets.redeem(ticket, None)
    tickets.bind(ticket, "st_1")
    clock.advance(2_099)
    assert tickets.redeem(ticket, "st_1")
    clock.advance(1)
    assert reason_of(tickets, ticket, "st_1") == Reason.TICKET_UNKNOWN
    assert len(tickets) == 0


def test_a47_a_ticket_outlives_no_credential(tickets: Tickets, clock: FakeClock) -> None:
    ticket, _ = tickets.issue(Principal("user:ann", expires_at=NOW_S + 60))
    tickets.redeem(ticket, None)
    tickets.bind(ticket, "st_1")
    clock.advance(89)
    assert tickets.redeem(ticket, "st_1")
    clock.advance(1)
    assert reason_of(tickets, ticket, "st_1") == Reason.TOKEN_EXPIRED


def test_nobody_gets_no_ticket(tickets: Tickets) -> None:
    with pytest.raises(Unauthenticated) as caught:
        tickets.issue(ANONYMOUS)
    assert caught.value.reason == Reason.MISSING_CREDENTIALS


def test_tickets_are_bounded_and_room_comes_back(tickets: Tickets, clock: FakeClock) -> None:
    issued = [tickets.issue(who).ticket for who in (ANN, ANN, BEN)]
    with pytest.raises(TicketsUsedUp) as caught:
        tickets.issue(BEN)
    assert (caught.value.http_status, caught.value.retry_after_s) == (503, 30)
    assert tickets.redeem(issued[0], None)
    clock.advance(30)
    assert tickets.issue(BEN)


def test_one_caller_leaves_room_for_others_and_gets_it_back(tickets: Tickets, clock: FakeClock) -> None:
    issued = [tickets.issue(ANN).ticket for _ in range(2)]
    with pytest.raises(RateLimited) as caught:
        tickets.issue(ANN)
    assert (caught.value.http_status, caught.value.reason, caught.value.retry_after_s) == (429, "tickets_kept", 30)
    assert tickets.issue(BEN)
    tickets.redeem(issued[0], None)
    tickets.bind(issued[0], "st_1")
    clock.advance(30)
    assert tickets.issue(ANN)
    with pytest.raises(RateLimited):
        tickets.issue(ANN)
    clock.advance(2_100)
    assert all([tickets.issue(ANN), tickets.issue(ANN)])


def test_who_has_no_ticket_any_more_takes_no_room(tickets: Tickets, clock: FakeClock) -> None:
    tickets.issue(ANN)
    clock.advance(30)
    tickets.issue(BEN)
    assert len(tickets) == len(tickets._held) == 1  # noqa: SLF001 - a leak shows nowhere else


def test_binding_what_was_not_redeemed_changes_nothing(tickets: Tickets) -> None:
    ticket, _ = tickets.issue(ANN)
    tickets.bind(ticket, "st_1")
    tickets.bind("tk_unknown", "st_1")
    assert tickets.redeem(ticket, None) == Redeemed(ANN, None)
    tickets.bind(ticket, "st_1")
    tickets.bind(ticket, "st_2")
    assert tickets.redeem(ticket, "st_1")


def test_no_ticket_is_kept_in_clear(tickets: Tickets) -> None:
    ticket, _ = tickets.issue(ANN)
    assert len(ticket) >= 32
    kept = repr([*tickets._unused])  # noqa: SLF001 - looked at as a memory dump would be
    assert ticket not in kept
    assert ticket.encode() not in b"".join(tickets._unused)  # noqa: SLF001


@given(st.text(max_size=100))
def test_no_text_is_a_ticket(text: str) -> None:
    tickets = Tickets(RULES, clock=FakeClock(), secret=b"k")
    ticket, _ = tickets.issue(ANN)
    assert reason_of(tickets, text, None) == Reason.TICKET_UNKNOWN
    assert reason_of(tickets, ticket + text + "x", None) == Reason.TICKET_UNKNOWN
