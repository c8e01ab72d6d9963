"""What the admin listener answers, for its OpenAPI document. docs/operations.md and docs/audit.md say what it means."""

from collections.abc import Iterable
from inspect import cleandoc
from typing import Any, Final, Literal

import msgspec

from subak.admission.flag_store import FlagsUnusable
from subak.admission.limiter import Figures
from subak.audit.inspection import OLD_NAMES, Claim, Page, Search
from subak.audit.operations import Operation as Recorded
from subak.audit.orders import (
    ORDERS,
    CheckpointOut,
    Disclose,
    Erase,
    ErasedOut,
    HoldOn,
    HoldOut,
    Order,
    Prune,
    PrunedOut,
    Release,
    RotatedOut,
    RotateKey,
    RowOut,
    Seal,
)
from subak.audit.proofs import Proof
from subak.core.errors import (
    AuditUnavailable,
    Forbidden,
    InvalidField,
    NotAcceptable,
    RateLimited,
    RequestError,
    SubakError,
    TooLarge,
    TooSlow,
    Unauthenticated,
)
from subak.core.flag_state import FlagView, RestrictionForgotten, RolloutConflict
from subak.core.rollout import OverridesIn, UnknownFlag
from subak.telemetry.errors import ErrorsSnapshot
from subak.telemetry.history import History
from subak.telemetry.stats import ConnectionsSnapshot, Snapshot
from subak.web.admin import AdminRoute, Role
from subak.web.audit import Conflict, ExportIn, ExportOut, Holds, LogDamaged, NotThere
from subak.web.openapi import JSON, Answer, Body, Face, Object, Operation, document, parameter
from subak.web.openapi_shared import BARE, HEADERS, IF_NONE_MATCH, TEXT, file
from subak.web.ops import AuthEventIn, FlagHistory, FlagList, Leaving, RolloutOut, RolloutSeen, StartIn

_FLAG: Final = "ENABLE_SSE_STREAMING"


class Finding(msgspec.Struct):
    """Something that is wrong with the log, at row `seq`."""

    flaw: str
    seq: int | None
    about: str
    detail: str


class Warned(msgspec.Struct):
    """Something that can't be told by what was given."""

    doubt: str
    seq: int | None
    about: str


class Verdict(msgspec.Struct):
    """What a verification came to."""

    ok: bool
    origin: str
    size: int
    pruned: int
    sealed: int
    checkpoints: int
    finding_count: int
    findings: tuple[Finding, ...]
    warnings: tuple[Warned, ...]


class Verification(msgspec.Struct):
    """How a verification is: `rows` of `size` while it runs, a report when it is done, or why it failed."""

    status: Literal["running", "done", "failed"]
    rows: int | msgspec.UnsetType = msgspec.UNSET
    size: int | msgspec.UnsetType = msgspec.UNSET
    report: Verdict | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET


_CALLER: Final = (Unauthenticated, RateLimited)
_CHANGE: Final = (Forbidden, NotAcceptable)
_BODY: Final = (*_CHANGE, RequestError, InvalidField, TooLarge, TooSlow)
_LOG: Final = (AuditUnavailable, LogDamaged)
_OPERATOR: Final = ("bearer", "basic", "apiKey")


def _look(
    id_: str,
    summary: str,
    tag: str,
    gives: Any,  # noqa: ANN401 - any type that msgspec knows
    *errors: type[SubakError],
    parameters: tuple[str, ...] = (),
    media_types: tuple[str, ...] = (JSON,),
) -> Operation:
    answers = {200: Answer("As it is now.", (Body(gives, media_types),))}
    return Operation(id_, summary, tag, answers, (*_CALLER, *errors), parameters, security=_OPERATOR)


def _change(
    id_: str,
    summary: str,
    tag: str,
    answer: Answer,
    *errors: type[SubakError],
    takes: Body | None = None,
    status: int = 200,
    parameters: tuple[str, ...] = (),
) -> Operation:
    needed = _CHANGE if takes is None else _BODY
    return Operation(
        id_, summary, tag, {status: answer}, (*_CALLER, *needed, *errors), parameters, takes, security=_OPERATOR
    )


