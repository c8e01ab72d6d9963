"""`subak serve` tells systemd how it is: `Type=notify`, with a real socket in systemd's place."""

import asyncio
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import pytest

from subak.notify import PATIENCE_S, ServiceManager
from subak.testing import PATIENCE_S as TEST_PATIENCE_S
from tests.integration.gateway import ONE_LOOP, STARTING_S, ask, process


class Listener:
    """A datagram socket as systemd opens one, at a path or at an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    async def hear(self) -> str:
        async with asyncio.timeout(STARTING_S):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()

    @property
    def is_silent(self) -> bool:
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True


@pytest.fixture(params=["path", "abstract name"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify") if request.param == "path" else f"@subak-test-{uuid4().hex}")
    yield made
    made.socket.close()


@ONE_LOOP
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_ready_is_told_when_it_answers_and_stopping_when_it_drains(listener: Listener, loop: str) -> None:
    async with process("serve", NOTIFY_SOCKET=listener.address, SUBAK_SERVER__LOOP=loop) as subak:
        assert await listener.hear() == "READY=1"
        assert (await ask(await subak.url(), "GET", "/livez")).status == 200
        assert listener.is_silent
        subak.signal(signal.SIGTERM)
        assert await listener.hear() == "STOPPING=1"
        code, _, err = await subak.ended()
        assert (code, "systemd" in err) == (0, False)
        assert listener.is_silent


@ONE_LOOP
async def test_a_reload_is_told_from_its_beginning_to_its_end_whatever_comes_of_it(listener: Listener) -> None:
    async with process("serve", NOTIFY_SOCKET=listener.address) as subak:
        assert await listener.hear() == "READY=1"
        before = time.monotonic_ns() // 1_000
        for settings in ("", "no_such_key = 1\n"):
            Path(f"/proc/{subak.process.pid}/cwd/subak.toml").write_text(settings, encoding="utf-8")
            subak.signal(signal.SIGHUP)
            told = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", await listener.hear())
            assert told is not None
            assert before < int(told[1]) <= time.monotonic_ns() // 1_000
            assert await listener.hear() == "READY=1"


@ONE_LOOP
async def test_a_gateway_whose_service_manager_has_gone_says_so_and_answers(tmp_path: Path) -> None:
    async with process("serve", NOTIFY_SOCKET=str(tmp_path / "nobody")) as subak:
        assert (await ask(await subak.url(), "GET", "/livez")).status == 200
        subak.signal(signal.SIGTERM)
        code, _, err = await subak.ended()
        assert code == 0
        assert err.count("systemd can't be told how the gateway is, by NOTIFY_SOCKET") == 2


async def test_without_a_service_manager_nothing_is_told() -> None:
    manager = ServiceManager()
    await manager.ready()
    await manager.reloading()
    await manager.stopping()


async def test_a_service_manager_that_does_not_listen_is_given_up(listener: Listener) -> None:
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with filler:
        filler.setblocking(False)
        filler.connect(listener.socket.getsockname())
        with pytest.raises(BlockingIOError):
            deque(map(filler.send, repeat(b"x")), maxlen=0)
        async with asyncio.timeout(PATIENCE_S + TEST_PATIENCE_S):
            with pytest.raises(TimeoutError):
                await ServiceManager(listener.address).ready()
