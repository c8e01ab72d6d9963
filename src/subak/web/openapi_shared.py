"""What both listeners answer alike, for their OpenAPI documents."""

from typing import Final

from subak.web.openapi import Answer, Body, Operation, Problem, header, parameter
from subak.web.problems import PROBLEM_TYPE

TEXT: Final = {"type": "string"}
BARE: Final = {
    400: "The request is malformed, or two parties could read it differently.",
    414: "The URL is too long.",
    417: "The expectation isn't known.",
    431: "The headers are too large.",
    500: "A defect.",
    503: "There is no room for another connection or probe.",
    505: "No HTTP/1.",
}
"""What any route may answer before it is looked at."""
HEADERS: Final = {
    "Location": header("Where it is.", {"type": "string", "format": "uri-reference"}, required=True),
    "Retry-After": header("Seconds to wait.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": header("What credentials are taken.", TEXT, required=True),
    "ETag": header("Tells this version from all others.", TEXT, required=True),
}
IF_NONE_MATCH: Final = parameter("header", "If-None-Match", "The ETag of what the caller has.", TEXT)


def file(id_: str, summary: str, tag: str, *media_types: str, parameters: tuple[str, ...] = ()) -> Operation:
    """Give a route of files: each has an ETag. Its `Face` has to have the parameter `IfNoneMatch`."""
    answers = {
        200: Answer("The file.", (Body(str, media_types),), ("ETag",)),
        304: Answer("It is the one that `If-None-Match` names.", headers=("ETag",)),
        404: Answer("There is no such file.", (Body(Problem, (PROBLEM_TYPE,)),)),
    }
    return Operation(id_, summary, tag, answers, parameters=(*parameters, "IfNoneMatch"))
