"""The limits as response headers: the three that everybody reads, and the IETF's two (PROTOCOL §2)."""

from math import ceil

from subak.admission.limiter import Decision
from subak.core.quota import US_PER_S, ConcurrencyPolicy, QuotaPolicy, Verdict

_US_PER_MS = 1_000


def limit_headers(decision: Decision, now_ms: int, *, ietf: bool) -> dict[str, str]:
    """Give the headers of a limited answer; `now_ms` since the epoch. Empty when nothing was charged.

    `X-RateLimit-*` show one policy: the one in the way, else the tightest. `-Reset` is the epoch second at which the
    next request is admitted. A policy that counts streams shows only when it refuses, for its figures change with no
    request of the caller's; one that all callers share never shows. A refusal has `Retry-After` too.
    """
    listed = [verdict for verdict in decision.verdicts if _is_listed(verdict, decision.refusal)]
    headers = _figures(_shown(listed, decision.refusal), now_ms) if listed else {}
    if decision.refusal is not None:
        headers["Retry-After"] = str(decision.refusal.retry_after_s)
    if ietf and listed:
        headers["RateLimit-Policy"] = ", ".join(_policy_item(verdict.policy) for verdict in listed)
        headers["RateLimit"] = ", ".join(_limit_item(verdict) for verdict in listed)
    return headers


def _is_listed(verdict: Verdict, refusal: Verdict | None) -> bool:
    policy = verdict.policy
    return isinstance(policy, QuotaPolicy) or (verdict is refusal and not policy.is_shared)


def _shown(listed: list[Verdict], refusal: Verdict | None) -> Verdict:
    return refusal if refusal in listed else min(listed, key=lambda verdict: verdict.remaining)


def _figures(verdict: Verdict, now_ms: int) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(verdict.policy.limit),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(_reset_s(verdict, now_ms)),
    }


def _reset_s(verdict: Verdict, now_ms: int) -> int:
    if verdict.has_room:
        return now_ms // 1_000
    return -(-(now_ms * _US_PER_MS + verdict.wait_us) // US_PER_S)


def _policy_item(policy: QuotaPolicy | ConcurrencyPolicy) -> str:
    """Give an item of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers §3): whole seconds, never 0."""
    if isinstance(policy, QuotaPolicy):
        return f'"{policy.name}";q={policy.limit};w={ceil(policy.window_s)}'
    return f'"{policy.name}";q={policy.limit};qu="concurrent-requests"'


def _limit_item(verdict: Verdict) -> str:
    """Give an item of RateLimit (§4): `t` only when nothing remains; otherwise more is admitted now."""
    item = f'"{verdict.policy.name}";r={verdict.remaining}'
    return item if verdict.has_room else f"{item};t={verdict.retry_after_s}"
