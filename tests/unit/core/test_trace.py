"""`traceparent`: what is valid is read and written back, everything else begins a new trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.trace import TraceContext, parse_traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_a_header_is_read_and_written_back() -> None:
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-01")
    assert context == TraceContext(TRACE, SPAN, is_sampled=True)
    assert str(context) == f"00-{TRACE}-{SPAN}-01"


def test_what_is_not_sampled_stays_so() -> None:
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-00")
    assert context is not None
    child = context.child("1" * 16)
    assert (child.trace_id, child.parent_id, child.is_sampled) == (TRACE, SPAN, False)
    assert str(child) == f"00-{TRACE}-{'1' * 16}-00"


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-more") == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\r\nx: y",
    ],
)
def test_what_is_not_valid_is_none(text: str | None) -> None:
    assert parse_traceparent(text) is None


@given(st.text(max_size=80))
def test_whatever_comes_is_valid_or_none(text: str) -> None:
    context = parse_traceparent(text)
    assert context is None or parse_traceparent(str(context)) == context
