"""`subak demo`: the same gateway with streaming on and, unless told otherwise, the embedded backend."""

from functools import partial

import rich_click as click

from subak.cli.options import config_option, debug_option, gateway_flags, json_logs, json_logs_option, read_settings
from subak.settings import Given


@click.command("demo")
@gateway_flags
@config_option
@json_logs_option
@debug_option
@click.pass_context
def command(ctx: click.RichContext, /, config: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Try it: everything embedded in one process, nothing to set up.

    Prints the address of a page to ask in. With --docs it answers from your own files, with --upstream your backend.
    """
    forced = {"features.sse_streaming": Given(value=True, source="subak demo"), **json_logs(as_json=as_json)}
    settings = partial(read_settings, config, flags, forced=forced)
    first = settings()

    from subak.process import run_gateway

    ctx.exit(run_gateway(first, demo=True, reload=settings))
