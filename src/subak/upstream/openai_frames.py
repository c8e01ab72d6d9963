"""What the frames of chat completions mean (PROTOCOL §5): body bytes in, typed events and one ending out. No IO.

    data                                     becomes
    ---------------------------------------  -------------------------------------------------------------------
    choices[0].delta.content, or .refusal    a token; none when it is empty. A list of parts: its texts, joined
    … .reasoning_content, .reasoning         nothing: what a model thinks is no part of its answer; counted
    … .tool_calls, .function_call            nothing: nobody here can call them; counted
    choices[0].finish_reason                 how the answer ends, when it ends; `error` and the like end it, failed
    usage, in any chunk                      the account that goes with the ending; the last one holds
    [DONE]                                   the end
    an `error`, whatever else stands in it   the end, failed; with a type or code of rate limits: rate-limited
    any other JSON                           nothing; counted
    what can't be read as JSON               the end, failed

Some servers send no `[DONE]`: a body that stops after a finish reason is complete, without one it is truncated. Of
several choices only the first is the answer. SSE event names and comments aren't looked at. Thoughts that a server
leaves inside the content (`<think>`) can't be told from it and stay.
"""

import json
from typing import Final

import msgspec

from subak.core.errors import ErrorCode
from subak.core.events import Ending, Event, Failed, Finished, FinishReason
from subak.core.json_errors import NOT_JSON
from subak.upstream.frames import BAD_JSON, ERROR_FRAME, JSON_SPACE, Frames, usage_of

_DONE: Final = "[DONE]"
_RATE_LIMITED: Final = Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "error_frame")
_TOO_MANY_REQUESTS: Final = "429"
# Types, codes and statuses of errors, in lower case, that ask to come back later.
_RATE_LIMITS: Final = frozenset(
    {
        _TOO_MANY_REQUESTS,
        "insufficient_quota",
        "rate_limit",
        "rate_limit_error",
        "rate_limit_exceeded",
        "ratelimiterror",
        "resource_exhausted",
        "throttling_error",
        "too_many_requests",
    }
)
# Finish reasons, in lower case; what stands in neither table is an answer that is complete (`stop`, `tool_calls`, …).
_FINISHED: Final = {
    "content_filter": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
}
_FAILED: Final = {
    "abort": Failed(ErrorCode.UPSTREAM_TRUNCATED, "finish_abort"),
    "insufficient_system_resource": Failed(ErrorCode.UPSTREAM_TRUNCATED, "finish_abort"),
    "error": Failed(ErrorCode.UPSTREAM_ERROR, "finish_error"),
    "network_error": Failed(ErrorCode.UPSTREAM_ERROR, "finish_error"),
}
_NOT_YET: Final = frozenset({"", "null"})


class Message(msgspec.Struct, frozen=True):
    """A delta of a streamed answer, or the message of a whole one; its members aren't checked yet."""

    content: object = None
    refusal: object = None
    reasoning_content: object = None
    reasoning: object = None
    tool_calls: object = None
    function_call: object = None


class Choice(msgspec.Struct, frozen=True):
    """One of the answers asked for."""

    index: object = None
    delta: Message | None = None
    message: Message | None = None
    finish_reason: object = None


class Completion(msgspec.Struct, frozen=True):
    """A chunk of a streamed answer, or a whole one."""

    choices: list[Choice] | None = None
    usage: object = None
    error: object = None
    model: object = None
    kind: object = msgspec.field(default=None, name="object")


_decode = msgspec.json.Decoder(Completion).decode
_MESSAGE_MEMBERS: Final = frozenset(Message.__struct_fields__)


class OpenAiCounts:
    """What is counted over all answers.

    `dropped`: frames of no known shape. `reasoning`, `tool_calls`: frames with what isn't part of an answer.
    """

    __slots__ = ("dropped", "reasoning", "tool_calls")

    def __init__(self) -> None:
        self.dropped = 0
        self.reasoning = 0
        self.tool_calls = 0


