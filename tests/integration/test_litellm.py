"""Chat completions of a real third party: LiteLLM's proxy, with mock models and in front of an origin of the tests.

It talks to nobody but this machine: prices come with the package, telemetry is off, and whatever it wanted to fetch
would go to a proxy that isn't there.
"""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest

from subak.core.errors import ErrorCode
from subak.core.events import Ending, Failed, Finished, FinishReason
from subak.core.question import Question
from subak.testing import FakeClock, RecordingSink
from subak.upstream.openai import OpenAiRequests, OpenAiTarget, OpenAiUpstream
from subak.upstream.openai_chat import OpenAiChat
from tests.integration.gateway import CHAT, data_of, get, post, question_url, terminal_of, text_of
from tests.integration.gateway import running as gateway_before
from tests.integration.upstream.asking import Asker
from tests.integration.upstream.asking_model import asking_model, bearer
from tests.litellm import STAMP, ensure_litellm
from tests.settings import child_environment

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]  # the first run installs LiteLLM

KEY = "sk-subak-test"
TEXT = "Selamat datang! Un KITAS è un permesso 😀 di soggiorno.\n\nFine."
START_S = 300
PATIENCE_S = 30
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Proxy:
    """A LiteLLM that runs. `go_on`: lets the origin behind it say more than its first word."""

    url: str
    go_on: threading.Event

    def target(self, model: str, key: str | None = KEY) -> OpenAiTarget:
        """How one of its models is asked."""
        return OpenAiTarget(url=self.url, model=model, headers={} if key is None else bearer(key))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    command = ensure_litellm()
    folder = tmp_path_factory.mktemp("litellm")
    with origin() as server, running(command, folder, config(server.url)) as url:
        yield Proxy(url, server.go_on)


def config(origin_url: str) -> dict[str, object]:
    """Give LiteLLM's settings; it reads YAML, of which JSON is a part."""

    def model(name: str, **parameters: str) -> dict[str, object]:
        common = {"model": "openai/any", "api_key": "none", "api_base": NOWHERE}
        return {"model_name": name, "litellm_params": common | parameters}

    return {
        "model_list": [
            model("mock", mock_response=TEXT),
            model("limited", mock_response="litellm.RateLimitError"),
            model("broken", mock_response="litellm.InternalServerError"),
            model("origin", api_base=f"{origin_url}/v1"),
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 20},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }


@contextmanager
def running(command: Path, folder: Path, settings: dict[str, object]) -> Iterator[str]:
    """Start LiteLLM on a free port; give its URL once it answers."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    environment = child_environment(
        HOME=str(folder),
        HTTP_PROXY=NOWHERE,
        HTTPS_PROXY=NOWHERE,
        NO_PROXY="127.0.0.1",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_TELEMETRY="False",
        NO_COLOR="1",
    )
    process = subprocess.Popen(
        [str(command), "--config", str(file), "--host", "127.0.0.1", "--port", str(_free_port())],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = _Said(process)
    try:
        yield said.wait_url()
    finally:
        process.terminate()
        process.wait(timeout=START_S)
        said.close()


def _free_port() -> int:
    """Give a port; should somebody else take it meanwhile, LiteLLM takes another one and says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class _Said:
    """What a process writes to its standard error, read as it comes."""

    MARK = "Uvicorn running on "

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._stream = process.stderr
        self._lines: list[str] = []
        self._url = ""
        self._is_known = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_url(self) -> str:
        """Give the address that it listens on, once it does."""
        self._is_known.wait(START_S)
        assert self._url, "".join(self._lines[-50:])
        return self._url

    def close(self) -> None:
        """Read the rest of a process that has ended."""
        self._thread.join()
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            if self.MARK in line:
                self._url = line.partition(self.MARK)[2].split()[0]
                self._is_known.set()
        self._is_known.set()


