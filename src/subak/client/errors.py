"""Why there is no whole answer. The text that had come is kept by the `AnswerStream`, and so is its cursor."""


class ClientError(Exception):
    """Root of the tree. `code` is stable and for programs, the text is for people.

    `is_retryable`: asking again may succeed, not before `retry_after_s` seconds where that is known. A retry is a new
    question, with a new `stream`.
    """

    code: str = "client_error"

    def __init__(self, text: str, *, is_retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.is_retryable = is_retryable
        self.retry_after_s = retry_after_s


class AnswerFailed(ClientError):
    """The answer broke: its `error` event. `code` is one of PROTOCOL §3."""

    def __init__(self, code: str, text: str, *, is_retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(text, is_retryable=is_retryable, retry_after_s=retry_after_s)
        self.code = code


class Refused(ClientError):
    """The gateway doesn't take the request, and won't however often it comes. `status` is the HTTP status."""

    def __init__(
        self, status: int, code: str, text: str, *, is_retryable: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(text, is_retryable=is_retryable, retry_after_s=retry_after_s)
        self.status = status
        self.code = code


class AnswerExpired(ClientError):
    """The gateway has this answer no more: it was restarted, or the answer ended too long ago."""

    code = "answer_expired"

    def __init__(self) -> None:
        super().__init__(
            "The gateway has this answer no more: it was restarted, or the answer ended too long ago. "
            "What had come is kept; ask again for the rest.",
            is_retryable=True,
        )


class GaveUp(ClientError):
    """Nothing came in so many attempts. The same answer can be read on by its cursor, if there is one."""

    code = "gave_up"

    def __init__(self, attempts: int, reason: str, cursor: str) -> None:
        on = f" Read on later by resume(…, {cursor!r})." if cursor else ""
        super().__init__(f"Nothing came in {attempts} attempts, the last one {reason}.{on}", is_retryable=True)
        self.cursor = cursor


class Garbled(ClientError):
    """What came is past a bound, so it can't be a stream of a gateway that keeps to its own."""

    code = "garbled"


class Untrusted(ClientError):
    """The server's certificate doesn't hold: nothing was sent."""

    code = "untrusted"
