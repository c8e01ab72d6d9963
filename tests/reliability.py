"""The fault matrix as a page: which fault, which tests, what came of them. Written by a test run, never by hand.

    ./dev.py test --reliability-report=docs/reliability.md

A test belongs to a row by its name, `test_u04_…` to row 4, or because the row names it in `also`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.settings import profile

OPTION: Final = "--reliability-report"
_NAME: Final = re.compile(r"test_[a-z](\d\d)_")


class Row(NamedTuple):
    """One row of the matrix. `also`: tests of other names that show it; `later`: what it has to wait for."""

    number: int
    fault: str
    also: tuple[str, ...] = ()
    later: str = ""


class Group(NamedTuple):
    """Rows with a side in common."""

    title: str
    rows: tuple[Row, ...]


STORES: Final = "shared stores and the audit trail"

MATRIX: Final = (
    Group(
        "The upstream",
        (
            Row(1, "refuses the connection"),
            Row(2, "accepts and never answers"),
            Row(3, "sends its head, then nothing"),
            Row(4, "dies in the middle of a token"),
            Row(5, "ends cleanly without saying that it is done"),
            Row(6, "sends broken chunks"),
            Row(7, "says in its own words that it could not answer"),
            Row(8, "answers 500, 503 or 429"),
            Row(9, "redirects elsewhere"),
            Row(10, "answers with HTML or JSON instead of a stream"),
            Row(11, "compresses what was asked for plain; a compressed bomb"),
            Row(12, "every line end, comment and field, cut anywhere"),
            Row(13, "invalid UTF-8, characters cut in two"),
            Row(14, "tokens with line ends, controls and forged events"),
            Row(15, "names and ids with line ends in them"),
            Row(16, "a token of a megabyte, a line without an end"),
            Row(17, "a flood of tiny tokens before a slow reader"),
            Row(18, "deep, huge and contradictory JSON"),
            Row(19, "a line that swallows everything in mid-answer"),
            Row(20, "stopped for 20 s, then continued"),
            Row(21, "DNS fails; certificates expired, foreign or for another name"),
            Row(22, "comes and goes for a minute"),
        ),
    ),
    Group(
        "Clients and the network",
        (
            Row(23, "leaves in the middle of an answer"),
            Row(24, "resets; a line that is dead without a word"),
            Row(25, "leaves before the first byte"),
            Row(26, "reads nothing"),
            Row(27, "a thousand that read a byte a second"),
            Row(28, "heads and bodies that come too slowly, many idle connections"),
            Row(29, "more connections and answers than there is room for; all drop at once"),
            Row(30, "no file descriptor is left"),
            Row(31, "latency, jitter, slices of a byte, 64 kbit/s"),
            Row(32, "a buffering proxy in front"),
            Row(33, "HTTP/1.0, HEAD, OPTIONS, unknown methods, `Expect`"),
            Row(34, "requests that two parties may read differently (smuggling)"),
            Row(35, "too large a head or URL"),
        ),
    ),
    Group(
        "Input",
        (
            Row(36, "a body of 100 MB, a length that lies"),
            Row(37, "too long a history or query, deep JSON, wrong types"),
            Row(38, "text that is none, controls, bidirectional text"),
            Row(39, "`system` and `tool` roles from a client"),
            Row(40, "line ends in header and parameter values"),
            Row(41, "a connection id that somebody else has"),
            Row(
                42,
                "scripts, images and terminal controls in an answer",
                also=("test_markup_stays_text_and_only_web_addresses_become_links",),
            ),
            Row(
                43,
                "foreign, `null` and look-alike origins",
                also=("test_page_of_another_origin_gets_no_cors_headers", "test_preflight_of_another_origin_is_403"),
            ),
            Row(44, "JSON smuggled as a form's text", also=("test_body_that_is_not_plain_json_is_415",)),
        ),
    ),
    Group(
        "Callers and their rights",
        (
            Row(45, "forged, expired and oversized tokens"),
            Row(46, "the key server is down, slow or rotates"),
            Row(47, "a token ends in the middle of an answer"),
            Row(48, "a token in the URL"),
            Row(49, "another caller's answer"),
            Row(50, "forged caller and address headers"),
            Row(51, "many keys and addresses of one caller"),
            Row(52, "21 questions in a minute, in any rhythm"),
            Row(53, "several instances share a limit", later=STORES),
            Row(54, "more answers at a time than allowed"),
            Row(55, "one caller's answer from another's cache"),
            Row(
                56,
                "secrets and look-up strings in whatever is logged",
                also=(
                    "test_log_lines_hold_no_content_and_no_stream_id",
                    "test_nothing_personal_is_ever_stored_in_clear",
                ),
            ),
        ),
    ),
    Group(
        "Resume and delivery",
        (
            Row(57, "a disconnect after any event"),
            Row(58, "a cursor that cannot be right"),
            Row(59, "two clients resume one answer, or at another instance", later=STORES),
            Row(60, "the same question twice with one key"),
            Row(61, "5 000 clients come back at once"),
        ),
    ),
    Group(
        "Stores, host and life cycle",
        (
            Row(62, "Redis dies, stops, restarts empty, is full or read-only", later=STORES),
            Row(63, "Redis is slow", later=STORES),
            Row(
                64,
                "the audit file's disk is full, read-only, locked or corrupt",
                also=(
                    "test_s74_a_damaged_page_is_a_finding_and_no_crash",
                    "test_a_store_in_trouble_fails_tickets_at_once_and_is_taken_up_again",
                    "test_a_locked_file_refuses_new_starts_until_it_is_free",
                ),
            ),
            Row(
                65,
                "the gateway is killed at any point",
                also=("test_a_killed_process_loses_no_acknowledged_record",),
            ),
            Row(66, "power is lost"),
            Row(
                67,
                "the clock jumps",
                also=("test_a_clock_that_was_set_back_is_a_warning", "test_clocks_may_differ_by_the_leeway"),
            ),
            Row(68, "a rolling restart with 500 answers under way, each resumed at the gateway that has it"),
            Row(
                69,
                "a second signal; bad settings on SIGHUP",
                also=("test_bad_settings_are_refused_and_the_old_ones_stay_in_force",),
            ),
            Row(70, "a flag goes off under live answers; a gradual rollout"),
            Row(
                71,
                "the event loop stalls for 2 s",
                also=("test_a_process_that_stood_still_ends_no_answer_and_shows_by_how_much_it_was_late",),
            ),
            Row(72, "thousands of answers with faults, one after the other"),
            Row(
                73,
                "labels without end, exposed operator pages",
                also=(
                    "test_random_paths_and_labels_do_not_let_the_page_grow",
                    "test_made_up_labels_end_in_one_row",
                ),
            ),
            Row(
                74,
                "the audit trail is tampered with; erased, pruned, its key changed",
                also=(
                    "test_a_log_with_one_changed_cell_never_verifies",
                    "test_an_erasure_leaves_a_log_that_verifies_and_the_others_in_it",
                    "test_nothing_in_any_file_tells_of_an_erased_subject",
                    "test_rows_past_their_term_are_deleted_and_the_rest_verifies",
                    "test_another_key_seals_after_a_rotation_and_the_first_one_still_proves_all",
                    "test_it_shares_no_code_with_the_first_one",
                ),
            ),
            Row(75, "fuzzed event streams, frames, requests, settings and audit logs"),
        ),
    ),
)


def rows() -> list[Row]:
    """Give all rows, in their order."""
    return [row for group in MATRIX for row in group.rows]


def function_of(nodeid: str) -> str:
    """Give the name of a test's function, without file and parameters."""
    return nodeid.partition("[")[0].rpartition("::")[2]