def _step(name: str, summary: str) -> Operation:
    answer = Answer("The rollout.", (Body(RolloutOut),))
    return _change(f"{name}Rollout", summary, "flags", answer, RolloutConflict, FlagsUnusable)


def _order(kind: type[Order], gives: type, example: object) -> Operation:
    about = cleandoc(kind.__doc__ or "").partition("\n")[0]
    answer = Answer("It is done, and recorded.", (Body(gives),))
    return _change(
        f"audit{kind.name.title().replace('-', '')}",
        about,
        "audit",
        answer,
        Conflict,
        *_LOG,
        takes=Body(kind, example=example),
    )


def _guarded(operation: Operation) -> Operation:
    """Give what somebody else may answer to everybody as it is here."""
    return operation._replace(errors=_CALLER, security=_OPERATOR)


def _redirect(id_: str) -> Operation:
    answers = {302: Answer("To `/-/`.", headers=("Location",))}
    return _guarded(Operation(id_, "To the operations page.", "page", answers))


_BEGINNINGS: Final = {f"{name[:place]}.*" for name in Recorded for place in range(len(name)) if name[place] == "."}
_OPERATIONS_RECORDED: Final = {"enum": ["", *Recorded, *OLD_NAMES, *sorted(_BEGINNINGS)]}
_ADDRESS: Final = {"anyOf": [{"const": ""}, {"format": "ipv4"}, {"format": "ipv6"}]}
_MOMENT: Final = {"type": "string", "format": "date-time"}
_PERSONAL: Final = {"subject", "address", "show_personal"}
_SEARCH: Final = Body(
    Search,
    example={"operation": "stream.*", "limit": 10},
    narrower={"properties": {"operation": _OPERATIONS_RECORDED, "address": _ADDRESS}},
)
_SEARCHED: Final[dict[str, Object]] = {
    **{
        name: schema
        for name, schema in msgspec.json.schema(Search)["$defs"]["Search"]["properties"].items()
        if name not in _PERSONAL
    },
    "operation": _OPERATIONS_RECORDED,
    "since": _MOMENT,
    "until": _MOMENT,
}
_ORDERS_GIVE: Final[dict[type[Order], tuple[type, object]]] = {
    Erase: (ErasedOut, {"subject": "user:42"}),
    HoldOn: (HoldOut, {"until": "2099-12-31T00:00:00Z", "why": "a dispute"}),
    Release: (RowOut, {"hold": 17, "why": "it is settled"}),
    Prune: (PrunedOut, {}),
    RotateKey: (RotatedOut, {}),
    Seal: (CheckpointOut, {}),
    Disclose: (RowOut, {"kind": "search", "rows": 0}),
}


