"""A person's visit to the demo page of an installed Subak, told as JSON.

It is a process of its own, so that it can be put into a network without any other machine.
usage: python -m tests.integration.wheel_demo COMMAND, where COMMAND is the installed `subak`.
"""

import asyncio
import json
import socket
import sys

from playwright.async_api import async_playwright

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.visit import Visit
from tests.integration.gateway import spawned


async def visit(subak: str) -> dict[str, object]:
    """Start `subak demo` in an empty folder, ask what the page proposes, and say what came."""
    async with (
        spawned([subak, "demo"], {"PYTHONPATH": ""}) as demo,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        here = Visit(await browser.new_page(), await demo.url())
        await here.page.goto(f"{here.url}/demo")
        await here.ask()
        await here.wait_phase("ended")
        return {
            "shown": await here.text(),
            "logged": (await here.log()).text,
            "sources": await here.page.get_by_role("list", name="Sources").get_by_role("listitem").count(),
            "complaints": here.complaints,
            "interfaces": [name for _, name in socket.if_nameindex()],
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(visit(sys.argv[1]))))  # noqa: T201 - what it is for
