"""What each refusal means to whoever gets it, for the OpenAPI documents."""

from collections.abc import Mapping
from typing import Final

from subak.admission.flag_store import FlagsUnusable
from subak.core import errors
from subak.core.flag_state import RestrictionForgotten, RolloutConflict
from subak.core.rollout import UnknownFlag
from subak.web.audit import Conflict, LogDamaged, NotThere

MEANINGS: Final[Mapping[type[errors.SubakError], str]] = {
    errors.RequestError: "The request is malformed, or a header or parameter has a value that it can't have.",
    errors.MalformedCursor: "The cursor isn't `{stream_id}.{seq}`, or is of another stream than the path names.",
    errors.StreamNotFound: "There is no such stream, or it is somebody else's.",
    errors.CursorAhead: "The cursor is behind the stream's end: the store lost data, or it was made up.",
    errors.CursorExpired: "It is no longer kept, or is of an earlier process; `status_url` may still know its text.",
    errors.NotAcceptable: "Send JSON, as `application/json` and uncompressed.",
    errors.InvalidField: "A field is wrong: `errors` says which, and what belongs there.",
    errors.MissingQuery: "No question was asked.",
    errors.FlagDisabled: "Streaming is off for this caller.",
    errors.Unauthenticated: "Credentials are missing, or don't hold.",
    errors.Forbidden: "This caller may not do this, or not say this of itself.",
    errors.RateLimited: "A quota is used up.",
    errors.TooLarge: "The body is too large.",
    errors.UrlTooLong: "The URL is too long: ask by POST.",
    errors.TooSlow: "The body wasn't complete in time.",
    errors.QuestionTooLong: "The question is too long for the backend.",
    errors.KeyReused: "The idempotency key came with another question before.",
    errors.StoreError: "Streams can't be kept or read now.",
    errors.BudgetExhausted: "The memory for streams is used up.",
    errors.AuditUnavailable: "It can't be recorded now, and nothing is done unrecorded.",
    errors.TicketsUsedUp: "There are as many tickets as there may be.",
    errors.TooManyStreams: "There are as many streams as there may be.",
    errors.Draining: "The process takes no new streams: it is going away.",
    errors.KeysUnavailable: "The keys of the tokens' issuer can't be fetched.",
    errors.UpstreamUnavailable: "No backend can be asked now.",
    errors.UpstreamError: "The backend fails, or can't be reached.",
    FlagsUnusable: "The flags can't be read or written now.",
    UnknownFlag: "There is no such flag.",
    RestrictionForgotten: "It doesn't name something that is set and keeps callers out.",
    RolloutConflict: "It doesn't go with the rollout as it stands.",
    Conflict: "It doesn't go with what is under way or in force.",
    NotThere: "There is no such row, checkpoint or verification.",
    LogDamaged: "The log can't be read as it is.",
}