_OPERATIONS: Final = {
    ("GET", "/metrics"): _look(
        "readMetrics",
        "Everything for Prometheus.",
        "figures",
        str,
        media_types=("text/plain", "application/openmetrics-text"),
    ),
    ("GET", "/-/stats"): _look("readStats", "Figures over three windows, and what is under way.", "figures", Snapshot),
    ("GET", "/-/connections"): _look(
        "readConnections", "Streams and responses under way.", "figures", ConnectionsSnapshot
    ),
    ("GET", "/-/errors"): _look("readErrors", "Unexpected exceptions, by kind and place.", "figures", ErrorsSnapshot),
    ("GET", "/-/config"): _look("readConfig", "All settings in force, secrets masked.", "figures", dict[str, str]),
    ("GET", "/-/versions"): _look("readVersions", "Of Subak and what it runs on.", "figures", dict[str, str | None]),
    ("GET", "/-/limits"): _look("readLimits", "Accounts, denials, streams held.", "figures", Figures),
    ("GET", "/-/history"): _look(
        "readHistory",
        "The last hour's latency and load, every five seconds.",
        "figures",
        History,
        InvalidField,
        parameters=("After",),
    ),
    ("GET", "/-/flags"): _look("readFlags", "Every flag, and for whom it is on.", "flags", FlagList, FlagsUnusable),
    ("GET", "/-/flags/{key}"): _look(
        "readFlag", "One flag.", "flags", FlagView, UnknownFlag, FlagsUnusable, parameters=("FlagKey",)
    ),
    ("PUT", "/-/flags/{key}"): _change(
        "putFlag",
        "Put these overrides in place of all former ones; refused where one that keeps callers out isn't named.",
        "flags",
        Answer("The flag.", (Body(FlagView),)),
        UnknownFlag,
        RolloutConflict,
        RestrictionForgotten,
        FlagsUnusable,
        takes=Body(OverridesIn, example={"off": False, "allow": ["user:42"]}),
        parameters=("FlagKey",),
    ),
    ("PATCH", "/-/flags/{key}"): _change(
        "patchFlag",
        "Change the overrides that are named, and no others.",
        "flags",
        Answer("The flag.", (Body(FlagView),)),
        UnknownFlag,
        RolloutConflict,
        FlagsUnusable,
        takes=Body(OverridesIn, (JSON, "application/merge-patch+json"), example={"percentage": 25}),
        parameters=("FlagKey",),
    ),
    ("GET", "/-/flags/{key}/history"): _look(
        "readFlagHistory",
        "Who changed it, when, from what to what.",
        "flags",
        FlagHistory,
        UnknownFlag,
        FlagsUnusable,
        parameters=("FlagKey",),
    ),
    ("GET", "/-/rollout"): _look(
        "readRollout", "The rollout, and the figures it was last judged by.", "flags", RolloutSeen, FlagsUnusable
    ),
    ("POST", "/-/rollout/start"): _change(
        "startRollout",
        "Begin a gradual rollout.",
        "flags",
        Answer("The rollout.", (Body(RolloutOut),)),
        RolloutConflict,
        FlagsUnusable,
        takes=Body(StartIn, example={"steps": [5, 25, 50, 100], "hold_s": 86_400}),
    ),
    ("POST", "/-/rollout/pause"): _step("pause", "Stay at the step; a bad figure still rolls back."),
    ("POST", "/-/rollout/resume"): _step("resume", "Go on after a pause or a roll-back; the step begins anew."),
    ("POST", "/-/rollout/keep"): _step("keep", "End it at its present percentage."),
    ("POST", "/-/rollout/abort"): _step("abort", "End it at 0 %."),
    ("POST", "/-/drain"): _change(
        "drain",
        "Take no more streams, finish and leave: this ends the process.",
        "process",
        Answer("It begins.", (Body(Leaving),)),
        status=202,
    ),
    ("POST", "/-/audit/auth-events"): _change(
        "reportAuthEvent",
        "Tell of a login, logout or token refresh: by an internal key too.",
        "audit",
        Answer("Recorded."),
        AuditUnavailable,
        takes=Body(AuthEventIn, example={"event": "login", "user_id": "42"}),
        status=204,
    ),
    ("GET", "/-/audit/search"): _look(
        "searchAuditByUrl",
        "Rows by time, operation, outcome, stream. Nothing personal may stand in this URL.",
        "audit",
        Page,
        RequestError,
        InvalidField,
        *_LOG,
        parameters=tuple(f"Search-{name}" for name in _SEARCHED),
    ),
    ("POST", "/-/audit/search"): _change(
        "searchAudit",
        "The same, and by person or address: that is recorded.",
        "audit",
        Answer("A page of rows.", (Body(Page),)),
        *_LOG,
        takes=_SEARCH,
    ),
    ("POST", "/-/audit/export"): _change(
        "exportAudit",
        "Everything about one person; recorded before it is given.",
        "audit",
        Answer("All of it.", (Body(ExportOut),)),
        *_LOG,
        takes=Body(ExportIn, example={"subject": "user:42", "why": "an access request"}),
    ),
    ("GET", "/-/audit/proof/{seq}"): _look(
        "proveRow",
        "A proof that this row stands in the log.",
        "audit",
        Proof,
        InvalidField,
        NotThere,
        *_LOG,
        parameters=("Seq", "Size"),
    ),
    ("GET", "/-/audit/checkpoint"): _look(
        "readCheckpoint", "The newest checkpoint, a signed note.", "audit", CheckpointOut, NotThere, *_LOG
    ),
    ("GET", "/-/audit/holds"): _look("readHolds", "The holds in force.", "audit", Holds, *_LOG),
    ("GET", "/-/audit/prune"): _look("lookAtPruning", "What a pruning would delete now.", "audit", PrunedOut, *_LOG),
    ("GET", "/-/audit/verify"): _look(
        "readVerification", "How far a verification is, or what it found.", "audit", Verification, NotThere
    ),
    ("POST", "/-/audit/verify"): _change(
        "verifyAudit",
        "Begin to verify the log.",
        "audit",
        Answer("It runs.", (Body(Verification),)),
        Conflict,
        takes=Body(Claim, example={}),
        status=202,
    ),
    **{("POST", f"/-/audit/{name}"): _order(kind, *_ORDERS_GIVE[kind]) for name, kind in ORDERS.items()},
    ("GET", "/"): _redirect("home"),
    ("GET", "/-"): _redirect("homeWithoutSlash"),
    ("GET", "/-/"): _look("page", "The operations page.", "page", str, FlagsUnusable, media_types=("text/html",)),
    ("GET", "/-/static/{name}"): _guarded(
        file(
            "file",
            "The page's files.",
            "page",
            "text/javascript",
            "text/css",
            "image/svg+xml",
            parameters=("FileName",),
        )
    ),
    ("GET", "/-/openapi.json"): _guarded(file("openapi", "This document.", "page", JSON)),
}

