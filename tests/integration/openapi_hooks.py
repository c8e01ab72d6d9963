"""What schemathesis is told in its own process (`tests/integration/openapi.toml`)."""

import re
from typing import Any
from uuid import uuid4

import schemathesis

KEY = "Idempotency-Key"
VALID = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Give each question a key of its own: it makes up the same one for several, which is 422, as it must be."""
    if VALID.fullmatch(str(case.headers.get(KEY, ""))):
        case.headers[KEY] = uuid4().hex
