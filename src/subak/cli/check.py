"""`subak check`: everything that can be known to be wrong before listening.

It goes through what a start would need: settings, the state directory, documents, certificates, the event loop. It
opens no socket and asks no other machine.
"""

import importlib.util
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import rich_click as click

from subak.cli.options import config_option, debug_option, gateway_flags, json_option, load_settings
from subak.cli.output import print_json
from subak.settings import Given, Settings
from subak.state import StateError, load_secret


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `detail` says what was found; `fix`, what to do where that doesn't say it."""

    name: str
    is_ok: bool
    detail: str
    fix: str = ""


@click.command("check")
@gateway_flags
@config_option
@json_option
@debug_option
@click.pass_context
def command(ctx: click.RichContext, /, config: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Check settings, files and directories without listening.

    Takes the flags of `subak serve`, and makes the state directory and its key when they are missing. Exit code 0 means
    that a start would find everything in place.
    """
    nothing: dict[str, Given] = {}
    loaded = load_settings(config, flags, forced=nothing)
    given = sum(source != "default" for source in loaded.sources.values())
    findings = (
        Finding("settings", is_ok=True, detail=f"{given} set, the others at their defaults"),
        *provision(loaded.settings),
    )
    if as_json:
        print_json({"ok": all(each.is_ok for each in findings), "findings": [asdict(each) for each in findings]})
    else:
        _print_table(findings)
    ctx.exit(0 if all(each.is_ok for each in findings) else 1)


def provision(settings: Settings) -> tuple[Finding, ...]:
    """Look at everything that a start would need, and make the state directory. No network."""
    return tuple(_outcome(name, look) for name, look in _looks(settings))


def _looks(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    upstream = settings.upstream
    yield "state_dir", partial(_look_at_state_dir, settings.state_dir)
    yield "server.loop", partial(_look_at_loop, settings.server.loop)
    yield "upstream", partial(_describe_upstream, settings)
    if settings.knowledge.docs is not None:
        yield "knowledge.docs", partial(_look_at_docs, settings.knowledge.docs)
    if settings.features.flags_file is not None:
        yield "features.flags_file", partial(_look_at_flags_file, settings.features.flags_file)
    if upstream.token_file is not None:
        yield "upstream.token_file", partial(_look_at_token, upstream.token_file)
    if upstream.ca_file is not None:
        yield "upstream.ca_file", partial(_look_at_authorities, upstream.ca_file)
    if upstream.client_cert_file is not None:
        yield (
            "upstream.client_cert_file",
            partial(_look_at_certificate, upstream.client_cert_file, upstream.client_key_file),
        )


class _Amiss(Exception):
    """What was looked at won't do. The second argument says what to do about it."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix


def _outcome(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, is_ok=True, detail=look())
    except _Amiss as exc:
        return Finding(name, is_ok=False, detail=exc.detail, fix=exc.fix)
    except StateError as exc:
        return Finding(name, is_ok=False, detail=str(exc))
    except OSError as exc:
        detail = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        return Finding(name, is_ok=False, detail=detail, fix="correct the path, or its permissions for this user")


def _look_at_state_dir(directory: Path) -> str:
    is_new = not directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".check-"):
        pass
    load_secret(directory)
    return f"{directory.absolute()} is {'created and ' if is_new else ''}writable"


def _look_at_loop(loop: str) -> str:
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    if loop == "uvloop" and not has_uvloop:
        raise _Amiss("uvloop is not installed", 'install uvloop, or set server.loop = "auto"')
    return "asyncio" if loop == "asyncio" or not has_uvloop else "uvloop"


def _describe_upstream(settings: Settings) -> str:
    if settings.upstream.chosen_kind == "rag":
        return f"RAG backend at {settings.upstream.url}"
    writer = "extracts" if settings.llm.url is None else f"{settings.llm.model} at {settings.llm.url}"
    return f"embedded, answers by {writer}"


def _look_at_docs(directory: Path) -> str:
    if next(directory.iterdir(), None) is None:
        raise _Amiss(f"{directory} is empty", "put Markdown, HTML or text files there, or unset knowledge.docs")
    return f"{directory.absolute()} is readable"


def _look_at_flags_file(path: Path) -> str:
    from subak.admission.openfeature import FlagsFileError, read_flags_file

    try:
        read_flags_file(path)
    except FlagsFileError as exc:
        raise _Amiss(str(exc), "correct it: a gateway that starts with it streams to nobody") from exc
    return f"{path} can be used"


def _look_at_token(path: Path) -> str:
    if not path.read_bytes().strip():
        raise _Amiss(f"{path} is empty", "write the token into it")
    return f"{path} has a token"


def _look_at_authorities(path: Path) -> str:
    try:
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError as exc:
        raise _Amiss(f"{path} has no certificate that can be read", "use a PEM file") from exc
    return f"{path} has {len(context.get_ca_certs())} certificates"


def _look_at_certificate(certificate: Path, key: Path | None) -> str:
    for path in (certificate, key):
        if path is not None:
            path.open("rb").close()  # says which file it is, which load_cert_chain doesn't
    try:
        ssl.create_default_context().load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as exc:
        reason = "they don't belong together, or one isn't PEM, or the key has a password"
        raise _Amiss(
            f"{certificate} and {key or certificate}: {reason}", "use a PEM certificate and its bare key"
        ) from exc
    return f"{certificate} and its key belong together"


def _no_password() -> str:
    return ""


def _print_table(findings: tuple[Finding, ...]) -> None:
    width = max(len(each.name) for each in findings)
    for each in findings:
        click.echo(f"{'ok' if each.is_ok else 'BAD':<4}{each.name:<{width}}  {each.detail}")
        if each.fix:
            click.echo(f"{'':<{width + 6}}fix: {each.fix}")