class OpenAiFrames(Frames):
    """Reads one answer. After an ending it is not fed any more."""

    __slots__ = ("_counts", "_reason", "_usage")

    def __init__(self, counts: OpenAiCounts, *, max_event_bytes: int) -> None:
        """`max_event_bytes` bounds a line and an event of the body."""
        super().__init__(max_event_bytes=max_event_bytes)
        self._counts = counts
        self._reason: FinishReason | None = None
        self._usage: dict[str, int] | None = None

    def take(self, data: str, at_ms: int, events: list[Event]) -> Ending | None:
        """Add what one frame's data means to `events`; give the ending, if it is one."""
        if not data.startswith("{"):
            text = data.strip(JSON_SPACE)
            if text == _DONE:
                return Finished(self._reason or FinishReason.STOP, self._usage)
            if not text:
                return None
        try:
            chunk = decode_completion(data)
        except ValueError:
            return BAD_JSON
        if is_error(chunk):
            return failure_of(chunk.error)
        return self._take_chunk(chunk, at_ms, events)

    def cut(self, failed: Failed, at_ms: int) -> tuple[list[Event], Ending]:
        """Give what was held back, and the ending: the answer's own if the model had said why it ended."""
        events, ending = super().cut(failed, at_ms)
        return events, ending if self._reason is None else Finished(self._reason, self._usage)

    def _take_chunk(self, chunk: Completion, at_ms: int, events: list[Event]) -> Ending | None:
        if chunk.usage is not None:
            self._usage = usage_of(chunk.usage) or self._usage
        if chunk.choices is None:
            self._counts.dropped += chunk.usage is None
            return None
        for choice in chunk.choices:
            ending = self._take_choice(choice, at_ms, events) if is_first(choice) else None
            if ending is not None:
                return ending
        return None

    def _take_choice(self, choice: Choice, at_ms: int, events: list[Event]) -> Ending | None:
        delta = choice.delta
        if delta is not None:
            text = delta.content if type(delta.content) is str else text_of(delta)
            if text:
                self.add_token(text, at_ms, events)
            self._count(delta)
        if choice.finish_reason is None:
            return None
        ending = ending_of(choice.finish_reason)
        if isinstance(ending, Failed):
            return ending
        self._reason = ending or self._reason
        return None

    def _count(self, delta: Message) -> None:
        if delta.reasoning_content or delta.reasoning:
            self._counts.reasoning += 1
        if delta.tool_calls or delta.function_call:
            self._counts.tool_calls += 1


def decode_completion(data: str | bytes) -> Completion:
    """Read a chunk or a whole answer; JSON of another shape gives one without members.

    What the strict decoder refuses is tried by the lenient one, which takes lone surrogates, NaN and large numbers.

    Raises:
        ValueError: it isn't JSON, or is nested too deep.
    """
    try:
        return _decode(data)
    except NOT_JSON:
        pass
    try:
        loose = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return _completion(loose) if isinstance(loose, dict) else Completion()


def is_error(completion: Completion) -> bool:
    """Tell whether this says that something failed. `false` and `null` are no error, an empty one is."""
    if completion.error is not None and completion.error is not False:
        return True
    return completion.kind == "error"


def failure_of(error: object) -> Failed:
    """Give the ending for an `error` as it came: its words never leave here, only whether it was a limit."""
    if not isinstance(error, dict):
        return ERROR_FRAME
    marks = [error.get(name) for name in ("type", "code", "status")]
    is_limit = any(str(mark).lower() in _RATE_LIMITS for mark in marks if isinstance(mark, str | int))
    return _RATE_LIMITED if is_limit else ERROR_FRAME


def ending_of(finish_reason: object) -> FinishReason | Failed | None:
    """Tell what a finish reason says of the answer; None when it says nothing yet."""
    if not isinstance(finish_reason, str):
        return None
    word = finish_reason.lower()
    if word in _NOT_YET:
        return None
    return _FAILED.get(word) or _FINISHED.get(word, FinishReason.STOP)


def is_first(choice: Choice) -> bool:
    """Tell whether this choice is the answer: the one of index 0, or without one."""
    return choice.index == 0 or choice.index is None


def text_of(message: Message) -> str:
    """Give the answer's text in this message: its content, or what it says when it refuses."""
    content = message.content if message.content is not None else message.refusal
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join([_part_text(part) for part in content])
    return ""


def _part_text(part: object) -> str:
    if isinstance(part, dict):
        part = part.get("text")
    return part if isinstance(part, str) else ""


def _completion(members: dict[str, object]) -> Completion:
    """Take of a mapping what is of the right shape."""
    choices = members.get("choices")
    return Completion(
        choices=[_choice(each) for each in choices if isinstance(each, dict)] if isinstance(choices, list) else None,
        usage=members.get("usage"),
        error=members.get("error"),
        model=members.get("model"),
        kind=members.get("object"),
    )


def _choice(members: dict[str, object]) -> Choice:
    return Choice(
        index=members.get("index"),
        delta=_message(members.get("delta")),
        message=_message(members.get("message")),
        finish_reason=members.get("finish_reason"),
    )


def _message(members: object) -> Message | None:
    if not isinstance(members, dict):
        return None
    return Message(**{name: members[name] for name in _MESSAGE_MEMBERS & members.keys()})