_PLACE: Final = {"type": "string", "pattern": "^[0-9]{1,19}$"}
_PARAMETERS: Final = {
    "FlagKey": parameter("path", "key", "The flag's name.", TEXT, example=_FLAG),
    "FileName": parameter("path", "name", "The file's name.", TEXT, example="ops.css"),
    "Seq": parameter("path", "seq", "The row's place, from 0.", _PLACE, example="0"),
    "Size": parameter(
        "query", "size", "By the checkpoint over so many rows, instead of the first that has it.", _PLACE
    ),
    "After": parameter(
        "query",
        "after",
        "Only what is newer, in milliseconds since the epoch.",
        {"type": "string", "pattern": "^[0-9]{1,16}$"},
    ),
    "IfNoneMatch": IF_NONE_MATCH,
    **{
        f"Search-{name}": parameter("query", name, "As in the body of `POST /-/audit/search`.", schema)
        for name, schema in _SEARCHED.items()
    },
}
ADMIN: Final = Face(
    title="Subak, for operators",
    about="""
        The admin listener: figures, flags and the rollout, the audit trail, drain. Everything takes the admin token, as
        a bearer, as `x-api-key`, or as the password of Basic authentication, whose user name goes into the histories.
        Changes take JSON, and none is made for a page of another site.
        """,
    operations=_OPERATIONS,
    tags={
        "figures": "What goes on.",
        "flags": "For whom streaming is on.",
        "audit": "The trail: looked into, proven, verified, ordered about. Its routes are there while it is on.",
        "process": "The process itself.",
        "page": "The operations page and its files, and this document.",
    },
    parameters=_PARAMETERS,
    headers=HEADERS,
    security_schemes={
        "bearer": {"type": "http", "scheme": "bearer", "description": "`X-Subak-Actor` may say who acts."},
        "basic": {"type": "http", "scheme": "basic", "description": "The user name is who acts."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    },
    refusal_headers={401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)},
    bare=BARE,
)


def admin_document(routes: Iterable[AdminRoute]) -> Object:
    """Give the admin listener's document: of the routes that there are, some of which may be open to anyone."""
    open_to_all = {(route.method, route.path) for route in routes if route.role is Role.ANYONE}
    described = {
        route: operation._replace(security=("",)) if route in open_to_all else operation
        for route, operation in _OPERATIONS.items()
    }
    return document(ADMIN._replace(operations=described), [(route.method, route.path) for route in routes])
