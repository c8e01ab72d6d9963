"""Ask a gateway and read the answer to its end, through whatever happens to the line (PROTOCOL §6).

    async for event in stream("https://chat.example.org", query="What is a KITAS?"):
        if isinstance(event, Token):
            print(event.text, end="", flush=True)

The question is asked once, however often the line is cut; every event is told once, in order; only `done` ends the
answer, and anything else than a whole answer raises a `ClientError`. The rule itself is `client.rule`, without IO;
`client.line` is all that knows aiohttp. Recipes: docs/client-python.md.
"""

from subak.client.errors import AnswerExpired, AnswerFailed, ClientError, Garbled, GaveUp, Refused, Untrusted
from subak.client.events import Content, Done, Metadata, Replaced, Source, Sources, Token
from subak.client.line import Options
from subak.client.metrics import Metrics
from subak.client.rule import Patience, Wait
from subak.client.stream import AnswerStream, resume, stream

__all__ = [
    "AnswerExpired",
    "AnswerFailed",
    "AnswerStream",
    "ClientError",
    "Content",
    "Done",
    "Garbled",
    "GaveUp",
    "Metadata",
    "Metrics",
    "Options",
    "Patience",
    "Refused",
    "Replaced",
    "Source",
    "Sources",
    "Token",
    "Untrusted",
    "Wait",
    "resume",
    "stream",
]
