"""The form of everything that `subak doctor` says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Check(StrEnum):
    """What is looked at: stable names, for programs that read the JSON and for `docs/troubleshooting.md`."""

    PYTHON = "python"
    EVENT_LOOP = "event_loop"
    HTTP_EXTENSIONS = "http.extensions"
    HTTP_PARSER = "http.parser"
    CLOCK_WALL = "clock.wall"
    CLOCK_MONOTONIC = "clock.monotonic"
    CLOCK_SKEW = "clock.skew"
    SETTINGS = "settings"
    STREAMING = "features.sse_streaming"
    TRUSTED_PROXIES = "http.trusted_proxies"
    CREDENTIALS = "auth"
    OPEN_FILES = "open_files"
    STATE_DIR = "state_dir"
    STATE_KEY = "state_dir.key"
    STATE_SPACE = "state_dir.space"
    DOCUMENTS = "knowledge.docs"
    UPSTREAM_SCHEME = "upstream.scheme"
    UPSTREAM_METHOD = "upstream.method"
    UPSTREAM_CONNECT = "upstream.connect"
    UPSTREAM_HEALTH = "upstream.health"
    UPSTREAM_ANSWER = "upstream.answer"
    URL_SCHEME = "url.scheme"
    URL_GATEWAY = "url.gateway"
    URL_ADVICE = "url.advice"
    URL_EVENTS = "url.events"


class Status(StrEnum):
    """How what was seen is judged. Only `failed` makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `detail`: what was seen; `fix`: what to do about it, empty when nothing.

    `notes` are further lines of either; `figures` what was measured, by name with its unit. One check gives several
    findings where there are several of a thing: one for each upstream.
    """

    check: Check
    status: Status
    detail: str
    fix: str = ""
    notes: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


class Advice(NamedTuple):
    """What is wrong, and what to do about it."""

    detail: str
    fix: str


def fine(check: Check, detail: str, **figures: float) -> Finding:
    """Give a finding that asks for nothing."""
    return Finding(check, Status.OK, detail, figures=figures)


def warning(check: Check, detail: str, fix: str, **figures: float) -> Finding:
    """Give a finding that somebody should know of."""
    return Finding(check, Status.WARNING, detail, fix, figures=figures)


def failed(check: Check, detail: str, fix: str, **figures: float) -> Finding:
    """Give a finding that keeps answers from their readers."""
    return Finding(check, Status.FAILED, detail, fix, figures=figures)