class _OriginServer(ThreadingHTTPServer):
    """Where the origin listens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Origin)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.go_on = threading.Event()


@contextmanager
def origin() -> Iterator[_OriginServer]:
    """Run a server of chat completions whose answer goes on as its question says."""
    with _OriginServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "o", "choices": [choice]})


_USAGE = '{"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "o", "choices": [], "usage": %s}'
_REST = {
    "finish": [
        _chunk({"reasoning_content": "hm"}),
        _chunk({"content": "mondo"}),
        _chunk({}, "length"),
        _USAGE % '{"prompt_tokens": 30, "completion_tokens": 2, "total_tokens": 32}',
        "[DONE]",
    ],
    "fail": ['{"error": {"message": "secret", "type": "server_error", "code": 500}}', "[DONE]"],
    "break off": [],
}


class _Origin(BaseHTTPRequestHandler):
    """Says one word and, when it may, what `_REST` has for the question. Where that is nothing, its length is a lie."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rest = _REST[asked["messages"][-1]["content"]]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if not rest:
            self.send_header("Content-Length", "100000")
        self.end_headers()
        self._say(_chunk({"role": "assistant", "content": "Ciao "}))
        assert isinstance(self.server, _OriginServer)
        self.server.go_on.wait(PATIENCE_S)
        for frame in rest:
            self._say(frame)

    def _say(self, frame: str) -> None:
        self.wfile.write(f"data: {frame}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's signature
        """Say nothing."""


async def test_a_second_installation_does_nothing(proxy: Proxy) -> None:
    assert proxy.url
    before = STAMP.stat()
    ensure_litellm()
    after = STAMP.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_the_text_arrives_as_it_is_with_its_account(proxy: Proxy) -> None:
    async with asking_model(proxy.target("mock"), patience_s=PATIENCE_S) as asker:
        sink, ending = await asker.ask()
    assert sink.text == TEXT
    assert len(sink.events) > 5
    assert isinstance(ending, Finished)
    assert ending.reason is FinishReason.STOP
    assert ending.usage is not None
    assert ending.usage["completion_tokens"] > 0
    assert ending.usage["prompt_tokens"] + ending.usage["completion_tokens"] == ending.usage["total_tokens"]
    assert asker.upstream.counts.dropped == 0


async def test_without_asking_for_the_account_there_is_none(proxy: Proxy) -> None:
    target = OpenAiTarget(url=f"{proxy.url}/v1", model="mock", headers=bearer(KEY), include_usage=False)
    async with asking_model(target, patience_s=PATIENCE_S) as asker:
        sink, ending = await asker.ask()
    assert (sink.text, ending) == (TEXT, Finished())


async def test_questions_share_a_connection(proxy: Proxy) -> None:
    async with asking_model(proxy.target("mock"), patience_s=PATIENCE_S) as asker:
        for _ in range(3):
            sink, _ending = await asker.ask()
            assert sink.text == TEXT
            await asker.wait_idle(1)
        assert asker.upstream.client.connections_opened == 1


async def _first_word_then_all(asker: Asker[OpenAiUpstream], proxy: Proxy, how: str) -> tuple[RecordingSink, Ending]:
    """Ask the origin; what comes after its first word is sent when that has arrived here."""
    proxy.go_on.clear()
    _, sink = await asker.open(Question(how))
    await sink.wait_events(1, PATIENCE_S)
    proxy.go_on.set()
    return sink, await sink.wait_ended(PATIENCE_S)


async def test_thoughts_and_the_reason_of_the_end_come_through(proxy: Proxy) -> None:
    async with asking_model(proxy.target("origin"), patience_s=PATIENCE_S) as asker:
        sink, ending = await _first_word_then_all(asker, proxy, "finish")
        assert asker.upstream.counts.reasoning == 1
    assert sink.text == "Ciao mondo"
    assert isinstance(ending, Finished)
    assert ending.reason is FinishReason.LENGTH
    assert ending.usage is not None
    assert (ending.usage["prompt_tokens"], ending.usage["completion_tokens"]) == (30, 2)


@pytest.mark.parametrize("how", ["fail", "break off"])
async def test_an_answer_that_breaks_behind_it_is_a_failure_and_keeps_its_text(proxy: Proxy, how: str) -> None:
    async with asking_model(proxy.target("origin"), patience_s=PATIENCE_S) as asker:
        sink, ending = await _first_word_then_all(asker, proxy, how)
    assert (sink.text, ending) == ("Ciao ", Failed(ErrorCode.UPSTREAM_ERROR, "error_frame"))


@pytest.mark.parametrize(
    ("model", "key", "code"),
    [
        ("mock", "sk-wrong", ErrorCode.UPSTREAM_ERROR),
        ("mock", None, ErrorCode.UPSTREAM_ERROR),
        ("nobody", KEY, ErrorCode.UPSTREAM_ERROR),
        ("broken", KEY, ErrorCode.UPSTREAM_ERROR),
        ("limited", KEY, ErrorCode.UPSTREAM_RATE_LIMITED),
    ],
    ids=["wrong key", "no key", "unknown model", "broken", "limited"],
)
async def test_a_refusal_is_an_upstream_error(proxy: Proxy, model: str, key: str | None, code: ErrorCode) -> None:
    async with asking_model(proxy.target(model, key), patience_s=PATIENCE_S) as asker:
        sink, ending = await asker.ask()
    assert not sink.events
    assert isinstance(ending, Failed)
    assert ending.code is code
    assert ending.reason == "auth" or ending.reason.startswith("status_")


@pytest.mark.parametrize(
    ("model", "status"), [("mock", 200), ("nobody", 502), ("broken", 502), ("limited", 429)], ids=str
)
async def test_chat_has_the_seeds_answers(proxy: Proxy, model: str, status: int) -> None:
    async with aiohttp.ClientSession() as session:
        chat = OpenAiChat(session, OpenAiRequests(proxy.target(model)), clock=FakeClock(), timeout_s=30)
        reply = await chat.answer(b'{"query": "Ciao?"}', "application/json")
    content = json.loads(reply.body)
    assert reply.status == status
    if status == 200:
        usage = content.pop("usage")
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
        assert content == {"success": True, "response": TEXT, "model_used": model, "ai_used": model}
    else:
        assert content == {"detail": content["detail"]}
        assert "litellm" not in content["detail"].lower()


async def test_whole_gateway_in_front_of_it_streams_and_answers_chat(proxy: Proxy) -> None:
    async with gateway_before(
        proxy.url,
        kept=1,
        SUBAK_UPSTREAM__KIND="openai",
        SUBAK_UPSTREAM__MODEL="mock",
        SUBAK_UPSTREAM__KEY=KEY,
    ) as gateway:
        stream = await get(gateway, question_url())
        chat = await post(gateway, CHAT, {"query": "What is a KITAS?"})
    assert text_of(stream.frames) == TEXT
    assert data_of(terminal_of(stream.frames))["finish_reason"] == "stop"
    assert chat.status == 200
    answer = json.loads(chat.body)
    assert answer["success"]
    assert answer["response"] == TEXT


async def test_whole_gateway_tells_of_its_refusals_without_its_words(proxy: Proxy) -> None:
    async with gateway_before(
        proxy.url,
        kept=1,
        SUBAK_UPSTREAM__KIND="openai",
        SUBAK_UPSTREAM__MODEL="limited",
        SUBAK_UPSTREAM__KEY=KEY,
    ) as gateway:
        stream = await get(gateway, question_url())
    assert data_of(terminal_of(stream.frames))["code"] == ErrorCode.UPSTREAM_RATE_LIMITED
    assert b"litellm" not in stream.body.lower()
