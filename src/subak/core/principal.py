"""Who is calling: after authentication a principal, and where from (docs/architecture.md, "Words")."""

import msgspec


class Claims(msgspec.Struct, frozen=True):
    """What a verified credential says about its holder: what the backend is told, and what may be recorded of it."""

    id: str = ""
    email: str | None = None
    role: str | None = None
    tenant: str | None = None


class Principal(msgspec.Struct, frozen=True):
    """A caller. `id` is empty for an anonymous one: whoever holds an anonymous stream's id may read and stop it.

    `id` bears its kind in front (`user:…`, `key:…`), so that a key's name and a user's can't meet. `is_internal`: holds
    one of the host's own keys, which know no limits. `expires_at`: when the credential ends, UTC seconds.
    """

    id: str = ""
    claims: Claims = Claims()
    is_internal: bool = False
    expires_at: float | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing was verified about the caller."""
        return not self.id

    def may_use(self, owner: str) -> bool:
        """Whether this caller may read and stop a stream of `owner` ("" = an anonymous stream, a capability)."""
        return owner in {"", self.id}


ANONYMOUS = Principal()


class Caller(msgspec.Struct, frozen=True):
    """A principal and the address of its request, as far as trusted proxies tell: without port and zone, `192.0.2.7`.

    `address` is personal data: it decides limits and may be recorded with refusals, never with streams.
    """

    principal: Principal
    address: str
