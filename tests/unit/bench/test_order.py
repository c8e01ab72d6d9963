"""What is lost, doubled or too late, by seqs."""

from hypothesis import given
from hypothesis import strategies as st

from subak.bench.order import MAX_NAMED, Order


def taken(*seqs: int) -> Order:
    order = Order()
    for seq in seqs:
        order.take(seq)
    return order


def told(order: Order) -> tuple[int, int, int]:
    return order.lost, order.duplicated, order.reordered


def test_seqs_in_order_are_no_fault() -> None:
    assert told(taken(1, 2, 3)) == (0, 0, 0)


def test_a_hole_is_a_loss() -> None:
    assert told(taken(1, 2, 5)) == (2, 0, 0)


def test_a_first_event_that_is_missing_is_a_loss() -> None:
    assert told(taken(2, 3)) == (1, 0, 0)


def test_a_late_one_is_out_of_order_and_not_lost() -> None:
    assert told(taken(1, 3, 2, 4)) == (0, 0, 1)


def test_one_that_comes_again_is_doubled_even_if_it_came_late_before() -> None:
    assert told(taken(1, 3, 2, 2, 3)) == (0, 2, 1)


def test_a_leap_past_what_is_remembered_is_still_counted() -> None:
    order = taken(1, 10 * MAX_NAMED)
    assert order.lost == 10 * MAX_NAMED - 2
    order.take(2)
    assert told(order) == (10 * MAX_NAMED - 3, 0, 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_it_agrees_with_counting_by_hand(seqs: list[int]) -> None:
    lost, duplicated, reordered = told(taken(*seqs))
    assert lost == max(seqs) - len(set(seqs))
    assert duplicated == len(seqs) - len(set(seqs))
    assert reordered == sum(seq not in seqs[:at] and seq < max(seqs[:at], default=0) for at, seq in enumerate(seqs))
