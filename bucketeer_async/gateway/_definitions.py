"""Definitions of flags, segments and experiments in the server's JSON form: validation; completion of omitted fields.

Like the server's console, this gateway rejects a flag that names a variation which the flag does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._evaluation._clauses import OPERATORS
from bucketeer_async._models import shown
from bucketeer_async.gateway._shapes import (
    ANYTHING,
    BOOLEAN,
    INT32,
    SECONDS,
    TEXT,
    Shape,
    enum,
    message,
    repeated,
)

Definition = dict[str, Any]

_TOTAL_WEIGHT: Final = 100_000  # sum of the weights of a rollout: thousandths of a percent

_CLAUSE: Final = message(id=TEXT, attribute=TEXT, operator=enum(*OPERATORS), values=repeated(TEXT))
_ROLLOUT: Final = message(
    variations=repeated(message(variation=TEXT, weight=INT32)),
    audience=message(percentage=INT32, defaultVariation=TEXT),
)
_STRATEGY: Final = message(
    type=enum("FIXED", "ROLLOUT"), fixedStrategy=message(variation=TEXT), rolloutStrategy=_ROLLOUT
)
_RULE: Final = message(id=TEXT, strategy=_STRATEGY, clauses=repeated(_CLAUSE))
_FLAG: Final = message(
    id=TEXT,
    name=TEXT,
    description=TEXT,
    enabled=BOOLEAN,
    deleted=BOOLEAN,
    evaluationUndelayable=BOOLEAN,
    ttl=INT32,
    version=INT32,
    createdAt=SECONDS,
    updatedAt=SECONDS,
    variations=repeated(message(id=TEXT, value=TEXT, name=TEXT, description=TEXT)),
    targets=repeated(message(variation=TEXT, users=repeated(TEXT))),
    rules=repeated(_RULE),
    defaultStrategy=_STRATEGY,
    offVariation=TEXT,
    tags=repeated(TEXT),
    lastUsedInfo=ANYTHING,
    maintainer=TEXT,
    variationType=enum("STRING", "BOOLEAN", "NUMBER", "JSON", "YAML"),
    archived=BOOLEAN,
    prerequisites=repeated(message(featureId=TEXT, variationId=TEXT)),
    samplingSeed=TEXT,
    autoOpsSummary=ANYTHING,
    variationValueSchema=ANYTHING,
)
_SEGMENT_USER: Final = message(
    id=TEXT, segmentId=TEXT, userId=TEXT, state=enum("INCLUDED", "EXCLUDED"), deleted=BOOLEAN
)


def _complete_member(value: Any, path: str) -> Definition:
    fields: Definition = _SEGMENT_USER.complete({"userId": value} if isinstance(value, str) else value, path)
    return fields


_SEGMENT: Final = message(
    segmentId=TEXT, users=repeated(Shape(_complete_member, dict)), updatedAt=SECONDS, rules=repeated(_RULE)
)
_EXPERIMENT: Final = message(
    id=TEXT,
    name=TEXT,
    description=TEXT,
    featureId=TEXT,
    featureVersion=INT32,
    goalIds=repeated(TEXT),
    startAt=SECONDS,
    stopAt=SECONDS,
)


def complete_flag(fields: Mapping[str, Any]) -> Definition:
    """Return the definition of a flag with all fields, as the server sends it.

    Raises:
        ConfigurationError: If the definition is invalid; the message names the flag and the field.
    """
    with _error_context("flag", fields, "id"):
        flag: Definition = _FLAG.complete(fields, "")
        _require(flag["id"], "id")
        _check_variations(flag)
        _require(flag["defaultStrategy"], "defaultStrategy")
        for path, strategy in _strategies(flag):
            _check_strategy(strategy, path)
    return flag


def complete_segment(fields: Mapping[str, Any]) -> Definition:
    """Return the definition of a segment with all fields, as the server sends it.

    An entry of ``users`` may be the id of a user.

    Raises:
        ConfigurationError: If the definition is invalid; the message names the segment and the field.
    """
    with _error_context("segment", fields, "segmentId"):
        segment: Definition = _SEGMENT.complete(fields, "")
        segment_id = segment["segmentId"]
        _require(segment_id, "segmentId")
        for index, user in enumerate(segment["users"]):
            _require(user["userId"], f"users[{index}].userId")
            user["segmentId"] = user["segmentId"] or segment_id
            user["id"] = user["id"] or f"{user['segmentId']}:{user['userId']}:{user['state']}"
    return segment


def complete_experiment(fields: Mapping[str, Any]) -> Definition:
    """Return the definition of an experiment with all fields; a ``stopAt`` of 0 means that it has no end.

    Raises:
        ConfigurationError: If the definition is invalid; the message names the experiment and the field.
    """
    with _error_context("experiment", fields, "id"):
        experiment: Definition = _EXPERIMENT.complete(fields, "")
        for name in ("id", "featureId", "featureVersion", "goalIds"):
            _require(experiment[name], name)
        for index, goal_id in enumerate(experiment["goalIds"]):
            _require(goal_id, f"goalIds[{index}]")
            if goal_id in experiment["goalIds"][:index]:
                raise ConfigurationError(f"goalIds[{index}] {goal_id!r} is a duplicate")
        if int(experiment["stopAt"]) and int(experiment["stopAt"]) <= int(experiment["startAt"]):
            raise ConfigurationError(
                f"stopAt must be later than startAt, {experiment['startAt']}, not {experiment['stopAt']}"
            )
    return experiment


def complete_all(
    definitions: Any, where: str, complete: Callable[[Mapping[str, Any]], Definition], key: str
) -> dict[str, Definition]:
    """Return completed definitions by id.

    Args:
        definitions: A list of definitions.
        where: Name of the list in error messages.
        complete: `complete_flag`, `complete_segment` or `complete_experiment`.
        key: Name of the field with the id.

    Raises:
        ConfigurationError: If ``definitions`` is not a list, a definition is invalid, or two have the same id.
    """
    if not isinstance(definitions, list | tuple):
        raise ConfigurationError(f"{where} must be a list, not {type(definitions).__name__}")
    completed: dict[str, Definition] = {}
    for index, fields in enumerate(definitions):
        with _error_context(f"{where}[{index}]"):
            definition = complete(fields)
            if definition[key] in completed:
                raise ConfigurationError(f"{key} {definition[key]!r} is a duplicate")
            completed[definition[key]] = definition
    return completed


@contextmanager
def _error_context(what: str, fields: Any = None, key: str = "") -> Iterator[None]:
    """Add the name of the definition to the message of a `ConfigurationError`."""
    try:
        yield
    except ConfigurationError as error:
        name = fields.get(key) if isinstance(fields, Mapping) else None
        raise ConfigurationError(f"{what} {shown(name)}: {error}" if name else f"{what}: {error}") from None


def _require(value: object, path: str) -> None:
    if not value:
        raise ConfigurationError(f"{path} is missing")


def _check_variations(flag: Definition) -> None:
    _require(flag["variations"], "variations")
    known: set[str] = set()
    for index, variation in enumerate(flag["variations"]):
        _require(variation["id"], f"variations[{index}].id")
        if variation["id"] in known:
            raise ConfigurationError(f"variations[{index}].id {variation['id']!r} is a duplicate")
        known.add(variation["id"])
    for path, variation_id in _named_variations(flag):
        if variation_id not in known:
            raise ConfigurationError(f"{path} must be one of {', '.join(sorted(known))}, not {variation_id!r}")


def _named_variations(flag: Definition) -> Iterator[tuple[str, str]]:
    """Yield the path and the value of every field that names a variation."""
    if flag["offVariation"]:
        yield "offVariation", flag["offVariation"]
    for index, target in enumerate(flag["targets"]):
        yield f"targets[{index}].variation", target["variation"]
    for path, strategy in _strategies(flag):
        if fixed := strategy["fixedStrategy"]:
            yield f"{path}.fixedStrategy.variation", fixed["variation"]
        if rollout := strategy["rolloutStrategy"]:
            for index, entry in enumerate(rollout["variations"]):
                yield f"{path}.rolloutStrategy.variations[{index}].variation", entry["variation"]
            if rollout["audience"] and (outside := rollout["audience"]["defaultVariation"]):
                yield f"{path}.rolloutStrategy.audience.defaultVariation", outside


def _strategies(flag: Definition) -> Iterator[tuple[str, Definition]]:
    for index, rule in enumerate(flag["rules"]):
        _require(rule["strategy"], f"rules[{index}].strategy")
        yield f"rules[{index}].strategy", rule["strategy"]
    if flag["defaultStrategy"]:
        yield "defaultStrategy", flag["defaultStrategy"]


def _check_strategy(strategy: Definition, path: str) -> None:
    if strategy["type"] == "FIXED":
        _require(strategy["fixedStrategy"], f"{path}.fixedStrategy")
    elif strategy["type"] == "ROLLOUT":
        path = f"{path}.rolloutStrategy"
        rollout = strategy["rolloutStrategy"]
        _require(rollout, path)
        total = sum(entry["weight"] for entry in rollout["variations"])
        if total != _TOTAL_WEIGHT:
            raise ConfigurationError(f"{path}.variations: the weights must add up to {_TOTAL_WEIGHT}, not {total}")
        if rollout["audience"] and rollout["audience"]["percentage"] > 100:
            raise ConfigurationError(
                f"{path}.audience.percentage must be from 0 to 100, not {rollout['audience']['percentage']}"
            )
