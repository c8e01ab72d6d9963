"""Asking a running gateway how it stands, by its admin listener."""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import rich_click as click

from subak import __version__
from subak.cli.options import admin_token, base_url
from subak.client.wire import shown
from subak.core.errors import SubakError
from subak.core.json_errors import NOT_JSON
from subak.settings import Settings

if TYPE_CHECKING:  # looking without a gateway needs no HTTP client
    from aiohttp import StreamReader

ANSWER_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_T = TypeVar("_T")

ask_gateway_option = click.option(
    "--gateway",
    "gateway_url",
    metavar="URL",
    callback=base_url,
    help="Ask the gateway with this admin listener, such as http://127.0.0.1:9464, instead of looking here.",
)


class GatewaySilent(SubakError):
    """The gateway couldn't be asked. The text says why."""

    code = "gateway_silent"


def ask_gateway(url: str, path: str, settings: Settings, kind: type[_T]) -> _T:
    """Give what the gateway at `url` answers, with the admin token of these settings.

    Raises:
        GatewaySilent: it doesn't answer, or not so.
        OSError: the token can't be read.
    """
    token = admin_token(settings)
    if token is None:
        raise GatewaySilent("There is no admin token to ask it with: set SUBAK_ADMIN__TOKEN or SUBAK_STATE_DIR.")
    body = asyncio.run(_get(url, path, token))
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise GatewaySilent(f"What answers at {url} is no gateway of this version ({__version__}).") from error


async def _get(url: str, path: str, token: str) -> bytes:
    import aiohttp

    headers = {"Authorization": f"Bearer {token}", "User-Agent": f"subak/{__version__}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(url + path, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise GatewaySilent(f"The gateway at {url} answered {response.status}{_meaning(response.status)}.")
            return await _whole(response.content, url)
    except (aiohttp.ClientError, TimeoutError) as error:
        why = shown(str(error)) or type(error).__name__
        raise GatewaySilent(f"No gateway answers at {url} ({why}).") from error


async def _whole(content: "StreamReader", url: str) -> bytes:
    """Read a body to its end. Raises: GatewaySilent: it is past its bound."""
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise GatewaySilent(f"What answers at {url} says more than {MAX_ANSWER_BYTES} bytes: it is no gateway.")
    return bytes(body)


def _meaning(status: int) -> str:
    return ": the admin token is another one" if status == HTTPStatus.UNAUTHORIZED else ""
