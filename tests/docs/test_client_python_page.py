"""docs/client-python.md: its examples run and print what stands there, and nothing public is left out."""

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest

from subak import client
from subak.testing import End, Frame, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from tests.integration.gateway import DONE, running

PAGE: Final = (Path(__file__).parents[2] / "docs" / "client-python.md").read_text(encoding="utf-8")
EXAMPLES: Final = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", PAGE, re.DOTALL)
BEGINNING: Final = (Head(), Frame('{"text": "A KITAS "}'))
REST: Final = tuple(Frame(f'{{"text": "{text}"}}') for text in ("is a ", "limited ", "stay permit."))
SOURCES: Final = Frame('{"sources": [{"source": "kitas.md", "snippet": "A KITAS is …", "similarity": 0.8}]}')


def answer(request: RecordedRequest) -> Iterator[Step]:
    """Say what the page has its gateway say."""
    query = parse_qs(urlsplit(request.target).query)["query"][0]
    yield from BEGINNING
    if query == "Tell me everything.":
        yield Stall()
    elif query == "Fail, please.":
        yield Frame('{"error": "boom", "done": true}')
    else:
        yield from (*REST, SOURCES, DONE)
    yield End()


async def test_the_examples_run_and_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream(answer) as upstream, running(upstream) as gateway, asyncio.timeout(60):
        names: dict[str, object] = {"URL": gateway.url}
        for code, output in EXAMPLES:
            compiled = compile(code, "docs/client-python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running_code = eval(compiled, names)  # noqa: S307 - our own page
            if inspect.isawaitable(running_code):
                await running_code
            assert capsys.readouterr().out.rstrip("\n") == output.rstrip("\n")
    assert len(EXAMPLES) == PAGE.count("```python") == 7


@pytest.mark.parametrize("name", client.__all__)
def test_every_public_name_is_told_of(name: str) -> None:
    assert re.search(rf"`{name}\b|\b{name}\(", PAGE)


@pytest.mark.parametrize(
    "name",
    [
        *(field.name for field in fields(client.Options)),
        *client.Patience.__struct_fields__,
        *client.Wait.__struct_fields__,
    ],
)
def test_every_option_is_told_of(name: str) -> None:
    assert f"`{name}`" in PAGE
