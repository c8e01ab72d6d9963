"""Prometheus' own tool has nothing to say against what we export, and our alerts fire when they should."""

import pytest

from tests.integration.gateway import ONE_LOOP, ask, get, question_url, running, scripted
from tests.integration.prometheus import RULES, promtool

pytestmark = pytest.mark.real


@ONE_LOOP
async def test_the_page_of_a_gateway_that_was_used_is_clean() -> None:
    settings = {"SUBAK_ADMIN__METRICS_PUBLIC": "true"}
    async with scripted() as upstream, running(upstream, settings) as gateway:
        await get(gateway, question_url())
        await get(gateway, "/v1/streams/nobody")
        page = await ask(gateway.gateway.admin_url, "GET", "/metrics")
        assert page.status == 200
        assert await promtool("check", "metrics", given=page.body) == (0, "")


@ONE_LOOP
async def test_promtool_would_say_what_is_wrong() -> None:
    code, said = await promtool("check", "metrics", given=b"# TYPE subak_requests counter\nsubak_requests 1\n")
    assert code != 0
    assert "_total" in said


@ONE_LOOP
async def test_the_rules_are_well_formed() -> None:
    code, said = await promtool("check", "rules", "alerts.yml")
    assert code == 0, said


@pytest.mark.slow
@ONE_LOOP
async def test_alerts_fire_when_they_should_and_only_then() -> None:
    code, said = await promtool("test", "rules", "alerts_test.yml")
    assert code == 0, said


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    rules, cases = ((RULES / name).read_text(encoding="utf-8") for name in ("alerts.yml", "alerts_test.yml"))
    alerts = [line.split()[-1] for line in rules.splitlines() if "- alert:" in line]
    assert [alert for alert in alerts if f'alertname="{alert}"' not in cases] == []
