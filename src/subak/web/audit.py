"""The audit trail on the admin listener: looked into, verified, proven and ordered about, beside its writer.

Whatever reads the log does so on a thread; whatever changes it goes to the log's own. A person is looked for by POST
alone: names of people don't belong in URLs, and every POST here is recorded with who sent it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import islice
from threading import Thread
from typing import Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from subak.audit.errors import StoreDamaged, StoreUnavailable
from subak.audit.inspection import (
    Claim,
    KeysNeeded,
    Names,
    Search,
    export,
    holds_in,
    search,
    shown_report,
    would_prune,
)
from subak.audit.keys import KeyFileError
from subak.audit.log import AuditLog
from subak.audit.orders import ORDERS, Authority, BadOrder, CheckpointOut, Disclose, HoldOut, Moment, Order
from subak.audit.proofs import NoProof, prove
from subak.audit.records import Personal, Subject
from subak.audit.retention import Exported, Held
from subak.audit.rows import PersonalMismatch
from subak.audit.store import LogReader
from subak.audit.verdict import Report
from subak.core.clock import Clock
from subak.core.errors import AuditUnavailable, InvalidField, RequestError, SubakError, TooLarge
from subak.core.notes import MalformedNote, VerifierKey
from subak.web.admin import AdminRoute, actor_of
from subak.web.ops import MAX_BODY_BYTES, read_struct
from subak.web.problems import json_response

ORDER_S: Final = 120.0
"""How long the answer to an order is waited for; it is carried out all the same."""
READERS: Final = 2
MAX_EXPORTED: Final = 50_000
MAX_ANCHORS_BYTES: Final = 4 * 1024 * 1024
_NEWEST: Final = 2**62
_MOMENTS: Final = frozenset({"since", "until"})
"""Read strictly: else a year alone, `2026`, is taken for seconds since 1970."""

Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]


class Conflict(RequestError):
    """It can't be done as things are."""

    code = "conflict"
    http_status = 409


class NotThere(RequestError):
    """There is no such row, checkpoint or verification, or no proof of it."""

    code = "not_found"
    http_status = 404


class LogDamaged(SubakError):
    """The log can't be read as it is."""

    code = "audit_damaged"
    http_status = 500


class Trail(NamedTuple):
    """The audit trail of this gateway: its writer, and what reads it beside that one.

    `judge` verifies it; `check` raises AuditUnavailable when nothing can be recorded.
    """

    log: AuditLog
    open_reader: Callable[[], LogReader]
    names_of: Callable[[str], AbstractContextManager[Names]]
    judge: Callable[[Claim, OnProgress], Report]
    term_ms: int
    check: Callable[[], None]
    clock: Clock


