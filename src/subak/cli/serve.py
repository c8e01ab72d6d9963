"""`subak serve`: the gateway, in production."""

from functools import partial

import rich_click as click

from subak.cli.options import config_option, debug_option, gateway_flags, json_logs, json_logs_option, read_settings


@click.command("serve")
@gateway_flags
@config_option
@json_logs_option
@debug_option
@click.pass_context
def command(ctx: click.RichContext, /, config: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Run the gateway in front of your backend.

    Streams are refused until ENABLE_SSE_STREAMING=true is set. SIGTERM ends it cleanly.
    """
    settings = partial(read_settings, config, flags, forced=json_logs(as_json=as_json))
    first = settings()

    from subak.process import run_gateway

    ctx.exit(run_gateway(first, demo=False, reload=settings))
