"""Who may use whose stream (PROTOCOL §1, I11)."""

import pytest

from subak.core.principal import ANONYMOUS, Principal


@pytest.mark.parametrize(
    ("caller", "owner", "may"),
    [
        (ANONYMOUS, "", True),
        (ANONYMOUS, "ann", False),
        (Principal("ann"), "ann", True),
        (Principal("ann"), "ben", False),
        (Principal("ann"), "Ann", False),
        (Principal("ann"), "ann ", False),
        (Principal("ann"), "", True),
    ],
)
def test_a_stream_belongs_to_its_owner_and_an_anonymous_one_to_whoever_has_its_id(
    caller: Principal, owner: str, *, may: bool
) -> None:
    assert caller.may_use(owner) is may


def test_only_a_caller_without_id_is_anonymous() -> None:
    assert ANONYMOUS.is_anonymous
    assert not Principal("ann").is_anonymous
