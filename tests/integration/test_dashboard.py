"""Every panel of the Grafana dashboard has data, by a real Prometheus that logs in to a gateway which is being used."""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest

from subak.telemetry.metrics import CATALOGUE
from tests.integration.gateway import CHAT, ONE_LOOP, Running, ask, get, post, question_url, running, scripted
from tests.integration.prometheus import RULES, Prometheus, prometheus, promtool
from tests.issuer import AUDIENCE, ISSUER, IssuerServer, issuer_server, rsa_key

DASHBOARD: Final = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"
CHOSEN: Final = {"$instance": ".*", "$__rate_interval": "10s", "$compare": "1s"}
"""What Grafana would put in the place of its variables."""
NAMES: Final = re.compile(r"\b(?:subak|process)_[a-z_]+")
LIVE: Final = {"SUBAK_AUDIT__ENABLED": "true"}

pytestmark = pytest.mark.real


class Query(NamedTuple):
    """One expression of a panel, as Prometheus is asked."""

    panel: str
    expression: str


class _Target(msgspec.Struct):
    expr: str


class _Place(msgspec.Struct):
    x: int
    y: int
    w: int
    h: int

    def overlaps(self, other: "_Place") -> bool:
        """Whether two panels lie on each other."""
        apart = self.x + self.w <= other.x or other.x + other.w <= self.x
        return not (apart or self.y + self.h <= other.y or other.y + other.h <= self.y)


class _Panel(msgspec.Struct, rename="camel"):
    id: int
    type: str
    title: str
    grid_pos: _Place
    description: str = ""
    targets: list[_Target] = []


class _Dashboard(msgspec.Struct):
    panels: list[_Panel]


def panels() -> list[_Panel]:
    """Read the dashboard."""
    return msgspec.json.decode(DASHBOARD.read_bytes(), type=_Dashboard).panels


def queries() -> Iterator[Query]:
    """Give every expression, with Grafana's variables filled in."""
    for panel in panels():
        for target in panel.targets:
            expression = target.expr
            for variable, value in CHOSEN.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, panel.title
            yield Query(panel.title, expression)


def family(name: str) -> str:
    """Give the metric that a series belongs to."""
    return re.sub(r"_(?:bucket|sum|count)$", "", name)


def alerts() -> list[tuple[str, str]]:
    """Give each alert's name and expression."""
    rules = (RULES / "alerts.yml").read_text(encoding="utf-8")
    found = re.findall(r"- alert: (\w+)\n +expr: (?:>-)?((?:.|\n)+?)\n +(?:for|labels):", rules)
    return [(name, " ".join(expression.split())) for name, expression in found]


def bare(expression: str) -> str:
    """Give an expression without the choice of series and the lengths of windows."""
    return re.sub(r"\[.*?\]", "[]", re.sub(r"\{.*?\}", "", expression))


async def use(gateway: Running) -> None:
    """Bring a figure into everything, again and again: answers, resumes, stops, refusals, `/chat`."""
    while True:
        answer = await get(gateway, question_url())
        stream_id = answer.header("Subak-Stream-Id")
        await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.2")
        await post(gateway, f"/v1/streams/{stream_id}/stop")
        await get(gateway, "/v1/streams/nobody")
        await post(gateway, CHAT, {"query": "x"})
        await asyncio.sleep(0.05)


def keys_of(issuer: IssuerServer) -> dict[str, str]:
    """Have the gateway fetch an issuer's keys, too."""
    issuer.publish(rsa_key("one"))
    return {"SUBAK_AUTH__JWKS_URL": issuer.url, "SUBAK_AUTH__ISSUER": ISSUER, "SUBAK_AUTH__AUDIENCE": AUDIENCE}


@asynccontextmanager
async def watched_gateway() -> AsyncIterator[Prometheus]:
    """Run a gateway that is used all the time, and a Prometheus that logs in to it."""
    async with issuer_server() as issuer, scripted() as upstream, running(upstream, LIVE | keys_of(issuer)) as gateway:
        operator = gateway.gateway.admin_token
        assert operator is not None
        async with (
            prometheus(urlsplit(gateway.gateway.admin_url).netloc, operator.text) as server,
            asyncio.TaskGroup() as tasks,
        ):
            using = tasks.create_task(use(gateway))
            yield server
            using.cancel()


@pytest.mark.slow
@ONE_LOOP
async def test_every_query_of_every_panel_has_data() -> None:
    async with watched_gateway() as server:
        await server.has_data("up == 1")
        for query in queries():
            assert await server.has_data(query.expression), query.panel


@pytest.mark.slow
@ONE_LOOP
async def test_what_a_live_gateway_exports_is_clean_for_whoever_has_the_token() -> None:
    async with scripted() as upstream, running(upstream, LIVE) as gateway:
        await get(gateway, question_url())
        operator = gateway.gateway.admin_token
        assert operator is not None
        assert (await ask(gateway.gateway.admin_url, "GET", "/metrics")).status == 401
        login = [("Authorization", f"Bearer {operator.text}")]
        page = await ask(gateway.gateway.admin_url, "GET", "/metrics", login)
        assert await promtool("check", "metrics", given=page.body) == (0, "")


@ONE_LOOP
async def test_promtool_understands_every_query() -> None:
    rules = [{"record": f"panel:{number}", "expr": each.expression} for number, each in enumerate(queries())]
    with tempfile.TemporaryDirectory(prefix="subak-dashboard-") as folder:
        path = Path(folder) / "queries.yml"  # JSON is YAML
        path.write_bytes(msgspec.json.encode({"groups": [{"name": "dashboard", "rules": rules}]}))
        code, said = await promtool("check", "rules", str(path))
        assert (code, f"SUCCESS: {len(rules)} rules found" in said) == (0, True), said


def test_every_metric_is_on_the_dashboard_and_nothing_else_is() -> None:
    used = {family(name) for query in queries() for name in NAMES.findall(query.expression)}
    assert used == {metric.name for metric in CATALOGUE}


def test_every_figure_that_alerts_is_on_the_dashboard() -> None:
    shown = [bare(query.expression) for query in queries()]
    figures = {name: bare(re.split(r" [<>=]=? ", expression)[0].lstrip("(")) for name, expression in alerts()}
    assert len(figures) > 15
    assert [name for name, figure in figures.items() if not any(figure in each for each in shown)] == []


def test_panels_lie_side_by_side_and_say_what_they_show() -> None:
    placed = panels()
    assert len({panel.id for panel in placed}) == len(placed)
    assert [panel.title for panel in placed if panel.type != "row" and not (panel.description and panel.targets)] == []
    assert max(panel.grid_pos.x + panel.grid_pos.w for panel in placed) == 24
    overlaps = [
        (one.title, other.title)
        for place, one in enumerate(placed)
        for other in placed[place + 1 :]
        if one.grid_pos.overlaps(other.grid_pos)
    ]
    assert overlaps == []
