"""flagd's JSON: what holds for everybody, rules for each caller, and which files are refused."""

import json
from pathlib import Path
from typing import Final

import pytest

from subak.admission.openfeature import MAX_FILE_BYTES, FlagsFile, FlagsFileError, context_of, read_flags_file
from subak.core.principal import Caller, Claims, Principal
from subak.core.rollout import STREAMING, FileRule

ON_OFF: Final = {"on": True, "off": False}


def file_of(tmp_path: Path, document: object) -> FlagsFile:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_flags_file(path)


def flag(**parts: object) -> dict[str, object]:
    whole: dict[str, object] = {"state": "ENABLED", "variants": ON_OFF, "defaultVariant": "off"}
    return {"flags": {STREAMING: whole | parts}}


def caller(number: int, role: str | None = None) -> Caller:
    return Caller(Principal(f"user:{number}", Claims(str(number), f"{number}@example.org", role, "acme")), "192.0.2.7")


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"defaultVariant": "on"}, FileRule(is_off=False, arm="on")),
        ({"defaultVariant": "off"}, FileRule(is_off=True, arm="off")),
        ({"defaultVariant": "on", "state": "DISABLED"}, FileRule(is_off=True, arm="off")),
        ({"defaultVariant": None}, FileRule(is_off=True, arm="off")),
        ({"variants": {"a": True, "b": True}, "defaultVariant": "b"}, FileRule(is_off=False, arm="b")),
        ({"variants": {"true": True, "false": False}, "defaultVariant": True}, FileRule(is_off=False, arm="true")),
        ({"defaultVariant": "on", "targeting": {}}, FileRule(is_off=False, arm="on")),
    ],
)
def test_what_the_file_says_to_everybody(tmp_path: Path, parts: dict[str, object], rule: FileRule) -> None:
    file = file_of(tmp_path, flag(**parts))
    assert file.rule(STREAMING) == rule
    assert not file.targeted


def test_a_flag_that_is_disabled_is_not_targeted(tmp_path: Path) -> None:
    file = file_of(tmp_path, flag(state="DISABLED", targeting={"if": [True, "on", "off"]}))
    assert file.rule(STREAMING).is_off
    assert not file.targeted


@pytest.mark.parametrize(
    ("rule", "is_on"),
    [
        ({"if": [{"==": [{"var": "role"}, "member"]}, "on", "off"]}, True),
        ({"if": [{"ends_with": [{"var": "email"}, "@example.org"]}, "on", "off"]}, True),
        ({"if": [{"==": [{"var": "tenant"}, "other"]}, "on", "off"]}, False),
        ({"if": [{"starts_with": [{"var": "address"}, "192.0.2."]}, "on", "off"]}, True),
        ({"if": [{"==": [{"var": "id"}, "user:1"]}, "on"]}, True),
        ({"if": [{"==": [{"var": "id"}, "user:2"]}, "on"]}, False),
        ({"if": [{"==": [{"var": "targetingKey"}, "user:1"]}, "on", "off"]}, True),
        ({"$ref": "members"}, True),
    ],
)
def test_a_rule_sees_the_caller(tmp_path: Path, rule: dict[str, object], *, is_on: bool) -> None:
    members = {"if": [{"==": [{"var": "role"}, "member"]}, "on", "off"]}
    file = file_of(tmp_path, flag(targeting=rule) | {"$evaluators": {"members": members}})
    assert file.targeted == {STREAMING}
    assert file.evaluate(STREAMING, context_of(caller(1, "member"))).is_on is is_on


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([["on", 0.5], ["off", 99.5]], 0.5),
        ([["on", 25], ["off", 75]], 25),
        ([["on", 12.5], ["off", 87.5]], 12.5),
        ([["on", 0.5], ["off"]], 33.33),
        ([["on", 0], ["off", 100]], 0),
    ],
)
def test_weights_may_have_decimals(tmp_path: Path, weights: list[list[object]], share: float) -> None:
    file = file_of(tmp_path, flag(targeting={"fractional": weights}))
    inside = sum(file.evaluate(STREAMING, context_of(caller(number))).is_on for number in range(10_000))
    assert abs(inside / 100 - share) < max(0.25, share / 20)


def test_weights_with_decimals_work_below_other_rules_and_in_references(tmp_path: Path) -> None:
    half = {"fractional": [{"var": "id"}, ["on", 0.5], ["off", 0.5]]}
    rule = {"if": [{"==": [{"var": "role"}, "member"]}, {"$ref": "half"}, "off"]}
    file = file_of(tmp_path, flag(targeting=rule) | {"$evaluators": {"half": half}})
    inside = sum(file.evaluate(STREAMING, context_of(caller(number, "member"))).is_on for number in range(2_000))
    assert 900 < inside < 1_100


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "Expected `object`, got `array`"),
        ({}, "missing required field `flags`"),
        ({"flags": {"ENABLE_SSE_STREAMNG": {}}}, "names none of the flags here: ENABLE_SSE_STREAMING"),
        (flag(state="ON"), "$.state"),
        (flag(variants={"on": 1}), "$.variants"),
        (flag(variants={}), "defaultVariant isn't one of the variants"),
        (flag(defaultVariant="maybe"), "defaultVariant isn't one of the variants"),
        (flag(targeting={"if": [True, "maybe"]}), "targeting rule doesn't work"),
        (flag(targeting={"no_such_operator": [1]}), "targeting rule doesn't work"),
        (flag(targeting={"/": [1, 0]}), "targeting rule doesn't work"),
        (flag(targeting={"fractional": [["on", "5"], ["off", 95]]}), "isn't a number"),
        (flag(targeting={"fractional": [["on", True], ["off", 95]]}), "isn't a number"),
        (flag(targeting={"fractional": [["on", 0.0001], ["off", 99.9999]]}), "more than three decimals"),
    ],
)
def test_what_can_not_be_is_refused_with_its_place(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(FlagsFileError) as caught:
        file_of(tmp_path, document)
    assert str(caught.value).startswith(f"{tmp_path}/flags.json: ")
    assert said in str(caught.value)


def test_flags_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    document = flag(defaultVariant="on")
    flags = document["flags"]
    assert isinstance(flags, dict)
    flags["another"] = {"state": "ODD", "variants": {"red": "#f00"}}
    assert file_of(tmp_path, document).rule(STREAMING) == FileRule()


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (MAX_FILE_BYTES + 1)):
        path.write_bytes(content)
        with pytest.raises(FlagsFileError, match=r"flags\.json: "):
            read_flags_file(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FlagsFileError, match=r"none\.json: No such file"):
        read_flags_file(tmp_path / "none.json")


def test_a_refusal_has_nothing_of_the_content(tmp_path: Path) -> None:
    rule = {"if": [{"==": [{"var": "email"}, "somebody@example.org"]}, "maybe-somebody", "maybe-somebody"]}
    with pytest.raises(FlagsFileError) as caught:
        file_of(tmp_path, flag(targeting=rule))
    assert "somebody" not in str(caught.value)
