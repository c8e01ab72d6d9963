"""What the backend is told about the caller."""

from typing import Final

import pytest

from subak.admission.identity import IdentityPolicy, identified
from subak.core.errors import Forbidden, InvalidField
from subak.core.principal import ANONYMOUS, Claims, Principal
from subak.core.question import Question

ANN: Final = Principal("tenant:acme/user:42", Claims("42", "ann@example.org", "editor", "acme"))
NAMELESS: Final = Principal("user:42", Claims("42"))
INTERNAL: Final = Principal("key:internal", is_internal=True)
PASS: Final = IdentityPolicy("pass")
DROP: Final = IdentityPolicy("drop")


def asked(email: str | None = None, role: str | None = None) -> Question:
    return Question("q", user_email=email, user_role=role, session_id="s")


@pytest.mark.parametrize("email", [None, "", "ann@example.org", "Ann@Example.org "])
@pytest.mark.parametrize("role", [None, "", "editor"])
def test_the_backend_hears_the_claims_of_a_verified_caller(email: str | None, role: str | None) -> None:
    assert identified(asked(email, role), ANN, DROP) == Question(
        "q", "ann@example.org", "editor", session_id="s", user_id="42", tenant="acme", is_verified=True
    )


@pytest.mark.parametrize("principal", [ANN, NAMELESS])
def test_a_verified_caller_may_not_be_somebody_else(principal: Principal) -> None:
    with pytest.raises(Forbidden) as caught:
        identified(asked(email="ben@example.org"), principal, PASS)
    assert caught.value.detail.startswith("$.user_email:")
    assert "ben" not in caught.value.detail


@pytest.mark.parametrize("role", ["admin", "member", "Editor", "\n"])
def test_a_verified_caller_may_not_have_another_role(role: str) -> None:
    with pytest.raises(Forbidden) as caught:
        identified(asked(role=role), ANN, PASS)
    assert caught.value.detail.startswith("$.user_role:")


def test_without_a_claim_of_a_role_an_open_one_may_be_said() -> None:
    for role in (None, "member", "external"):
        assert identified(asked(role=role), NAMELESS, PASS).user_role == role
    with pytest.raises(Forbidden):
        identified(asked(role="admin"), NAMELESS, PASS)


def test_an_anonymous_email_goes_on_unverified_or_not_at_all() -> None:
    question = asked("ann@example.org", "member")
    assert identified(question, ANONYMOUS, PASS) == question
    assert not question.is_verified
    assert identified(question, ANONYMOUS, DROP) == asked(None, "member")


@pytest.mark.parametrize("principal", [ANONYMOUS, NAMELESS])
def test_a_role_that_nobody_vouches_for_is_refused(principal: Principal) -> None:
    with pytest.raises(Forbidden):
        identified(asked(role="admin"), principal, PASS)
    for role in ("Admin", "root", "admin "):
        with pytest.raises(InvalidField) as caught:
            identified(asked(role=role), principal, PASS)
        assert caught.value.detail == "$.user_role: expected member, admin or external."


def test_the_host_itself_says_whom_it_asks_for() -> None:
    question = identified(asked("ben@example.org", "admin"), INTERNAL, DROP)
    assert (question.user_email, question.user_role, question.is_verified) == ("ben@example.org", "admin", True)
    assert question.user_id is None
    for_ben = Principal("user:ben", Claims("ben"), is_internal=True)
    assert identified(asked("ben@example.org"), for_ben, DROP).user_id == "ben"


def test_a55_the_same_question_of_two_callers_is_two_questions() -> None:
    callers = [
        ANONYMOUS,
        NAMELESS,
        ANN,
        Principal("user:43", Claims("43")),
        Principal("tenant:b/user:42", Claims("42", None, None, "b")),
        Principal("user:42", Claims("42", None, "admin")),
        Principal("user:42", Claims("42", "ann@example.org")),
    ]
    assert len({identified(asked(), caller, PASS) for caller in callers}) == len(callers)
