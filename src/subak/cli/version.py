"""`subak version`: what runs here, for a bug report."""

import platform
from importlib.metadata import PackageNotFoundError, version

import rich_click as click

from subak import __version__
from subak.cli.options import debug_option, json_option
from subak.cli.output import print_json
from subak.doctor.machine import has_c_extensions

_PARTS = ("aiohttp", "httptools", "uvloop", "msgspec", "structlog", "click")


@click.command("version")
@json_option
@debug_option
def command(*, as_json: bool) -> None:
    """Show the versions of Subak and of what it runs on."""
    facts = {
        "subak": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        **{part: _version_of(part) for part in _PARTS},
        "aiohttp C extensions": "loaded" if has_c_extensions() else "missing: parsing HTTP is several times slower",
    }
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact or 'not installed'}")


def _version_of(part: str) -> str | None:
    try:
        return version(part)
    except PackageNotFoundError:
        return None
