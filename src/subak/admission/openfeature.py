"""Flags by the OpenFeature API: our provider, a client of our own, and the flagd evaluator over a file.

The client holds its provider itself. The SDK's registry is one for the whole process and never forgets a domain: two
gateways in one process would meet there.

The file is flagd's JSON. flagd takes whole numbers as weights of `fractional` and treats `0.5` as if it weren't there,
without a word; here weights with up to three decimals are counted in thousandths, and others refuse the file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from openfeature.client import OpenFeatureClient
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, OpenFeatureError, TypeMismatchError
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails
from openfeature.flag_evaluation import Reason as SdkReason
from openfeature.provider import AbstractProvider, FeatureProvider, Metadata, ProviderStatus

from subak.core.principal import Caller, Claims, Principal
from subak.core.rollout import KNOWN_FLAGS, FileRule, FlagDecision, Reason, sticky_key

MAX_FILE_BYTES: Final = 1024 * 1024
_THOUSAND: Final = 1000
_ROUNDING: Final = 1e-6
_FAILED: Final = FlagDecision(is_on=False, arm="off", reason=Reason.TARGETING_FAILED)
_WHY: Final = "why"
_SDK_REASONS: Final = {
    Reason.INSIDE: SdkReason.SPLIT,
    Reason.OUTSIDE: SdkReason.SPLIT,
    Reason.ALLOWED: SdkReason.TARGETING_MATCH,
    Reason.DENIED: SdkReason.TARGETING_MATCH,
    Reason.TARGETING: SdkReason.TARGETING_MATCH,
    Reason.TARGETING_FAILED: SdkReason.ERROR,
}


Context: TypeAlias = EvaluationContext
"""What a targeting rule may ask of a caller (see `context_of`)."""


class FlagsFileError(Exception):
    """The flags file can't be used. The text says why, without anything that stands in it as a value."""


class _Flag(msgspec.Struct):
    state: Literal["ENABLED", "DISABLED"]
    variants: dict[str, bool]
    default: str | bool | None = msgspec.field(name="defaultVariant", default=None)
    targeting: dict[str, Any] | None = None


class _Document(msgspec.Struct):
    flags: dict[str, msgspec.Raw]
    evaluators: dict[str, Any] = msgspec.field(name="$evaluators", default_factory=dict)


class FlagsFile:
    """What a flags file says of the flags that there are here; the flags of other programs in it are passed over."""

    def __init__(self, document: _Document) -> None:
        """Use `read_flags_file`."""
        flags = {key: _decoded(key, raw) for key, raw in document.flags.items() if key in KNOWN_FLAGS}
        self.targeted = frozenset(key for key, flag in flags.items() if flag.state == "ENABLED" and flag.targeting)
        self._evaluator = FlagdCore()
        self._evaluator.set_flags(
            {
                "flags": {key: _in_thousandths(_builtins(flag)) for key, flag in flags.items()},
                "$evaluators": _in_thousandths(document.evaluators),
            }
        )
        self._rules = {key: self._rule(key, flag) for key, flag in flags.items()}
        for key in self.targeted:
            for context in _SAMPLES:
                self._try(key, context)

    def rule(self, key: str) -> FileRule:
        """Give what holds for everybody. A flag that the file doesn't have is left to the environment."""
        return self._rules.get(key, FileRule())

    def evaluate(self, key: str, context: Context) -> FlagDecision:
        """Give what the targeting rule says to one caller.

        Raises:
            OpenFeatureError: the rule gives a variant that there isn't. A rule that can't be computed raises what it
                will, which `FlagsClient` answers for.
        """
        details = self._evaluator.resolve_boolean_value(key, default_value=False, ctx=context)
        return FlagDecision(is_on=details.value, arm=_arm(details, is_on=details.value), reason=Reason.TARGETING)

    def _rule(self, key: str, flag: _Flag) -> FileRule:
        if key in self.targeted:
            ons = [name for name, value in flag.variants.items() if value]
            return FileRule(is_off=not ons, arm=ons[0] if ons else "off")
        details = self._evaluator.resolve_boolean_value(key, default_value=False)
        return FileRule(is_off=not details.value, arm=_arm(details, is_on=details.value))

    def _try(self, key: str, context: Context) -> None:
        """Evaluate it once, so that a rule that can't work is found when the file is read."""
        try:
            self.evaluate(key, context)
        except OpenFeatureError as error:
            raise FlagsFileError(f"{key}: the targeting rule doesn't work ({error.error_code})") from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise FlagsFileError(f"{key}: the targeting rule doesn't work ({type(error).__name__})") from error


def _arm(details: FlagResolutionDetails[bool], *, is_on: bool) -> str:
    return details.variant or ("on" if is_on else "off")


