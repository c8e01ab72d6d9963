"""What the relay may expect of anything that answers.

An upstream *opens* an exchange for a question and from then on calls its sink synchronously, out of the socket's own
call-back: no task stands between a token and the log (docs/architecture.md). The adapters know nothing of logs, readers
or HTTP on the other side.
"""

from typing import Protocol

from subak.core.events import UpstreamSink
from subak.core.question import Question


class Exchange(Protocol):
    """One question under way."""

    def abort(self) -> None:
        """Close the upstream at once; the sink is not called any more. Idempotent."""

    def pause(self) -> None:
        """Stop reading, so that TCP holds the upstream back; its idle deadline stands still. Idempotent."""

    def resume(self) -> None:
        """Read on. Idempotent."""


class Upstream(Protocol):
    """Something that answers questions."""

    def check(self, question: Question) -> None:
        """Tell, before a stream is opened, whether this question can be put to it at all.

        Raises:
            QuestionTooLong: no.
        """

    async def open(self, question: Question, sink: UpstreamSink) -> Exchange:
        """Send the question; return when it is on its way, before any answer.

        Whatever the upstream does afterwards reaches the sink, deadlines included, and so do failures to answer.
        A cancelled `open` leaves nothing behind; one whose sink has got the ending returns soon.

        Raises:
            UpstreamError: it could not be reached or sent within the connect deadline (`upstream_error`,
                `upstream_timeout`), or the question can't be put to it.
        """

    async def close(self) -> None:
        """Close idle connections. Exchanges under way are aborted."""
