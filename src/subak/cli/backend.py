"""`subak backend`: the embedded RAG backend on its own, for a chain over real sockets."""

import rich_click as click

from subak.cli.options import config_option, debug_option, json_logs, json_logs_option, load_settings, setting_flags

_MAX_PORT = 65_535


@click.command("backend")
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, _MAX_PORT),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one and says which.",
)
@setting_flags("knowledge.docs", "knowledge.pace_ms")
@config_option
@json_logs_option
@debug_option
@click.pass_context
def command(
    ctx: click.RichContext, /, config: str | None, *, host: str, port: int, as_json: bool, **flags: str | None
) -> None:
    """Run the embedded RAG backend alone, over HTTP.

    It speaks the dialect of a RAG backend, so that a gateway can stand before it: RAG_BACKEND_URL=http://127.0.0.1:8000
    """
    loaded = load_settings(config, flags, forced=json_logs(as_json=as_json))

    from subak.process import run_backend

    ctx.exit(run_backend(loaded.settings, host, port))
