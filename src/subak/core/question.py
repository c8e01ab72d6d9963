"""What a caller asks: the four fields of PROTOCOL §2 and the ids that travel with them."""

import msgspec

from subak.core.trace import TraceContext


class Turn(msgspec.Struct, frozen=True):
    """One earlier message of the conversation. `role` is `user` or `assistant`: nothing else may come from a client."""

    role: str
    content: str


class Question(msgspec.Struct, frozen=True):
    """A validated question. `conversation_history` is None when the caller sent none: that is not an empty list.

    `is_verified`: credentials vouch for `user_id`, `tenant` and `user_email`, in place of what the caller says.
    """

    query: str
    user_email: str | None = None
    user_role: str | None = None
    conversation_history: tuple[Turn, ...] | None = None
    session_id: str | None = None
    continuity_id: str | None = None
    user_id: str | None = None
    tenant: str | None = None
    is_verified: bool = False
    trace: TraceContext | None = None
