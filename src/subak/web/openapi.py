"""OpenAPI 3.2 documents: what a listener answers, made from its routes and from the types of its bodies.

The router's table says which routes there are, a `Face` what each of them takes and gives; `document` joins the two.
The schemas are msgspec's own, of the very types that handlers decode and encode. Nothing of this is imported before
somebody asks for a document: no start waits for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc
from typing import Any, Final, NamedTuple

import msgspec

from subak import __version__
from subak.core.errors import SubakError
from subak.web.openapi_errors import MEANINGS
from subak.web.problems import PROBLEM_TYPE

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
SCHEMAS: Final = "#/components/schemas/"

Object = dict[str, Any]
"""A JSON object of the document."""


class Problem(msgspec.Struct):
    """RFC 9457 problem details. `code` is stable and for machines; a bare problem has none.

    The other members are those of the founding document's bodies, for clients that know them (docs/PROTOCOL.md §2).
    """

    type: str
    title: str
    status: int
    detail: str | msgspec.UnsetType = msgspec.UNSET
    code: str | msgspec.UnsetType = msgspec.UNSET
    errors: "tuple[WrongField, ...] | msgspec.UnsetType" = msgspec.UNSET
    status_url: str | msgspec.UnsetType = msgspec.UNSET


class WrongField(msgspec.Struct):
    """Which field is wrong, as in `$.conversation_history[2].role`, and what belongs there."""

    path: str
    expected: str


class Body(NamedTuple):
    """A body; one of events is described by its items. `narrower`: what the type can't say, as schema keywords.

    `example` is a value, `wire` an example as it is sent.
    """

    type: Any
    media_types: tuple[str, ...] = (JSON,)
    example: object = None
    wire: str = ""
    narrower: Mapping[str, object] = {}


class Answer(NamedTuple):
    """What a status means. `links`: names of `Face.links`."""

    about: str
    bodies: tuple[Body, ...] = ()
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Operation(NamedTuple):
    """One route. `parameters` and `headers` are names in its `Face`, `errors` whatever a handler may raise.

    `security`: names of schemes, "" for none at all.
    """

    id: str
    summary: str
    tag: str
    answers: Mapping[int, Answer]
    errors: tuple[type[SubakError], ...] = ()
    parameters: tuple[str, ...] = ()
    takes: Body | None = None
    security: tuple[str, ...] = ("",)
    error_bodies: Mapping[type[SubakError], Any] = {}


class Face(NamedTuple):
    """All that a document says of a listener, but for which routes there are."""

    title: str
    about: str
    operations: Mapping[tuple[str, str], Operation]
    tags: Mapping[str, str]
    parameters: Mapping[str, Object]
    headers: Mapping[str, Object]
    security_schemes: Mapping[str, Object]
    links: Mapping[str, Object] = {}
    refusal_headers: Mapping[int, tuple[str, ...]] = {}
    bare: Mapping[int, str] = {}
    """Statuses that any route may answer with, before it is looked at: a problem without a code."""
    types: Mapping[str, Any] = {}
    """Types that have no name of their own, such as unions, by the name that references have for them."""


def document(face: Face, routes: Iterable[tuple[str, str]]) -> Object:
    """Give the document of these (method, path).

    Raises:
        KeyError: a route isn't described.
    """
    described = {route: face.operations[route] for route in routes}
    schemas = _Schemas(described.values(), face)
    paths: dict[str, Object] = defaultdict(dict)
    for (method, path), operation in described.items():
        paths[path][method.lower()] = _Writer(face, operation, schemas).operation()
    return {
        "openapi": "3.2.0",
        "info": {
            "title": face.title,
            "version": __version__,
            "description": cleandoc(face.about),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in face.tags.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "parameters": face.parameters,
            "headers": face.headers,
            "securitySchemes": face.security_schemes,
            "links": face.links,
            "responses": {str(status): _bare(about) for status, about in face.bare.items()},
        },
    }


class _Schemas:
    """The schema of each type that the operations name."""

    def __init__(self, operations: Iterable[Operation], face: Face) -> None:
        types = list(dict.fromkeys((Problem, *face.types.values(), *_types_of(operations))))
        schemas, components = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
        self._by_type: Mapping[Any, Object] = dict(zip(types, schemas, strict=True))
        named = {name: self._by_type[kind] for name, kind in face.types.items()}
        self.components = {name: _told(schema) for name, schema in (components | named).items()}

    def of(self, kind: Any) -> Object:  # noqa: ANN401 - any type that msgspec knows
        """Give what stands in the place of a body."""
        return self._by_type[kind]


def _types_of(operations: Iterable[Operation]) -> Iterator[Any]:
    for operation in operations:
        bodies = [body for answer in operation.answers.values() for body in answer.bodies]
        taken = () if operation.takes is None else (operation.takes,)
        yield from [body.type for body in (*taken, *bodies)]
        yield from operation.error_bodies.values()


def _told(schema: Object) -> Object:
    """Give a type's schema with its docstring as text."""
    return schema | {"description": cleandoc(schema["description"])} if "description" in schema else schema


