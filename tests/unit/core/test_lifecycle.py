"""The life of a stream: the module's table and what follows from it (PROTOCOL §4)."""

import itertools
import re

import pytest

from subak.core import lifecycle
from subak.core.events import FinishReason
from subak.core.lifecycle import OPEN, TRANSITIONS, OnDisconnect, Signal, Status, may_choose, signal_of, status_of


def documented_transitions() -> dict[tuple[Status, Signal], Status]:
    """Read the table of the module's docstring; `any open` stands for each open state."""
    rows = re.findall(r"^    (any open|\w+) +(\w+) +(\w+)", lifecycle.__doc__ or "", re.MULTILINE)
    table: dict[tuple[Status, Signal], Status] = {}
    for status, signal, following in rows:
        if status == "status":
            continue
        for one in OPEN if status == "any open" else {Status(status)}:
            table[one, Signal(signal)] = Status(following)
    return table


def test_the_transitions_are_those_of_the_table_in_the_docstring() -> None:
    assert documented_transitions() == TRANSITIONS


def test_an_ended_stream_has_no_way_out() -> None:
    assert {status for status, _ in TRANSITIONS} == OPEN
    assert {status for status in Status if status.is_open} == OPEN


def test_every_ended_state_can_be_reached() -> None:
    assert set(TRANSITIONS.values()) | {Status.CONNECTING} == set(Status)


@pytest.mark.parametrize("status", sorted(OPEN))
def test_an_open_stream_can_be_ended_by_each_signal_but_answered(status: Status) -> None:
    endings = {signal for open_status, signal in TRANSITIONS if open_status == status}
    assert endings | {Signal.ANSWERED} == set(Signal)


@pytest.mark.parametrize(
    ("reason", "signal", "status"),
    [
        (FinishReason.STOP, Signal.FINISHED, Status.COMPLETED),
        (FinishReason.LENGTH, Signal.FINISHED, Status.COMPLETED),
        (FinishReason.CONTENT_FILTER, Signal.FINISHED, Status.COMPLETED),
        (FinishReason.CANCELLED, Signal.STOPPED, Status.CANCELLED),
        (FinishReason.ABANDONED, Signal.ABANDONED, Status.ABANDONED),
    ],
)
def test_every_finish_reason_has_its_signal_and_status(reason: FinishReason, signal: Signal, status: Status) -> None:
    assert signal_of(reason) is signal
    assert status_of(reason) is status


def test_the_finish_reasons_are_those_of_the_protocol() -> None:
    assert {reason.value for reason in FinishReason} == {"stop", "length", "content_filter", "cancelled", "abandoned"}


def test_a_request_may_only_choose_what_costs_no_more_than_the_setting() -> None:
    cheapest_first = [OnDisconnect.CANCEL, OnDisconnect.GRACE, OnDisconnect.CONTINUE]
    assert set(cheapest_first) == set(OnDisconnect)
    for wanted, allowed in itertools.product(cheapest_first, repeat=2):
        assert may_choose(wanted, allowed) == (cheapest_first.index(wanted) <= cheapest_first.index(allowed))
