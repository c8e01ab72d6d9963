"""Who is calling, after authentication (ARCHITECTURE §4)."""

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """A caller. `id` is empty for an anonymous one: whoever holds an anonymous stream's id may read and stop it."""

    id: str = ""

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing was verified about the caller."""
        return not self.id

    def may_use(self, owner: str) -> bool:
        """Whether this caller may read and stop a stream of `owner` ("" = an anonymous stream, a capability)."""
        return owner in {"", self.id}


ANONYMOUS = Principal()
