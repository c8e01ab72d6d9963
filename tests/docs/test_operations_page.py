"""docs/operations.md explains every metric, every figure of the stats and every alert that there is."""

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.core import live
from subak.telemetry import errors, host, stats
from subak.telemetry.metrics import CATALOGUE, Kind

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "operations.md"
ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
SHOWN: Final = (
    stats.Snapshot,
    live.Load,
    live.Occupancy,
    live.UpstreamState,
    live.AuditState,
    host.ProcessState,
    stats.PresentFigures,
    stats.WindowFigures,
    stats.StreamFigures,
    stats.RefusalFigures,
    stats.ChatFigures,
    stats.Latency,
    stats.ConnectionsSnapshot,
    stats.StreamRow,
    stats.ReaderRow,
    errors.ErrorsSnapshot,
)


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rules() -> str:
    return ALERTS.read_text(encoding="utf-8")


def table() -> str:
    """Give the page's table of metrics."""
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, kind, labels, meaning in CATALOGUE
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])


def metric_names() -> set[str]:
    """Give every name that a query may use."""
    names = {metric.name for metric in CATALOGUE}
    parts = {metric.name for metric in CATALOGUE if metric.kind in {Kind.HISTOGRAM, Kind.SUMMARY}}
    return names | {f"{name}_{part}" for name in parts for part in ("bucket", "sum", "count")}


def test_the_table_is_what_the_code_exports(page: str) -> None:
    assert f"\n{table()}\n" in page, f"docs/operations.md should have:\n{table()}"


@pytest.mark.parametrize("struct", SHOWN, ids=lambda struct: struct.__name__)
def test_every_figure_is_explained(page: str, struct: type[msgspec.Struct]) -> None:
    explained = {word for code in re.findall(r"`([^`\n]+)`", page) for word in re.split(r"\W+", code)}
    assert set(struct.__struct_fields__) <= explained


def test_every_alert_has_its_chapter_and_every_chapter_its_alert(page: str, rules: str) -> None:
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == alerts
    assert re.findall(r"runbook: docs/operations\.md#(\w+)", rules) == [alert.lower() for alert in alerts]


def test_alerts_and_queries_name_metrics_that_exist(page: str, rules: str) -> None:
    used = {*re.findall(r"\b(?:subak|process)_\w+", rules), *re.findall(r"\b(?:subak|process)_\w+", page)}
    assert used <= metric_names()


def test_a_page_without_a_metric_is_found_out(page: str) -> None:
    assert f"\n{table()}\n" not in page.replace("| `subak_streams` |", "| `subak_rivers` |")
