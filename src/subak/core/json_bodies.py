"""JSON bodies as values of a type, with JSON's own idea of numbers."""

from typing import Final, TypeVar

import msgspec

_EXACT: Final = 2.0**53
"""Up to here every whole number is a float (IEEE 754)."""

_T = TypeVar("_T")


def decode_body(body: bytes, kind: type[_T]) -> _T:
    """Give a body as this kind.

    A number without a fraction is whole however it is spelled, so `10.0` is taken for 10 (RFC 8259 §6 knows one kind of
    numbers; JSON Schema 2020-12 §6.1.1).

    Raises:
        msgspec.ValidationError: it is JSON of another form. The message names types and fields, never values.
        NOT_JSON: it is no JSON.
    """
    return msgspec.convert(_with_whole_numbers(msgspec.json.decode(body)), kind)


def _with_whole_numbers(value: object) -> object:
    match value:
        case dict():
            return {name: _with_whole_numbers(each) for name, each in value.items()}
        case list():
            return [_with_whole_numbers(each) for each in value]
        case float() if value.is_integer() and abs(value) <= _EXACT:
            return int(value)
        case _:
            return value
