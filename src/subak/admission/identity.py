"""What the backend is told about the caller: its memory of people is chosen by that (PROTOCOL §5).

    caller                    id, tenant   e-mail                             role
    ------------------------  -----------  ---------------------------------  ---------------------------------------
    a verified one            the claims'  the claim; another one is 403      the claim; another one is 403;
                                                                              without a claim as an anonymous one's
    an internal key           the claims'  as it was sent                     as it was sent
    an anonymous one          none         as it was sent, or dropped         member or external; admin is 403

What is sent for somebody without credentials is marked as unverified. An answer belongs to the principal that asked
and is shared with nobody, so two callers whose questions are told apart here never meet in one answer.
"""

from typing import Final, Literal

import msgspec

from subak.core.errors import Forbidden, InvalidField
from subak.core.principal import Principal
from subak.core.question import Question

OPEN_ROLES: Final = frozenset({"member", "external"})
"""Roles that anybody may claim: they allow nothing that having none doesn't."""

_ADMIN: Final = "admin"


class IdentityPolicy(msgspec.Struct, frozen=True):
    """`unverified_email`: whether the backend hears of an e-mail that nobody vouches for."""

    unverified_email: Literal["pass", "drop"] = "pass"


def identified(question: Question, principal: Principal, policy: IdentityPolicy) -> Question:
    """Give the question with what is known of the caller, in place of what the caller says.

    Raises:
        Forbidden: `user_email` or `user_role` says something that the credentials don't.
        InvalidField: `user_role` is no role.
    """
    if principal.is_anonymous:
        _check_open_role(question.user_role)
        is_passed = policy.unverified_email == "pass"
        return msgspec.structs.replace(question, user_email=question.user_email if is_passed else None)
    claims = principal.claims
    is_spoken_for = principal.is_internal
    return msgspec.structs.replace(
        question,
        user_id=claims.id or None,
        tenant=claims.tenant,
        is_verified=True,
        user_email=question.user_email if is_spoken_for else _email(question.user_email, claims.email),
        user_role=question.user_role if is_spoken_for else _role(question.user_role, claims.role),
    )


def _email(said: str | None, claimed: str | None) -> str | None:
    if said and (claimed is None or said.strip().casefold() != claimed.casefold()):
        raise Forbidden("$.user_email: not what the credentials say. Leave it out: it is taken from them.")
    return claimed


def _role(said: str | None, claimed: str | None) -> str | None:
    if claimed is None:
        _check_open_role(said)
        return said
    if said and said != claimed:
        raise Forbidden("$.user_role: not what the credentials say. Leave it out: it is taken from them.")
    return claimed


def _check_open_role(said: str | None) -> None:
    if said == _ADMIN:
        raise Forbidden("$.user_role: this role needs credentials that say so.")
    if said and said not in OPEN_ROLES:
        raise InvalidField("$.user_role", "member, admin or external")
