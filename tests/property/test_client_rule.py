"""The reader's rule against a made-up gateway that answers badly: whatever comes, the reader has the log, once.

What a response can be: cut at any byte, in any pieces, from too early on (a stale copy), from too late on or with
events left out (a gap), with heartbeats between, a snapshot, a refusal, nothing at all. The log grows meanwhile.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from subak.client.errors import AnswerFailed
from subak.client.events import Content, Done, Metadata, Replaced, Sources, Token
from subak.client.rule import CUT, SILENT, UNREACHABLE, Ask, Attach, Look, Patience, Rule, Wait
from subak.client.wire import ErrorData, Refusal, StateReply
from subak.core.cursor import Cursor
from subak.core.envelope import encode_frames, encode_heartbeat, encode_preface, frame_head, snapshot_frame, to_json
from subak.core.events import Event

STREAM_ID: Final = "st_" + "aB3-_x" + "0" * 22
HEAD: Final = frame_head(STREAM_ID)
STEPS: Final = 200
"""More than there are faults, with the waits and looks that they cause."""
PATIENT: Final = Patience(attempts=10_000)
METADATA: Final = Event("metadata", to_json({"streamId": STREAM_ID, "connectionId": "c"}), 1)
SOURCE: Final = to_json([{"source": "kitas.md", "snippet": "…", "similarity": 0.5}])


class Fault(msgspec.Struct, frozen=True):
    """How the gateway answers one step badly.

    `grown`: by how many events the log has grown. A response starts `shift` events after the cursor, leaves out those
    in `left_out` (places within it), and ends after `cut` bytes; `size` is that of its pieces.
    """

    kind: str
    grown: int = 1
    shift: int = 0
    left_out: frozenset[int] = frozenset()
    cut: int = 1_000_000
    size: int = 1_000_000
    has_heartbeats: bool = False


KINDS: Final = (
    "stream",
    "stream",
    "stream",
    "snapshot",
    "gone",
    "429",
    "503",
    "page",
    "other",
    CUT,
    SILENT,
    UNREACHABLE,
)
faults = st.lists(
    st.builds(
        Fault,
        kind=st.sampled_from(KINDS),
        grown=st.integers(0, 6),
        shift=st.sampled_from([0, 0, 0, -100, -2, -1, 1, 3]),
        left_out=st.frozensets(st.integers(0, 8), max_size=2),
        cut=st.one_of(st.just(1_000_000), st.integers(0, 2_000)),
        size=st.sampled_from([1, 7, 60, 1_000_000]),
        has_heartbeats=st.booleans(),
    ),
    max_size=14,
)
events = st.one_of(
    st.text(max_size=6).map(lambda text: Event("token", to_json(text), 2)),
    st.just(Event("sources", SOURCE, 2)),
    st.just(Event("newer", b"[]", 2)),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Give a whole log: metadata, some events, one ending."""
    ending = Event("done", b'{"finish_reason":"stop","metrics":{"duration":1.5}}', 3)
    broken = Event("error", b'{"code":"upstream_error","message":"It failed.","retryable":true}', 3)
    return [METADATA, *draw(st.lists(events, max_size=12)), draw(st.sampled_from([ending, ending, broken]))]


class MadeUpGateway:
    """Answers the steps of a rule from a log, badly at first, honestly once the faults are used up."""

    def __init__(self, log: Sequence[Event], faults: Sequence[Fault]) -> None:
        self.log = log
        self.visible = 1
        self.told: list[Content] = []
        self._faults = list(faults)
        self._honest = Fault("stream", grown=len(log))

    def drive(self, rule: Rule) -> None:
        """Perform steps until the answer is over."""
        for _ in range(STEPS):
            step = rule.next_step(0.5)
            if step is None:
                return
            if isinstance(step, Wait):
                assert 0 <= step.seconds <= 30
                continue
            fault = self._faults.pop(0) if self._faults else self._honest
            self.visible = min(len(self.log), self.visible + fault.grown)
            if isinstance(step, Ask):
                self.told += rule.send()
            if fault.kind in {CUT, SILENT, UNREACHABLE}:
                rule.lost(fault.kind)
            elif fault.kind in {"429", "503", "page"}:
                status = 200 if fault.kind == "page" else int(fault.kind)
                self.told += rule.refuse(step, Refusal(status, "busy", retry_after_s=3.0))
            elif isinstance(step, Look):
                self.told += rule.learn(self._state())
            elif fault.kind == "gone" and isinstance(step, Attach):
                self.told += rule.refuse(step, Refusal(410))
            else:
                self._stream(rule, step, fault)
        raise AssertionError("it never comes to an end")

    @property
    def text(self) -> str:
        return text_of(self.log)

    def _state(self) -> StateReply:
        seen = self.log[: self.visible]
        last = seen[-1]
        return StateReply(
            STREAM_ID,
            len(seen),
            text_of(seen),
            "stop" if last.type == "done" else None,
            msgspec.json.decode(last.data, type=ErrorData) if last.type == "error" else None,
        )

    def _stream(self, rule: Rule, step: Ask | Attach, fault: Fault) -> None:
        rule.begin(STREAM_ID if fault.has_heartbeats else "")
        body = self._body(step.cursor.seq if isinstance(step, Attach) else 0, fault)[: fault.cut]
        for at in range(0, len(body), fault.size):
            if not rule.wants_more:
                break
            self.told += rule.take(body[at : at + fault.size])
        rule.end()

    def _body(self, after: int, fault: Fault) -> bytes:
        parts = [encode_preface(1000)]
        first = max(0, after + fault.shift)
        if fault.kind == "snapshot" and self.visible > after:
            last = self.log[self.visible - 1]
            first = self.visible - last.is_terminal
            parts.append(snapshot_frame(HEAD, text_of(self.log[:first]), first, 5))
        if fault.kind == "other" and after:
            parts.append(encode_frames(frame_head("st_" + "z" * 28), first + 1, [METADATA]))
        for seq in range(first + 1, self.visible + 1):
            if seq - first - 1 not in fault.left_out:
                parts.append(frame(seq, self.log[seq - 1]))
            if fault.has_heartbeats:
                parts.append(encode_heartbeat(seq, 7))
        return b"".join(parts)