class AuditRoutes:
    """`/-/audit/…`."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._room = asyncio.Semaphore(READERS)
        self._verification: Verification | None = None

    def routes(self) -> list[AdminRoute]:
        """Give what there is."""
        return [
            AdminRoute("GET", "/-/audit/search", self.search_by_url),
            AdminRoute("POST", "/-/audit/search", self.search_by_body),
            AdminRoute("POST", "/-/audit/export", self.export),
            AdminRoute("GET", "/-/audit/proof/{seq}", self.proof),
            AdminRoute("GET", "/-/audit/checkpoint", self.checkpoint),
            AdminRoute("GET", "/-/audit/holds", self.holds),
            AdminRoute("GET", "/-/audit/prune", self.look_at_prune),
            AdminRoute("GET", "/-/audit/verify", self.verification),
            AdminRoute("POST", "/-/audit/verify", self.verify),
            *[AdminRoute("POST", f"/-/audit/{name}", partial(self.order, kind)) for name, kind in ORDERS.items()],
        ]

    async def search_by_url(self, request: web.Request) -> web.Response:
        """Search by time, operation, outcome and stream: `?since=…&operation=…&limit=…`."""
        fields = dict(request.query)
        personal = {"subject", "address", "show_personal"} & fields.keys()
        if personal:
            raise InvalidField(f"$.{min(personal)}", "nothing here: a person is looked for by POST /-/audit/search")
        try:
            moments = {name: msgspec.convert(fields[name], Moment) for name in _MOMENTS & fields.keys()}
            wanted = msgspec.convert(fields | moments, Search, strict=False)
        except msgspec.ValidationError as error:
            raise RequestError(f"The search can't be read: {error}.") from None
        return json_response(await self._read(lambda reader: self._search(reader, wanted)))

    async def search_by_body(self, request: web.Request) -> web.Response:
        """Search by whatever there is."""
        wanted = await read_struct(request, Search, MAX_BODY_BYTES)
        if wanted.is_personal:
            self._trail.check()  # who looks for a person is recorded, or doesn't look
        return json_response(await self._read(lambda reader: self._search(reader, wanted)))

    async def export(self, request: web.Request) -> web.Response:
        """Give everything that is kept about one subject, once it is recorded that it was given."""
        wanted = await read_struct(request, ExportIn, MAX_BODY_BYTES)
        rows = await self._read(lambda reader: self._export(reader, wanted.subject))
        if len(rows) > MAX_EXPORTED:
            raise TooLarge(f"There are more than {MAX_EXPORTED} rows: run `subak audit export` on the machine.")
        await self._carry_out(request, Disclose("export", len(rows), wanted.why))
        return json_response(ExportOut(wanted.subject, rows))

    async def proof(self, request: web.Request) -> web.Response:
        """Prove that a row stands in the log (`audit.proofs`): `?size=` chooses the checkpoint."""
        seq = _number(request.match_info["seq"], "$.seq")
        size = _number(request.query["size"], "$.size") if "size" in request.query else None
        return json_response(await self._read(lambda reader: prove(reader, seq, size=size)))

    async def checkpoint(self, request: web.Request) -> web.Response:
        """Give the newest checkpoint, a signed note."""
        del request
        newest = await self._read(lambda reader: reader.checkpoint_at_most(_NEWEST))
        if newest is None:
            raise NotThere("Nothing is sealed yet.")
        return json_response(CheckpointOut(newest.size, newest.note))

    async def holds(self, request: web.Request) -> web.Response:
        """Give the holds in force."""
        del request
        now_ms = self._trail.clock.time_ms()
        return json_response(Holds(await self._read(lambda reader: list(holds_in(reader, now_ms=now_ms)))))

    async def look_at_prune(self, request: web.Request) -> web.Response:
        """Give what a pruning would delete now."""
        del request
        now_ms, term_ms = self._trail.clock.time_ms(), self._trail.term_ms
        return json_response(await self._read(lambda reader: would_prune(reader, now_ms=now_ms, term_ms=term_ms)))

    async def verify(self, request: web.Request) -> web.Response:
        """Begin to verify the log; `GET` tells how far it is, and in the end what was found. One at a time."""
        claim = await read_struct(request, Claim, MAX_ANCHORS_BYTES)
        if claim.vkey:
            try:
                VerifierKey.parse(claim.vkey)
            except MalformedNote as error:
                raise InvalidField("$.vkey", f"a verifier key: {error}") from None
        if self._verification is not None and self._verification.is_running:
            raise Conflict("A verification is running: GET /-/audit/verify tells how far it is.")
        self._verification = Verification(partial(self._trail.judge, claim))
        return json_response(self._verification.shown, status=202)

    async def verification(self, request: web.Request) -> web.Response:
        """Tell how the latest verification goes or went."""
        del request
        if self._verification is None:
            raise NotThere("Nothing was verified since the start: POST /-/audit/verify begins.")
        return json_response(self._verification.shown)

    async def order(self, kind: type[Order], request: web.Request) -> web.Response:
        """Carry out an order."""
        return json_response(await self._carry_out(request, await read_struct(request, kind, MAX_BODY_BYTES)))

    async def _carry_out(self, request: web.Request, order: Order) -> object:
        by = Authority(Personal(Subject("principal", actor_of(request))), self._trail.term_ms)
        with _answered():
            try:
                async with asyncio.timeout(ORDER_S):
                    return await asyncio.wrap_future(self._trail.log.perform(partial(order.carry_out, by=by)))
            except TimeoutError:
                raise AuditUnavailable("It takes long, and is carried out all the same. Look again later.") from None

    async def _read(self, look: Callable[[LogReader], Result]) -> Result:
        """Read the log on a thread, as it is now."""
        async with self._room:
            with _answered():
                return await asyncio.to_thread(self._look, look)

    def _look(self, look: Callable[[LogReader], Result]) -> Result:
        with closing(self._trail.open_reader()) as reader:
            return look(reader)

    def _search(self, reader: LogReader, wanted: Search) -> object:
        if not wanted.needs_names:
            return search(reader, wanted, None)
        with self._trail.names_of(reader.origin) as names:
            return search(reader, wanted, names)

    def _export(self, reader: LogReader, subject: str) -> list[Exported]:
        with self._trail.names_of(reader.origin) as names:
            return list(islice(export(reader, subject, names), MAX_EXPORTED + 1))


class ExportIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an access request: about whom, and why it is asked."""

    subject: str
    why: str = ""


class ExportOut(msgspec.Struct, frozen=True):
    """Everything that is kept about a subject."""

    subject: str
    rows: list[Exported]


class Holds(msgspec.Struct, frozen=True):
    """The holds in force."""

    holds: list[HoldOut]


class Verification:
    """One verification, on a thread that the end of the process doesn't wait for.

    It shares the interpreter with the loop, which may wait 5 ms for it now and then; `subak audit verify` is a process
    of its own and costs the loop nothing.
    """

    def __init__(self, judge: Callable[[OnProgress], Report]) -> None:
        """Begin."""
        self._judge = judge
        self._at = (0, 0)
        self._report: Report | None = None
        self._failure = ""
        self._thread = Thread(target=self._run, name="subak-audit-verify", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    @property
    def shown(self) -> dict[str, object]:
        """How it goes: `running`, `done` with a report, or `failed`."""
        rows, size = self._at
        if self._failure:
            return {"status": "failed", "message": self._failure}
        if self._report is not None:
            return {"status": "done", "report": shown_report(self._report)}
        return {"status": "running", "rows": rows, "size": size}

    def _run(self) -> None:
        try:
            self._report = self._judge(self._note)
        except Exception as error:  # noqa: BLE001 — the root of this thread: whoever asked is told
            self._failure = str(error) or type(error).__name__

    def _note(self, rows: int, size: int) -> None:
        self._at = (rows, size)


@contextmanager
def _answered() -> Iterator[None]:
    """Give what the log says as what a caller is told."""
    try:
        yield
    except BadOrder as error:
        raise InvalidField(error.path, error.expected) from None
    except Held as error:
        raise Conflict(str(error)) from error
    except NoProof as error:
        raise NotThere(str(error)) from error
    except StoreUnavailable as error:
        raise AuditUnavailable(f"The audit log can't be used now ({error}).", retry_after_s=1) from error
    except (StoreDamaged, KeyFileError, KeysNeeded, PersonalMismatch) as error:
        raise LogDamaged(f"{error} `subak audit verify` says more.") from error


def _number(text: str, path: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(_NEWEST)):
        raise InvalidField(path, "a whole number from 0")
    return min(int(text), _NEWEST)
