"""The rehearsal's own servers: a backend whose streams can be broken, and how a server is started and stopped."""

import sys
from pathlib import Path

import pytest

from tests.integration.gateway import ONE_LOOP, ask
from tests.integration.prometheus import free_port
from tests.rehearsal.backend import STREAM_PATH
from tests.rehearsal.chat import BACKEND_CHAT, QUESTIONS, ask_chat, asked, essence_of, learn
from tests.rehearsal.deployment import ROOT, Server
from tests.rehearsal.expect import Unmet

pytestmark = ONE_LOOP


async def test_a_bad_release_breaks_every_stream_and_leaves_chat_as_it_was(tmp_path: Path) -> None:
    fault, port = tmp_path / "fault", free_port()
    backend = Server("backend", tmp_path, f"http://127.0.0.1:{port}", "/health")
    await backend.start(
        *(sys.executable, "-m", "tests.rehearsal.backend", str(port), fault), PYTHONPATH=f"{ROOT / 'src'}:{ROOT}"
    )
    case = asked(QUESTIONS[0])
    try:
        compared = await learn(backend.url)
        assert {reference.status for reference in compared.references.values()} == {200}
        whole = await ask_chat(backend.url, case, STREAM_PATH)
        assert (whole.status, whole.is_clean, b'"done"' in whole.body) == (200, True, True)
        fault.touch()
        broken = [await ask_chat(backend.url, case, STREAM_PATH) for _ in range(4)]
        assert [(answer.status, answer.is_clean) for answer in broken] == [(200, False), (500, True)] * 2
        compared.take(QUESTIONS[0], await ask_chat(backend.url, case, BACKEND_CHAT))
        assert (compared.count, compared.differences) == (1, [])
        fault.unlink()
        assert essence_of(await ask_chat(backend.url, case, STREAM_PATH)).is_whole
    finally:
        await backend.stop()
    with pytest.raises(ConnectionRefusedError):
        await ask(backend.url, "GET", "/health")


async def test_a_server_that_ends_at_once_is_told_with_what_it_said(tmp_path: Path) -> None:
    server = Server("nothing", tmp_path, f"http://127.0.0.1:{free_port()}", "/health")
    with pytest.raises(Unmet, match=r"nothing runs: .*it can't"):
        await server.start(sys.executable, "-c", "raise SystemExit('it can\\'t')")
    await server.stop()
