"""What schemathesis is told in its own process (`tests/integration/openapi.toml`)."""

import re
from typing import Any
from uuid import uuid4

import schemathesis

KEY = "Idempotency-Key"
LABELS = ("user_email", "user_role")
LABEL_BYTES = 320
VALID = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Give each question a key of its own: it makes up the same one for several, which is 422, as it must be."""
    if VALID.fullmatch(str(case.headers.get(KEY, ""))):
        case.headers[KEY] = uuid4().hex
    for fields in (case.query, case.body):
        if isinstance(fields, dict):
            _shorten(fields)


def _shorten(fields: dict[str, Any]) -> None:
    """Shorten labels with few enough characters and too many bytes: no schema can count bytes."""
    for name in LABELS:
        label = fields.get(name)
        if isinstance(label, str) and len(label) <= LABEL_BYTES:
            fields[name] = label.encode(errors="surrogatepass")[:LABEL_BYTES].decode(errors="ignore")
