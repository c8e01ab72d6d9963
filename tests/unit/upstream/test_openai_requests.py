"""How a question is put to a server of chat completions, before any socket."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.errors import UpstreamError
from subak.core.question import Question, Turn
from subak.upstream.openai import OpenAiRequests, OpenAiTarget, completions_path, newest_turns

URL = "http://127.0.0.1:9"
TALK = (Turn("user", "Ciao"), Turn("assistant", "Benvenuto 😀"))
FULL = Question(
    "Quanto costa?\u2028\n",
    user_email="a@example.org",
    user_role="member",
    conversation_history=TALK,
    session_id="s-1",
    continuity_id="c-1",
)


def body_of(target: OpenAiTarget, question: Question = FULL, *, is_streamed: bool = True) -> dict[str, object]:
    decoded = json.loads(OpenAiRequests(target).body(question, is_streamed=is_streamed))
    assert isinstance(decoded, dict)
    return decoded


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/llm", "/llm/v1/chat/completions"),
        ("/openai/v1", "/openai/v1/chat/completions"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions"),
        ("/v1beta/openai", "/v1beta/openai/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/vllm", "/vllm/v1/chat/completions"),
        ("/my llm/è", "/my%20llm/%C3%A8/v1/chat/completions"),
    ],
)
def test_the_path_follows_from_the_base(prefix: str, path: str) -> None:
    assert completions_path(prefix) == path


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://host:8000/", "http://host:8000/v1/chat/completions"),
        ("https://host/v1/", "https://host/v1/chat/completions"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_the_whole_url_is_known_for_requests_that_others_make(url: str, whole: str) -> None:
    assert OpenAiRequests(OpenAiTarget(url=url)).url == whole


def test_a_question_becomes_messages_and_says_nothing_of_who_asks() -> None:
    assert body_of(OpenAiTarget(url=URL, model="m", system_prompt="Be brief.")) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Ciao"},
            {"role": "assistant", "content": "Benvenuto 😀"},
            {"role": "user", "content": "Quanto costa?\u2028\n"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_is_not_set_is_not_sent() -> None:
    target = OpenAiTarget(url=URL, system_prompt="", include_usage=False)
    assert body_of(target, Question("x")) == {"messages": [{"role": "user", "content": "x"}], "stream": True}


def test_a_whole_answer_is_asked_for_without_options_of_a_stream() -> None:
    assert body_of(OpenAiTarget(url=URL), Question("x"), is_streamed=False) == {
        "messages": [{"role": "user", "content": "x"}],
        "stream": False,
    }


def test_parameters_go_along() -> None:
    body = body_of(OpenAiTarget(url=URL, parameters={"temperature": 0.2, "max_tokens": 9, "chat_template_kwargs": {}}))
    assert (body["temperature"], body["max_tokens"], body["chat_template_kwargs"]) == (0.2, 9, {})


@pytest.mark.parametrize("name", ["messages", "model", "n", "stream", "stream_options"])
def test_parameters_that_are_the_gateways_own_are_refused_at_start(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is set by the gateway"):
        OpenAiRequests(OpenAiTarget(url=URL, parameters={"temperature": 1, name: True}))


@pytest.mark.parametrize("value", [object(), "\ud800", {1: [object()]}], ids=["object", "surrogate", "nested"])
def test_parameters_that_are_no_json_are_refused_at_start(value: object) -> None:
    with pytest.raises(ValueError, match="no JSON object"):
        OpenAiRequests(OpenAiTarget(url=URL, parameters={"x": value}))


@pytest.mark.parametrize("limits", [(0, 10_000), (20, 0), (20, 3)])
def test_no_history_goes_along_where_none_may(limits: tuple[int, int]) -> None:
    target = OpenAiTarget(url=URL, max_history_turns=limits[0], max_history_bytes=limits[1])
    assert body_of(target)["messages"] == [{"role": "user", "content": FULL.query}]


TURNS = tuple(Turn("user" if number % 2 == 0 else "assistant", f"{number:04}") for number in range(10))


@pytest.mark.parametrize(
    ("max_turns", "max_bytes", "kept"),
    [
        (20, 40, TURNS),
        (10, 40, TURNS),
        (9, 40, TURNS[2:]),
        (20, 39, TURNS[2:]),
        (4, 40, TURNS[6:]),
        (3, 40, TURNS[8:]),
        (1, 40, ()),
        (20, 16, TURNS[6:]),
    ],
)
def test_the_newest_turns_that_fit_are_kept_from_a_users_on(
    max_turns: int, max_bytes: int, kept: tuple[Turn, ...]
) -> None:
    assert tuple(newest_turns(TURNS, max_turns, max_bytes)) == kept


def test_a_conversation_that_fits_is_left_as_it_is() -> None:
    greeting = (Turn("assistant", "Ciao!"), *TURNS)
    assert tuple(newest_turns(greeting, 11, 45)) == greeting


def test_bytes_are_those_of_utf_8() -> None:
    turns = (Turn("user", "a"), Turn("user", "😀"))
    assert tuple(newest_turns(turns, 9, 5)) == turns
    assert tuple(newest_turns(turns, 9, 4)) == turns[1:]
    assert tuple(newest_turns(turns, 9, 3)) == ()


@given(
    turns=st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(max_size=4)), max_size=8),
    max_turns=st.integers(0, 8),
    max_bytes=st.integers(0, 40),
)
def test_what_is_kept_is_within_its_bounds_and_the_end_of_the_conversation(
    turns: list[Turn], max_turns: int, max_bytes: int
) -> None:
    kept = list(newest_turns(turns, max_turns, max_bytes))
    assert kept == turns[len(turns) - len(kept) :]
    assert len(kept) <= max_turns
    assert sum(len(turn.content.encode()) for turn in kept) <= max_bytes
    assert not kept or kept == turns or kept[0].role == "user"


def test_headers_say_what_is_sent_and_wanted_and_who_asks() -> None:
    target = OpenAiTarget(url=URL, headers={"Authorization": "Bearer k", "X-Org": "o"}, user_agent="subak/1.2.3")
    assert OpenAiRequests(target).headers("text/event-stream") == {
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "subak/1.2.3",
        "Authorization": "Bearer k",
        "X-Org": "o",
    }


@pytest.mark.parametrize("name", ["user-agent", "User-Agent", "USER-AGENT"])
def test_settings_may_name_another_user_agent(name: str) -> None:
    headers = OpenAiRequests(OpenAiTarget(url=URL, headers={name: "other"})).headers("application/json")
    assert [value for name, value in headers.items() if name.lower() == "user-agent"] == ["other"]


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "5"}, {"transfer-encoding": "x"}, {"X": "a\r\nY: b"}, {"X Y": "a"}, {"X": "è"}, {"X": ""}],
    ids=repr,
)
def test_headers_that_could_break_the_request_are_refused_at_start(headers: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match="upstream header"):
        OpenAiRequests(OpenAiTarget(url=URL, headers=headers))


def test_two_credentials_are_refused_at_start() -> None:
    target = OpenAiTarget(url=URL, headers={"authorization": "Basic x"}, token_file=Path("token"))
    with pytest.raises(ValueError, match="give one of them"):
        OpenAiRequests(target)


def test_the_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    token, renewed = tmp_path / "token", tmp_path / "renewed"
    token.write_text("first\n")
    requests = OpenAiRequests(OpenAiTarget(url=URL, token_file=token))
    assert requests.headers("a/b")["Authorization"] == "Bearer first"
    renewed.write_text("second")
    renewed.replace(token)
    assert requests.headers("a/b")["Authorization"] == "Bearer second"
    token.unlink()
    with pytest.raises(UpstreamError) as caught:
        requests.headers("a/b")
    assert caught.value.reason == "token_file"
