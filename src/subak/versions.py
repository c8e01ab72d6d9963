"""What runs here, for a bug report and for operators. Standard library only; parts are looked at by name."""

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from subak import __version__

_PARTS: Final = ("aiohttp", "httptools", "uvloop", "msgspec", "cryptography", "structlog", "click")


def versions() -> dict[str, str | None]:
    """Give the version of each part; None for one that isn't installed."""
    return {
        "subak": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        **{part: _version_of(part) for part in _PARTS},
        "aiohttp C extensions": "loaded" if has_c_extensions() else "missing: parsing HTTP is several times slower",
    }


def has_c_extensions() -> bool:
    """Tell whether aiohttp parses and writes HTTP by its compiled modules.

    Raises:
        ImportError: there is no aiohttp, or it doesn't load.
    """
    parser, writer = import_module("aiohttp.http_parser"), import_module("aiohttp.http_writer")
    return (
        parser.HttpRequestParser is not parser.HttpRequestParserPy
        and writer._serialize_headers is not writer._py_serialize_headers  # noqa: SLF001 - no public way to ask
    )


def _version_of(part: str) -> str | None:
    try:
        return version(part)
    except PackageNotFoundError:
        return None
