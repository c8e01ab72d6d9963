"""Where orders are carried out: by the gateway that writes the log, asked by its admin API, else here."""

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import rich_click as click

from subak import __version__
from subak.audit.anchors import append_anchor
from subak.audit.errors import LogInUse
from subak.audit.opening import open_writer
from subak.audit.operations import Operation
from subak.audit.orders import Authority, Disclose, Erase, HoldOn, Order, Release
from subak.audit.records import Personal, Record, Subject
from subak.audit.sqlite import LOG_FILE
from subak.audit.verdict import DAY_MS
from subak.audit.writer import LogWriter
from subak.cli.audit.failures import GatewayRefused
from subak.cli.flags import actor
from subak.cli.options import admin_token
from subak.clocks import SystemClock
from subak.core.json_errors import NOT_JSON
from subak.inspecting import NoLog, read_keys, store_of
from subak.settings import Settings
from subak.state import ADMIN_TOKEN_FILE, StateError, load_secret

if TYPE_CHECKING:  # without a gateway no HTTP client is needed
    import aiohttp

ANSWER_S: Final = 150.0
HERE: Final = "no gateway writes the log: done here"
MAX_ANSWER_BYTES: Final = 1024 * 1024
_SAY_WHO: Final = (Erase, HoldOn, Release, Disclose)
_NO_ACTOR: Final = re.compile(r"[^A-Za-z0-9._@+-]")
_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


class Done(NamedTuple):
    """What came of an order, and who carried it out."""

    result: Mapping[str, object]
    by: str


def carry_out(order: Order, settings: Settings, gateway_url: str | None) -> Done:
    """Have an order carried out.

    Raises:
        GatewayRefused, and what `subak.audit.orders` and `open_writer` raise.
    """
    try:
        writer = open_log(settings)
    except LogInUse as error:
        return _ask_gateway(order, settings, gateway_url, error)
    with closing(writer):
        who = Personal(Subject("principal", actor()))
        result = order.carry_out(writer, Authority(who, settings.audit.retention_days * DAY_MS))
        if not isinstance(order, _SAY_WHO):
            fields = {"action": f"audit/{order.name}", "outcome": "done"}
            writer.write(Record(Operation.ADMIN_ACTION, fields, personal=who))
        writer.seal()
    return Done(msgspec.to_builtins(result), HERE)


def open_log(settings: Settings) -> LogWriter:
    """Open the log to write; it must be there.

    Raises:
        LogInUse: a gateway, or another command, has it. NoLog, KeyFileError, StoreUnavailable, StoreDamaged.
    """
    read_keys(settings)
    check_owner(settings.state_dir)
    path = settings.state_dir / LOG_FILE
    if settings.audit.store == "sqlite" and not path.is_file():
        raise NoLog(f"{path}: there is no audit log. Name its state directory with SUBAK_STATE_DIR or --config.")
    return open_writer(
        settings.state_dir,
        SystemClock(),
        open_store=store_of(settings),
        digest_secret=load_secret(settings.state_dir),
        publish=lambda note: _publish(settings, note),
        on_keys_created=lambda _path, _vkey: None,
    )


def check_owner(state_dir: Path) -> None:
    """Keep root from making files there that the gateway's account can't open.

    Raises:
        StateError: the directory is somebody else's.
    """
    owner = state_dir.stat().st_uid
    if owner != os.geteuid():
        raise StateError(
            f"{state_dir}: it belongs to uid {owner}. Run this as that user: what is written as another one the "
            "gateway can't open."
        )


def _publish(settings: Settings, note: str) -> None:
    """Keep the anchor file whole; the next checkpoint of a gateway covers this one in its log lines."""
    if settings.audit.anchor_file is None:
        return
    try:
        append_anchor(settings.audit.anchor_file, note)
    except OSError as error:
        click.echo(f"subak: the anchor file wasn't written: {error}", err=True)


def _ask_gateway(order: Order, settings: Settings, gateway_url: str | None, in_use: LogInUse) -> Done:
    if gateway_url is None and not settings.admin.enabled:
        raise GatewayRefused(
            "A gateway writes the log, and its admin listener is off: turn it on, or stop the gateway."
        )
    url = (gateway_url or _url_of(settings)).rstrip("/")
    with asyncio.Runner() as runner:
        result = runner.run(_order(url, order, settings, str(in_use)))
    return Done(result, f"carried out by the gateway at {url}")


def _url_of(settings: Settings) -> str:
    host, port = settings.admin.host, settings.admin.port
    if port == 0:
        raise GatewayRefused("A gateway writes the log, on an admin port of its own choice: name it with --gateway.")
    host = "127.0.0.1" if host in _ANY_ADDRESS else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _order(url: str, order: Order, settings: Settings, in_use: str) -> Mapping[str, object]:
    """Ask the gateway, once it is known to write this very log."""
    import aiohttp

    headers = {
        "Authorization": f"Bearer {_token_of(settings)}",
        "X-Subak-Actor": _NO_ACTOR.sub(".", actor()),
        "User-Agent": f"subak/{__version__}",
    }
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            await _check_origin(session, url, settings)
            async with session.post(f"{url}/-/audit/{order.name}", json=msgspec.to_builtins(order)) as response:
                return await _answer_of(response)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise GatewayRefused(
            f"{in_use} No gateway could be asked at {url} ({why}): name its admin listener with --gateway."
        ) from error


async def _check_origin(session: "aiohttp.ClientSession", url: str, settings: Settings) -> None:
    """Keep an order from the wrong log: instances may share a token."""
    async with session.get(f"{url}/-/audit/checkpoint") as response:
        note = str((await _answer_of(response)).get("note", ""))
    theirs, ours = note.partition("\n")[0], read_keys(settings).origin
    if theirs != ours:
        raise GatewayRefused(
            f"The gateway at {url} writes the log {theirs}, and this one is {ours}: give its --gateway."
        )


async def _answer_of(response: "aiohttp.ClientResponse") -> Mapping[str, object]:
    body = await response.content.read(MAX_ANSWER_BYTES)
    try:
        answer: dict[str, object] = msgspec.json.decode(body, type=dict[str, object])
    except NOT_JSON:
        answer = {}
    if response.status == HTTPStatus.OK:
        return answer
    told = answer.get("detail") or answer.get("title") or response.reason
    is_answer = response.status == HTTPStatus.CONFLICT
    where = "" if is_answer else f"The gateway at {response.url.origin()} answered {response.status}: "
    raise GatewayRefused(f"{where}{told}", is_answer=is_answer)


def _token_of(settings: Settings) -> str:
    token = admin_token(settings)
    if token is None:
        path = settings.state_dir / ADMIN_TOKEN_FILE
        raise GatewayRefused(
            f"A gateway writes the log, and there is no {path} to ask it with: set SUBAK_ADMIN__TOKEN."
        )
    return token
