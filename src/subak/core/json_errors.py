"""The errors by which a JSON decoder says that it can't read something, under one name."""

from typing import Final

import msgspec

NOT_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
"""No JSON, nested too deep, or bytes that aren't UTF-8 (a `str` with lone surrogates).

JSON of another form than expected is among them: catch `msgspec.ValidationError` first where that is told apart.
"""
