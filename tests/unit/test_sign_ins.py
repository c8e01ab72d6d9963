"""Accepted credentials are told of once each and day, in bounded memory."""

from subak.core.facts import Authenticated, Person
from subak.core.principal import Caller, Claims, Principal
from subak.testing import FakeClock, RecordingObserver
from subak.web.sign_ins import MAX_REMEMBERED, SignIns

DAY_S = 86_400.0


def caller(user: str = "ann", expires_at: float | None = 1_900_000_000.0) -> Caller:
    claims = Claims(user, email=f"{user}@example.org")
    return Caller(Principal(f"user:{user}", claims, expires_at=expires_at), "192.0.2.1")


class Door:
    """What was told of those who came in."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.observer = RecordingObserver(self.clock)
        self.sign_ins = SignIns(self.observer, self.clock)

    @property
    def told(self) -> list[str]:
        return [fact.who.subject for fact in self.observer.of(Authenticated)]


def test_a_credential_is_told_of_once() -> None:
    door = Door()
    for _ in range(3):
        door.sign_ins.note(caller())
    assert door.observer.facts == [Authenticated(Person("user:ann", None, "ann@example.org", "192.0.2.1"))]


def test_another_token_of_the_same_user_is_told_of_too() -> None:
    door = Door()
    for expires_at in (1_900_000_000.0, 1_900_000_060.0, None):
        door.sign_ins.note(caller(expires_at=expires_at))
    assert door.told == ["user:ann"] * 3


def test_the_next_day_it_is_told_of_again() -> None:
    door = Door()
    door.sign_ins.note(caller())
    door.clock.advance(DAY_S)
    door.sign_ins.note(caller())
    assert door.told == ["user:ann"] * 2


def test_past_the_bound_the_oldest_may_be_told_of_again() -> None:
    door = Door()
    for number in range(MAX_REMEMBERED + 1):
        door.sign_ins.note(caller(f"u{number}"))
    door.sign_ins.note(caller(f"u{MAX_REMEMBERED}"))
    assert len(door.told) == MAX_REMEMBERED + 1
    door.sign_ins.note(caller("u0"))
    assert door.told[-1] == "user:u0"
