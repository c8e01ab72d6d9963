"""The form of everything that `subak smoke` says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Check(StrEnum):
    """What is looked at, in this order: stable names, for programs that read the JSON and for the page of them."""

    ALIVE = "alive"
    FLAG = "flag"
    HEARTBEATS = "heartbeats"
    STREAM_GET = "stream.get"
    STREAM_POST = "stream.post"
    RESUME = "stream.resume"
    AGAIN = "stream.again"
    STOP = "stream.stop"
    CHAT = "chat"
    LIMIT_HEADERS = "limit.headers"
    LIMIT = "limit.429"
    AUDIT = "audit"
    AUDIT_VIOLATION = "audit.violation"
    METRICS = "metrics"


class Status(StrEnum):
    """How a check came out. What wasn't checked is never `ok`."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check. `detail`: what came, or why it wasn't checked; `figures`: measured, named with the unit.

    Of a failure `expected` says what should have come and `fix` what to do; otherwise they are empty.
    """

    check: Check
    status: Status
    detail: str
    expected: str = ""
    fix: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Seen(NamedTuple):
    """What a check saw that is as it should be."""

    detail: str
    figures: Mapping[str, float] = {}


class Unmet(Exception):
    """Something else came than should have. Texts of others in it are made printable where it becomes a finding."""

    def __init__(self, came: str, *, expected: str, fix: str) -> None:
        super().__init__(came)
        self.came = came
        self.expected = expected
        self.fix = fix


class NotChecked(Exception):
    """A check can't be made as things are. The text says why, and what would make it possible."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a smoke test found. `questions`: how many it asked; `is_streaming` None: nobody could tell."""

    url: str
    is_streaming: bool | None
    questions: int
    findings: tuple[Finding, ...]

    def count(self, status: Status) -> int:
        """Count the findings of this status."""
        return sum(finding.status is status for finding in self.findings)
