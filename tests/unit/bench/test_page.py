"""The page: whole in one file, nothing from elsewhere, nothing of a target's becomes markup."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from subak.bench.chart import Axis, Mark, Series, line_chart
from subak.bench.figures import Figures
from subak.bench.load import Plan
from subak.bench.machine import Machine
from subak.bench.objectives import judge, read_objectives
from subak.bench.page import page
from subak.bench.run import Circumstances, Report
from subak.bench.tally import Tally

HOSTILE = '"><script>alert(1)</script>'


class Elements(HTMLParser):
    """The elements of a page, and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "srcset", "data", "action"}]


def report(tally: Tally) -> Report:
    figures = Figures.of("target", f"http://127.0.0.1/{HOSTILE}", tally)
    machine = Machine(2, HOSTILE, "Linux", {"subak": "1"}, 0.5)
    return Report(
        circumstances=Circumstances(datetime(2026, 11, 23, tzinfo=UTC), machine, 0.4),
        plan=Plan(rate=10.0, questions=3),
        headers=[],
        runs=[figures],
        objectives=judge(read_objectives("first_token_p95=100ms,error_rate=1%"), figures),
        advice=[HOSTILE],
    )


def measured() -> Tally:
    tally = Tally(opened=3, whole=2, errors={HOSTILE: 1})
    for at, us in enumerate((20_000, 40_000, 250_000)):
        tally.ask(float(at))
        tally.first_token.record(us)
        tally.second(float(at)).first_token.record(us)
    return tally


def test_it_fetches_nothing_and_runs_nothing() -> None:
    elements = Elements(page(report(measured())))
    assert elements.fetched == []
    assert "script" not in elements.names
    assert elements.names.count("svg") == 3  # no gap between tokens was measured


def test_a_report_of_nothing_is_a_page_too() -> None:
    assert "Nothing was measured." in page(report(Tally()))


def test_a_chart_shows_limits_that_fit_and_breaks_where_nothing_is_known() -> None:
    axis = Axis([0.0, 0.25, 0.5, 0.75, 1.0], [(0.0, "0 s")], "ms")
    chart = line_chart(
        "T", axis, [Series("p50", [1.0, 2.0, None, 3.0, 180.0])], [Mark("in", 100.0), Mark("out", 900.0)]
    )
    assert chart.count("<polyline") == 2
    assert chart.count('<line class="limit"') == 1
    assert '<text x="50" ' in chart
    assert ">200 ms</text>" in chart


def test_moments_of_a_chart_are_lines_with_a_name_below_one_another() -> None:
    axis = Axis([0.0, 1.0], [], "ms", [(0.5, "<deploy>"), (0.52, "roll-back")])
    chart = line_chart("x", axis, [Series("p50", [1.0, 2.0])])
    assert chart.count('class="moment"') == 2
    assert 'y="26">&lt;deploy&gt;<' in chart
    assert 'y="39">roll-back<' in chart
