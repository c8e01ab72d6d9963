"""What requests tell about a wrong configuration: each thing is said once, loudly, and stays to be read.

Three mistakes are made by nearly everybody: a proxy in front that isn't trusted, so that all callers share one address
and one limit; a web page whose origin isn't allowed, which sees nothing but "network error"; tokens that nobody judges.
"""

import re
from collections.abc import Iterable, Iterator
from math import inf
from typing import Final

from subak.core.facts import CredentialsIgnored, Observer, OriginRefused, ProxyForgotten
from subak.core.live import KeySourceState
from subak.web.wording import duration

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[A-Za-z0-9._:\[\]-]{1,200}|null")


class Advice:
    """Remembers what was noticed; `texts` says what to set."""

    __slots__ = ("_observer", "texts")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.texts: dict[str, str] = {}

    def on_origin_refused(self, origin: str) -> None:
        """A page of `origin` (as it came) asked to read answers and may not."""
        if "cors_origins" in self.texts:
            return
        shown = origin if _ORIGIN.fullmatch(origin) else "(malformed)"
        self.texts["cors_origins"] = f"Pages of {shown} were refused. If it is yours, add it to http.cors_origins."
        self._observer.notify(OriginRefused(shown))

    def on_credentials_ignored(self) -> None:
        """Credentials came, and there is nothing by which they could hold."""
        if "auth" in self.texts:
            return
        self.texts["auth"] = (
            "Callers send credentials and none are judged: all of them are anonymous. Set auth.jwks_url or "
            "auth.jwt_secret with auth.issuer and auth.audience, or make keys with `subak keys create`."
        )
        self._observer.notify(CredentialsIgnored())

    def on_proxy_forgotten(self, peer: str) -> None:
        """A forwarded address came from `peer`, a private address that isn't trusted."""
        if "trusted_proxies" in self.texts:
            return
        self.texts["trusted_proxies"] = (
            f"{peer} forwards addresses of callers and isn't trusted, so all of them share its limits. "
            "If it is your proxy, add it to http.trusted_proxies."
        )
        self._observer.notify(ProxyForgotten(peer))


def advice_on_keys(sources: Iterable[KeySourceState]) -> Iterator[str]:
    """Say which callers' keys can't be read now, and what that does; nothing of those that can.

    Whoever may ask reads it: the file's path and its trouble are in the log.
    """
    for keys in sources:
        if not keys.problem:
            continue
        if keys.age_s is None:
            yield (
                "The file of API keys can't be read: keys made or revoked since don't count. "
                "`subak keys list` and the log line keys_refused say why."
            )
        elif keys.age_s == inf:
            yield f"The issuer's keys can't be fetched ({keys.problem}): no token holds. Look at auth.jwks_url."
        else:
            yield (
                f"The issuer's keys can't be fetched ({keys.problem}): those of {duration(keys.age_s)} ago go on, for "
                "a day at most; a key that was withdrawn since still counts. Look at auth.jwks_url."
            )
