"""`/chat` compared byte for byte: what comes through the gateway, against what the backend itself says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from tests.integration.gateway import CHAT, Answer, Client

BACKEND_CHAT: Final = "/bali-zero/chat"
JSON: Final = ("Content-Type", "application/json")
QUESTIONS: Final = (
    "What documents do I need for B211A visa?",
    "What is a KITAS?",
    "How long is a visa on arrival good for?",
    "What is a PT PMA?",
    "What is an NPWP?",
)
ANSWER_S: Final = 60.0
"""How long an answer may take before there is none: much longer than a busy machine stands still."""
_OF_THE_HOP: Final = frozenset({"connection", "date", "keep-alive", "server", "transfer-encoding"})
"""Headers that each hop writes anew: what is left of an answer is the backend's."""
_MOST_TOLD: Final = 5


class Case(NamedTuple):
    """A request of `/chat`."""

    headers: Sequence[tuple[str, str]]
    body: bytes


class Essence(NamedTuple):
    """What must be the same: status, headers without those of the hop, body, and whether that is all of it."""

    status: int = 0
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    is_whole: bool = False


def asked(question: str) -> Case:
    """Give the request that asks a question."""
    return Case((JSON,), msgspec.json.encode({"query": question}))


CASES: Final = (
    *map(asked, QUESTIONS),
    Case((JSON,), '{"query": "Berapa lama? ᬲᬸᬩᬓ 😀 \\u2028", "user_role": "member"}'.encode()),
    Case((JSON,), b'{"query": "x", "conversation_history": [{"role": "user", "content": "Hi"}], "unknown": 1}'),
    Case((JSON,), b'{"query": ""}'),
    Case((JSON,), b'{"query": 7}'),
    Case((JSON,), b'{"query": '),
    Case((JSON,), b""),
    Case((("Content-Type", "text/plain"),), b"What is a KITAS?"),
    Case((), b'{"query": "What is a KITAS?"}'),
)
"""Questions, and what a client gets wrong: its refusals are the backend's own, too."""


def essence_of(answer: Answer) -> Essence:
    """Give what counts of an answer."""
    headers = sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in _OF_THE_HOP)
    return Essence(answer.status, headers, answer.body, answer.is_clean)


@dataclass
class Compared:
    """How many answers were compared, and the first differences."""

    references: Mapping[str, Essence]
    count: int = 0
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)

    def take(self, question: str, answer: Answer) -> None:
        """Compare the answer to a question with what the backend itself said to it."""
        self.compare(f"the callers' {question!r}", essence_of(answer), self.references[question])

    def compare(self, about: str, seen: Essence, wanted: Essence) -> None:
        """Compare what came with what the backend itself says."""
        self.count += 1
        if seen == wanted:
            return
        self.difference_count += 1
        if len(self.differences) < _MOST_TOLD:
            self.differences.append(f"{about}: {seen!r:.500} instead of {wanted!r:.500}")


async def learn(backend_url: str) -> Compared:
    """Ask the backend itself, before anything stands in front of it."""
    references = {}
    for question in QUESTIONS:
        references[question] = essence_of(await ask_chat(backend_url, asked(question), BACKEND_CHAT))
    return Compared(references)


async def ask_chat(url: str, case: Case, path: str = CHAT) -> Answer:
    """Ask `/chat` over a connection of its own.

    Raises:
        OSError: nobody answers.
        TimeoutError: nobody answers in time.
    """
    async with Client.connect(url) as client:
        await client.begin("POST", path, case.headers, case.body)
        return await client.whole(ANSWER_S)
