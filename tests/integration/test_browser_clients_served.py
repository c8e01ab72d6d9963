"""The browser clients as the gateway serves them: right types, nothing sniffed, fetched once."""

import pytest

from tests.integration.gateway import ONE_LOOP, get, running

pytestmark = ONE_LOOP

JAVASCRIPT = "text/javascript; charset=utf-8"
SERVED = {
    "subak-client.js": JAVASCRIPT,
    "subak-client.classic.js": JAVASCRIPT,
    "bali-zero-stream-client.js": JAVASCRIPT,
    "bali-zero-stream-example.js": JAVASCRIPT,
    "bali-zero-stream-example.css": "text/css; charset=utf-8",
    "bali-zero-stream-example.html": "text/html; charset=utf-8",
}


@pytest.mark.parametrize("name", SERVED)
async def test_a_client_is_served_with_its_type_and_fetched_again_only_when_it_changed(name: str) -> None:
    async with running() as gateway:
        first = await get(gateway, f"/static/{name}")
        assert (first.status, first.header("Content-Type")) == (200, SERVED[name])
        assert first.header("X-Content-Type-Options") == "nosniff"
        assert first.header("Cache-Control") == "no-cache"
        etag = first.header("ETag") or ""
        assert etag.startswith('"')

        again = await get(gateway, f"/static/{name}", If_None_Match=f'"older", {etag}')
        assert (again.status, again.body, again.header("ETag")) == (304, b"", etag)
        assert (await get(gateway, f"/static/{name}", If_None_Match='"older"')).body == first.body
