"""What the settings say about the way to what answers: who can read it on the way. No network."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from subak.admission.api_keys import FILE as KEY_FILE
from subak.doctor.findings import Check, Finding, failed, fine, warning
from subak.settings import Settings
from subak.settings import Upstream as UpstreamSettings
from subak.upstream.http1 import parse_base_url


def look_at_wiring(settings: Settings) -> Iterator[Finding]:
    """Judge the URLs of everything that answers, and how questions are put to it."""
    urls = [*upstream_urls(settings.upstream), *([settings.llm.url] if settings.llm.url is not None else [])]
    for url in urls:
        yield judge_scheme(Check.UPSTREAM_SCHEME, url)
    if settings.upstream.chosen_kind == "rag":
        yield judge_method(settings.upstream.method)
    yield from judge_callers(settings)


def upstream_urls(upstream: UpstreamSettings) -> list[str]:
    """Give the base URLs of what answers, the first choice first; none where it is embedded."""
    if upstream.chosen_kind == "embedded" or upstream.url is None:
        return []
    return [upstream.url, *upstream.fallback_urls]


def authority_of(url: str) -> str:
    """Give host and port of a base URL, as they may be shown."""
    return parse_base_url(url)[0].authority


def judge_scheme(check: Check, url: str) -> Finding:
    """Judge whether what goes to a URL can be read on the way."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return fine(check, f"{authority_of(url)} by TLS")
    if is_loopback(parts.hostname or ""):
        return fine(check, f"{authority_of(url)} without TLS, on this machine")
    seen = f"{authority_of(url)} without TLS: questions, answers and credentials can be read on the way"
    return warning(check, seen, "use https:// there, unless every network in between is yours")


def judge_callers(settings: Settings) -> Iterator[Finding]:
    """Judge who may speak for callers, and whether callers can prove who they are. Nothing to say is no finding."""
    everybody = [text for text in settings.http.trusted_proxies if ip_network(text).prefixlen == 0]
    if everybody:
        seen = f"{everybody[0]} trusts everybody: any caller is any address, and any user by x-user-id"
        yield failed(Check.TRUSTED_PROXIES, seen, "name the proxies in front, and no others")
    auth = settings.auth
    judges = (auth.jwt_secret, auth.jwks_url, auth.internal_keys)
    if auth.required and all(judge is None for judge in judges) and not (settings.state_dir / KEY_FILE).exists():
        seen = "auth.required, and nothing is set up by which credentials could hold: everybody is refused"
        yield failed(Check.CREDENTIALS, seen, "set auth.jwks_url or auth.jwt_secret, or run `subak keys create`")


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def judge_method(method: str) -> Finding:
    """Judge where questions stand (PROTOCOL §7, I18): a URL is written into access logs, a body isn't."""
    if method == "post":
        return fine(Check.UPSTREAM_METHOD, "questions are posted")
    which = "questions stand" if method == "get" else "questions that fit stand"
    return warning(
        Check.UPSTREAM_METHOD,
        f"{method}: {which} in the URL, and so in the backend's access log",
        "set SUBAK_UPSTREAM__METHOD=post if the backend takes that; else keep query strings out of its log",
    )
