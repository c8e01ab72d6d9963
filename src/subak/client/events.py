"""What an answer consists of, as its reader is told of it: in order, each event once.

`seq` is the event's place in the answer's log, from 1. As JSON each has its name in `type`.
"""

from collections.abc import Mapping

import msgspec


class Metadata(msgspec.Struct, frozen=True, tag_field="type", tag="metadata"):
    """The gateway has taken the question."""

    stream_id: str
    connection_id: str
    seq: int


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token"):
    """The next piece of the text. After a repair one piece may stand for several of the gateway's, up to `seq`."""

    text: str
    seq: int


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a part of an answer comes from. `similarity` is from 0 to 1."""

    source: str
    snippet: str
    similarity: float
    tier: str | None = None
    date_last_crawled: str | None = msgspec.field(default=None, name="dateLastCrawled")


class Sources(msgspec.Struct, frozen=True, tag_field="type", tag="sources"):
    """Where what was said comes from; an answer may have several of these."""

    items: tuple[Source, ...]
    seq: int


class Replaced(msgspec.Struct, frozen=True, tag_field="type", tag="replaced"):
    """The whole text up to `seq`, instead of all that was told before: what was told doesn't stand any more."""

    text: str
    seq: int


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done", omit_defaults=True):
    """The end. `finish_reason`: stop, length, content_filter, cancelled or abandoned (PROTOCOL §3).

    `usage` is the upstream's account, `metrics` the gateway's own figures; both only where the gateway told them.
    """

    finish_reason: str
    seq: int
    usage: Mapping[str, int] | None = None
    metrics: Mapping[str, float | None] | None = None


Content = Metadata | Token | Sources | Replaced | Done