class _Writer:
    """Writes one operation."""

    def __init__(self, face: Face, operation: Operation, schemas: _Schemas) -> None:
        self._face = face
        self._operation = operation
        self._schemas = schemas

    def operation(self) -> Object:
        told = self._operation
        written: Object = {
            "operationId": told.id,
            "summary": told.summary,
            "tags": [told.tag],
            "security": [{name: []} if name else {} for name in told.security],
            "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in told.parameters],
            "responses": self._responses(),
        }
        if told.takes is not None:
            written["requestBody"] = {"required": True, "content": self._content((told.takes,))}
        return written

    def _responses(self) -> Object:
        told = self._operation
        refusals: dict[int, list[type[SubakError]]] = defaultdict(list)
        for error in told.errors:
            refusals[error.http_status].append(error)
        written = {status: {"$ref": f"#/components/responses/{status}"} for status in self._face.bare}
        written |= {status: self._refusal(status, errors) for status, errors in refusals.items()}
        written |= {status: self._answer(answer) for status, answer in told.answers.items()}
        return {str(status): written[status] for status in sorted(written)}

    def _answer(self, answer: Answer) -> Object:
        written: Object = {"description": answer.about, "headers": self._headers(answer.headers)}
        if answer.bodies:
            written["content"] = self._content(answer.bodies)
        if answer.links:
            written["links"] = {name: {"$ref": f"#/components/links/{name}"} for name in answer.links}
        return written

    def _refusal(self, status: int, errors: list[type[SubakError]]) -> Object:
        """Give one response for all errors of a status."""
        codes = list(dict.fromkeys(error.code for error in errors))
        about = [f"`{error.code}`: {MEANINGS[error]}" for error in errors]
        problem: Object = self._schemas.of(Problem) | {"properties": {"code": {"enum": codes}}}
        content: Object = {PROBLEM_TYPE: {"schema": problem}}
        own = [self._operation.error_bodies[error] for error in errors if error in self._operation.error_bodies]
        if own:
            content[JSON] = {"schema": self._schemas.of(own[0])}
        if status in self._face.bare:
            about.append(self._face.bare[status])
        return {
            "description": " ".join(about),
            "headers": self._headers(self._face.refusal_headers.get(status, ())),
            "content": content,
        }

    def _content(self, bodies: tuple[Body, ...]) -> Object:
        return {media_type: self._media(body, media_type) for body in bodies for media_type in body.media_types}

    def _media(self, body: Body, media_type: str) -> Object:
        schema = self._schemas.of(body.type) | dict(body.narrower)
        written: Object = {"itemSchema" if media_type == EVENTS else "schema": schema}
        if body.example is not None:
            written["example"] = body.example
        if body.wire:
            written["examples"] = {"wire": {"serializedValue": body.wire}}
        return written

    def _headers(self, names: Iterable[str]) -> Object:
        return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _bare(about: str) -> Object:
    return {"description": about, "content": {PROBLEM_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}}}}


def parameter(place: str, name: str, about: str, schema: Object, **more: object) -> Object:
    """Give a parameter; one of a path is always required."""
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": about, "schema": schema, **required, **more}


def header(about: str, schema: Object, **more: object) -> Object:
    """Give a response's header."""
    return {"description": about, "schema": schema, **more}
