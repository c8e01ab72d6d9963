"""What a test run is asked for by its environment, read once here.

`SUBAK_TEST_PROFILE`: `fast` (`./dev.py check`), `default` (`./dev.py test`), `soak` (`./dev.py soak`).
`SUBAK_TEST_RUNS`: how often a repeated test repeats, whatever the profile says.
`SUBAK_TEST_LOKI_URL`: a Loki that a test may push lines to.
`CI`: set where a machine of its own runs the tests of a change; fuzzing takes its time there.
"""

import os
from typing import Final, Literal

Profile = Literal["fast", "default", "soak"]

# hypothesis examples of one property, by profile.
EXAMPLES: Final[dict[Profile, int]] = {"fast": 25, "default": 200, "soak": 5_000}


def profile() -> Profile:
    """Give the profile of this run; an unset or empty variable means `default`."""
    asked = os.environ.get("SUBAK_TEST_PROFILE") or "default"  # noqa: TID251 — the tests' one reader of the environment
    for known in EXAMPLES:
        if asked == known:
            return known
    message = f"SUBAK_TEST_PROFILE={asked!r}: expected one of {', '.join(EXAMPLES)}"
    raise ValueError(message)


def runs(fast: int, default: int, soak: int) -> int:
    """Give how often to repeat: the figure of this run's profile, or `SUBAK_TEST_RUNS` where that is set."""
    asked = os.environ.get("SUBAK_TEST_RUNS")  # noqa: TID251 — (same reason)
    if asked:
        return int(asked)
    return {"fast": fast, "default": default, "soak": soak}[profile()]


def fuzz_s() -> float:
    """Give how long one subject is fuzzed, in real seconds."""
    is_ci = bool(os.environ.get("CI"))  # noqa: TID251 — (same reason)
    return {"fast": 0.5, "default": 60.0 if is_ci else 3.0, "soak": 60.0}[profile()]


LOKI_URL: Final = os.environ.get("SUBAK_TEST_LOKI_URL", "")  # noqa: TID251 — (same reason)
"""A Loki that lines may be pushed to; empty without one."""


def child_environment(**added: str) -> dict[str, str]:
    """Give the environment for a process that a test starts: ours, without Subak's own variables, and `added`."""
    own = ("SUBAK_", "ENABLE_SSE_STREAMING", "RAG_BACKEND_URL", "API_KEYS_INTERNAL", "GRAFANA_", "LOG_LEVEL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}  # noqa: TID251 — (same)
    return inherited | added
