"""What a smoke test was asked for, and what its checks have come to know for those after them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from subak.core.cursor import Cursor
from subak.smoke.findings import NotChecked
from subak.smoke.line import Line

Expected = Literal["on", "off"]


class Wants(NamedTuple):
    """What is asked for. `expect` None takes the flag as it is; `with_limit`: ask until a question is refused.

    `recorded_s`: how long a record may take to be found in the audit trail.
    """

    question: str
    expect: Expected | None = None
    with_limit: bool = False
    recorded_s: float = 10.0


class Quota(NamedTuple):
    """How a caller's limit stands, as `X-RateLimit-*` tell it. `reset_s`: epoch second of the next admission."""

    limit: int
    remaining: int
    reset_s: int


class Counts(NamedTuple):
    """Counters of `/metrics`."""

    streams_opened: float
    chat_answers: float
    refusals: float


class Asked(NamedTuple):
    """The answer that was broken off at its first token: where, and the key it was asked for with."""

    cursor: Cursor
    text: str
    key: str


@dataclass
class Course:
    """One smoke test under way. `say` tells whoever waits what is about to cost something.

    `streams`, `chats` and `refusals` count what of ours the gateway must have counted too.
    """

    wants: Wants
    line: Line
    desk: Line | None
    say: Callable[[str], None]
    began_at: float
    is_out_of_reach: bool = False
    is_streaming: bool | None = None
    questions: int = 0
    streams: int = 0
    chats: int = 0
    refusals: int = 0
    is_limited: bool = False
    before: Counts | None = None
    quotas: list[Quota | None] = field(default_factory=list)
    asked: Asked | None = None

    @property
    def has_to_be_off(self) -> bool:
        """Whether streams must be refused: they are off, as nobody minds or as was said."""
        return self.is_streaming is False and self.wants.expect != "on"

    def need_streaming(self) -> None:
        """Go on only where streams are answered, and should be. Raises: NotChecked."""
        if self.wants.expect == "off":
            raise NotChecked("streaming should be off, and isn't known to be: nothing is asked, see `flag`")
        if not self.is_streaming:
            raise NotChecked("streaming is off for this caller, or nobody could tell: see `flag`")

    def need_desk(self, what: str) -> Line:
        """Give the admin listener. Raises: NotChecked."""
        if self.desk is None:
            raise NotChecked(f"{what} is seen at the admin listener only: give --admin URL")
        return self.desk