def frame(seq: int, event: Event) -> bytes:
    """Give an event's frame; one of a type that is newer than the reader looks like the others."""
    if event.type != "newer":
        return encode_frames(HEAD, seq, [event])
    return encode_frames(HEAD, seq, [Event("sources", event.data, 2)]).replace(b'"sources"', b'"newer"')


def text_of(seen: Sequence[Event]) -> str:
    return "".join(msgspec.json.decode(event.data) for event in seen if event.type == "token")


def text_told(told: Sequence[Content]) -> str:
    """Give the text as somebody has it who was told only the events."""
    text = ""
    for content in told:
        if isinstance(content, Token):
            text += content.text
        elif isinstance(content, Replaced):
            text = content.text
    return text


def drive(rule: Rule, gateway: MadeUpGateway) -> None:
    """Let the rule read to the end, which is the log's."""
    failure: AnswerFailed | None = None
    try:
        gateway.drive(rule)
    except AnswerFailed as error:
        failure = error
    assert (gateway.log[-1].type == "error") is (failure is not None)
    if failure is not None:
        assert (failure.code, str(failure), failure.is_retryable) == ("upstream_error", "It failed.", True)


@given(logs(), faults)
def test_whatever_comes_the_reader_has_the_log_and_is_told_each_event_once(
    log: list[Event], faults: list[Fault]
) -> None:
    rule, gateway = Rule(PATIENT), MadeUpGateway(log, faults)
    drive(rule, gateway)
    told = gateway.told
    assert rule.answer.text == gateway.text
    assert text_told(told) == gateway.text
    places = [(type(content), content.seq) for content in told]
    assert len(set(places)) == len(places)
    assert [isinstance(content, Done) for content in told[-1:]] in ([log[-1].type == "done"], [])
    assert sum(isinstance(content, Done) for content in told) == (log[-1].type == "done")
    assert sum(isinstance(content, Metadata) for content in told) <= 1
    assert [content.seq for content in told if isinstance(content, Token)] == sorted(
        content.seq for content in told if isinstance(content, Token)
    )


@given(logs(), faults)
def test_a_gap_that_is_repaired_loses_no_sources(log: list[Event], faults: list[Fault]) -> None:
    kept = [fault for fault in faults if fault.kind not in {"snapshot", "gone"}]
    sound = kept[:1] + [
        msgspec.structs.replace(fault, shift=min(0, fault.shift), left_out=frozenset()) for fault in kept[1:]
    ]
    rule, gateway = Rule(PATIENT), MadeUpGateway(log, sound)
    drive(rule, gateway)
    told = [content.seq for content in gateway.told if isinstance(content, Sources)]
    assert told == [seq for seq, event in enumerate(log, 1) if event.type == "sources"]
    assert len(rule.answer.sources) == len(told)


@given(logs(), faults)
def test_an_honest_gateway_behind_a_bad_line_makes_nothing_be_dropped_or_repaired(
    log: list[Event], faults: list[Fault]
) -> None:
    honest = [
        Fault(fault.kind, fault.grown, cut=fault.cut, size=fault.size, has_heartbeats=fault.has_heartbeats)
        for fault in faults
        if fault.kind not in {"snapshot", "gone", SILENT, "other"}
    ]
    rule, gateway = Rule(PATIENT), MadeUpGateway(log, honest)
    drive(rule, gateway)
    assert (rule.answer.duplicates, rule.gaps) == (0, 0)
    assert [content.seq for content in gateway.told] == [
        seq for seq, event in enumerate(log, 1) if event.type not in {"error", "newer"}
    ]


@given(logs(), faults, st.data())
def test_a_reader_that_comes_back_by_its_cursor_is_told_the_rest(
    log: list[Event], faults: list[Fault], data: st.DataObject
) -> None:
    seq = data.draw(st.integers(1, len(log) - 1))
    known = text_of(log[:seq])
    rule = Rule(PATIENT, Cursor(STREAM_ID, seq), known)
    gateway = MadeUpGateway(log, faults)
    gateway.visible = seq
    drive(rule, gateway)
    assert rule.answer.text == gateway.text
    assert text_told([Token(known, seq), *gateway.told]) == gateway.text


@given(logs(), faults, st.data())
def test_a_reader_that_joins_without_the_text_before_has_all_after_or_the_whole(
    log: list[Event], faults: list[Fault], data: st.DataObject
) -> None:
    seq = data.draw(st.integers(1, len(log) - 1))
    rule, gateway = Rule(PATIENT, Cursor(STREAM_ID, seq)), MadeUpGateway(log, faults)
    gateway.visible = seq
    drive(rule, gateway)
    assert text_told(gateway.told) == rule.answer.text
    assert rule.answer.text in {text_of(log[seq:]), gateway.text}


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_make_it_raise(chunks: list[bytes]) -> None:
    rule = Rule(Patience(max_event_bytes=100))
    rule.begin("")
    for chunk in chunks:
        assert all(content.seq for content in rule.take(chunk))
    rule.end()