def read_flags_file(path: Path) -> FlagsFile:
    """Read and check a flags file.

    Raises:
        FlagsFileError: it can't be read, or isn't what flagd and this gateway understand.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FlagsFileError(f"{path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise FlagsFileError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return _parsed(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FlagsFileError(f"{path}: {error}") from error
    except OpenFeatureError as error:
        raise FlagsFileError(f"{path}: {error.error_message}") from error
    except FlagsFileError as error:
        raise FlagsFileError(f"{path}: {error}") from error


def _parsed(content: bytes) -> FlagsFile:
    document = msgspec.json.decode(content, type=_Document)
    if not document.flags.keys() & set(KNOWN_FLAGS):
        raise FlagsFileError(f"names none of the flags here: {', '.join(KNOWN_FLAGS)}")
    return FlagsFile(document)


def no_flags_file() -> FlagsFile:
    """Give one that says nothing: everything is left to the environment."""
    return FlagsFile(_Document({}))


def _decoded(key: str, raw: msgspec.Raw) -> _Flag:
    try:
        flag = msgspec.json.decode(raw, type=_Flag)
    except msgspec.ValidationError as error:
        raise FlagsFileError(f"{key}: {error}") from error
    default = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
    if not flag.variants or (default and default not in flag.variants):
        raise FlagsFileError(f"{key}: defaultVariant isn't one of the variants")
    return flag


def _builtins(flag: _Flag) -> dict[str, Any]:
    builtins: dict[str, Any] = msgspec.to_builtins(flag)
    return builtins


def _in_thousandths(rule: Any) -> Any:  # noqa: ANN401 - the JSON border: a rule is any JSON
    """Give a rule in which the weights of each `fractional` are whole numbers."""
    match rule:
        case list():
            return [_in_thousandths(each) for each in rule]
        case {"fractional": list() as arguments, **rest} if not rest:
            return {"fractional": _whole_weights([_in_thousandths(each) for each in arguments])}
        case dict():
            return {name: _in_thousandths(each) for name, each in rule.items()}
        case _:
            return rule


def _whole_weights(arguments: list[Any]) -> list[Any]:
    """Multiply all weights when one has decimals. An argument is `[variant, weight]`, or `[variant]` of weight 1."""
    weights = [each[1] if len(each) > 1 else 1 for each in arguments if isinstance(each, list) and each]
    if any(isinstance(weight, bool | str | None) for weight in weights):
        raise FlagsFileError("a weight of fractional isn't a number")
    if not any(isinstance(weight, float) for weight in weights):
        return arguments
    if any(not isinstance(weight, float | int) or _is_too_fine(weight) for weight in weights):
        raise FlagsFileError("a weight of fractional has more than three decimals, or is computed beside one that has")
    return [
        [each[0], round((each[1] if len(each) > 1 else 1) * _THOUSAND)] if isinstance(each, list) and each else each
        for each in arguments
    ]


def _is_too_fine(weight: float) -> bool:
    return abs(weight * _THOUSAND - round(weight * _THOUSAND)) > _ROUNDING


def context_of(caller: Caller) -> Context:
    """Give what targeting rules may ask of a caller: `id`, `email`, `role`, `tenant`, `address`, `targetingKey`."""
    principal, claims = caller.principal, caller.principal.claims
    known = {"email": claims.email, "role": claims.role, "tenant": claims.tenant}
    attributes: dict[str, Any] = {"id": principal.id, "address": caller.address}
    return Context(sticky_key(caller), attributes | {name: each for name, each in known.items() if each})


_SAMPLES: Final = tuple(
    context_of(Caller(principal, address))
    for principal, address in (
        (Principal(), "192.0.2.1"),
        (Principal("user:1", Claims("1", "one@example.org", "member", "acme")), "2001:db8::1"),
    )
)


def _caller_of(context: Context) -> Caller:
    """Give the caller that a context stands for: of a foreign one, its targeting key alone."""
    attributes: Mapping[str, object] = context.attributes
    identity = attributes.get("id", context.targeting_key or "")
    return Caller(Principal(str(identity)), str(attributes.get("address", "")))


Resolve = Callable[[str, Caller, Context], FlagDecision]
"""Goes through the whole table for a flag and a caller."""


class FlagsProvider(AbstractProvider):
    """Tells the SDK what the table says: the environment's permit, operators' overrides and the file in one."""

    def __init__(self, resolve: Resolve) -> None:
        super().__init__()
        self._resolve = resolve

    def get_metadata(self) -> Metadata:
        """Give the provider's name."""
        return Metadata("subak")

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - the SDK's signature
        evaluation_context: Context | None = None,
    ) -> FlagResolutionDetails[bool]:
        """Give a flag's value, its arm as the variant, and the row of the table in the metadata."""
        del default_value
        if flag_key not in KNOWN_FLAGS:
            raise FlagNotFoundError(f"Known flags: {', '.join(KNOWN_FLAGS)}")
        context = evaluation_context or Context()
        decision = self._resolve(flag_key, _caller_of(context), context)
        return FlagResolutionDetails(
            decision.is_on,
            variant=decision.arm,
            reason=_SDK_REASONS.get(decision.reason, SdkReason.STATIC),
            flag_metadata={_WHY: decision.reason.value},
        )

    def _no_such_type(self, *_arguments: object, **_named: object) -> FlagResolutionDetails[Any]:
        raise TypeMismatchError("All flags here are boolean")

    resolve_string_details = _no_such_type
    resolve_integer_details = _no_such_type
    resolve_float_details = _no_such_type
    resolve_object_details = _no_such_type


class FlagsClient(OpenFeatureClient):
    """The SDK's client, over one provider that no other client sees."""

    def __init__(self, provider: FlagsProvider) -> None:
        super().__init__(domain=None, version=None)
        self._provider = provider

    @property
    def provider(self) -> FeatureProvider:
        """The provider it was made with."""
        return self._provider

    def get_provider_status(self) -> ProviderStatus:
        """Give `READY`: the provider has nothing to wait for."""
        return ProviderStatus.READY

    def decide(self, key: str, caller: Caller) -> FlagDecision:
        """Evaluate a flag through the SDK. What fails inside a targeting rule is off for that caller."""
        return _decision_of(self.get_boolean_details(key, default_value=False, evaluation_context=context_of(caller)))


def _decision_of(details: FlagEvaluationDetails[bool]) -> FlagDecision:
    if details.error_code is not None or details.variant is None:
        return _FAILED
    return FlagDecision(details.value, details.variant, Reason(str(details.flag_metadata[_WHY])))
