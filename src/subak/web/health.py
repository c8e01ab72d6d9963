"""Whether the process lives, and whether it wants traffic. Never logged, never limited."""

from aiohttp import web

from subak.relay.hub import Hub
from subak.web.problems import json_response


class HealthRoutes:
    """`/livez` and `/readyz`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def live(self, request: web.Request) -> web.Response:
        """The event loop runs: 200."""
        del request
        return json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """New streams are welcome: 200; 503 while draining. `?verbose` tells more."""
        is_ready = not self._hub.is_draining
        body: dict[str, object] = {"status": "ok" if is_ready else "draining"}
        if "verbose" in request.query:
            body |= {"live_streams": self._hub.live_count, "readers": self._hub.reader_count}
        return json_response(body, status=200 if is_ready else 503)