def shows(function: str, row: Row) -> bool:
    """Whether a test of that name belongs to the row."""
    found = _NAME.match(function)
    return function in row.also or (found is not None and int(found[1]) == row.number)


@dataclass
class Outcomes:
    """How often the cases of one function passed, failed or were skipped; `path` is where it stands."""

    path: str
    counts: Counter[str] = field(default_factory=Counter)


class ReliabilityReport:
    """A pytest plugin that hears how each test ended and writes the page when the run is over."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._seen: dict[str, Outcomes] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of one phase of a test: what failed before or after it failed, too."""
        if report.when != "call" and report.passed:
            return
        outcomes = self._seen.setdefault(function_of(report.nodeid), Outcomes(report.nodeid.partition("::")[0]))
        outcomes.counts[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        self._page.write_text(page_of(self._seen), encoding="utf-8")


def page_of(seen: dict[str, Outcomes]) -> str:
    """Spell the page."""
    lines = [
        "# Reliability: faults, and the tests that inject them",
        "",
        f"Written by a test run (profile `{profile()}`), not by hand:",
        "",
        "    ./dev.py test --reliability-report=docs/reliability.md",
        "",
        "Every test works over real sockets or on the real code that reads the bytes, and checks that no task, socket,",
        "answer or reader is left behind. The number is that of cases: parameters, and event loops.",
    ]
    for group in MATRIX:
        lines += ["", f"## {group.title}", "", "| row | fault | tests | result |", "| --- | --- | --- | --- |"]
        lines += [_line(row, seen) for row in group.rows]
    return "\n".join([*lines, ""])


def _line(row: Row, seen: dict[str, Outcomes]) -> str:
    found = {name: outcomes for name, outcomes in sorted(seen.items()) if shows(name, row)}
    tests = "<br>".join(f"`{name}`" for name in found)
    total = sum((outcomes.counts for outcomes in found.values()), Counter[str]())
    counted = ", ".join(f"{total[word]} {word}" for word in ("passed", "failed", "skipped") if total[word])
    result = counted or (f"comes with {row.later}" if row.later else "not run")
    return f"| {row.number} | {row.fault} | {tests} | {result} |"
