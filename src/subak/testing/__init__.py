"""Fakes for tests against Subak, its own tests among them: public, and without any test framework.

Nothing here imitates a part of Subak. `FakeClock` is time that a test moves, `ScriptedUpstream` a real server on a real
socket that does what a script says, `ToxicProxy` a poor network before a real server. `RecordingObserver` keeps the
facts that a gateway tells, `RecordingSink` what an upstream adapter reports. A test that uses them waits for conditions
and never sleeps:

    gate = asyncio.Event()
    script = [Head(), Frame('{"text": "Ciao "}'), Gate(gate), Frame('{"done": true}'), End()]
    async with ScriptedUpstream(script) as upstream:
        ...  # point RAG_BACKEND_URL at upstream.url and ask
        gate.set()
        await upstream.connections[0].wait_closed()

Whole examples: docs/testing.md.
"""

from subak.testing.clock import FakeClock
from subak.testing.proxy import Cut, Direction, How, Line, Lines, ToxicConnection, ToxicProxy, Way
from subak.testing.recording import RecordingObserver, RecordingSink
from subak.testing.upstream import (
    Body,
    Close,
    End,
    Frame,
    Gate,
    Head,
    Raw,
    RecordedRequest,
    Reset,
    Script,
    ScriptedConnection,
    ScriptedUpstream,
    Stall,
    Step,
)
from subak.testing.waiting import PATIENCE_S

__all__ = [
    "PATIENCE_S",
    "Body",
    "Close",
    "Cut",
    "Direction",
    "End",
    "FakeClock",
    "Frame",
    "Gate",
    "Head",
    "How",
    "Line",
    "Lines",
    "Raw",
    "RecordedRequest",
    "RecordingObserver",
    "RecordingSink",
    "Reset",
    "Script",
    "ScriptedConnection",
    "ScriptedUpstream",
    "Stall",
    "Step",
    "ToxicConnection",
    "ToxicProxy",
    "Way",
]
