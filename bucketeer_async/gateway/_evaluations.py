"""The endpoints of client SDKs: evaluations of one flag, or of all flags of a tag, in the server's JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from bucketeer_async._evaluation import EvaluationCause, EvaluationError, Flag, Served, evaluate
from bucketeer_async.gateway._environment import Environment, Stored
from bucketeer_async.gateway._ids import user_evaluations_id
from bucketeer_async.gateway._polls import GRACE, JsonObject, is_too_old
from bucketeer_async.gateway._validation import RefusedRequestError, invalid_argument

_NO_EVALUATIONS: Final = "no_evaluations"


class _User(NamedTuple):
    """The user of a request, which need not be valid as a `bucketeer_async.User`."""

    id: str
    attributes: Mapping[str, str]


def evaluation(environment: Environment, request: Any, now: int) -> JsonObject:
    """Return the response to a decoded ``GetEvaluationRequest`` at ``now``, in Unix seconds.

    Raises:
        RefusedRequestError: If the flag is unknown or archived, or cannot be evaluated.
    """
    snapshot = environment.snapshot(now)
    flag = snapshot.flags.get(request.feature_id)
    if flag is None or flag.archived:
        raise RefusedRequestError(404, 5, "gateway: feature not found")
    user = _User(request.user.id, dict(request.user.data))
    return {"evaluation": _evaluation_json(_evaluate(environment, user, flag.id, request.tag, now), user.id)}


def _evaluate(environment: Environment, user: _User, feature_id: str, tag: str, now: int) -> Served:
    try:
        return evaluate(environment.snapshot(now), user, feature_id, tag)
    except EvaluationError as error:
        if error.cause is EvaluationCause.EVALUATION_NOT_FOUND:
            raise RefusedRequestError(404, 5, "gateway: evaluation not found") from None
        raise RefusedRequestError(500, 13, "gateway: internal") from None


def _evaluation_json(served: Served, user_id: str) -> JsonObject:
    variation = served.variation
    return {
        "id": f"{served.feature_id}:{served.feature_version}:{user_id}",
        "featureId": served.feature_id,
        "featureVersion": served.feature_version,
        "userId": user_id,
        "variationId": variation.id,
        "variation": {"id": variation.id, "value": variation.value, "name": variation.name, "description": ""},
        "reason": {"type": served.reason.type.name, "ruleId": served.reason.rule_id},
        "variationValue": variation.value,
        "variationName": variation.name,
    }


def evaluations(environment: Environment, request: Any, now: int) -> JsonObject:
    """Return the response to a decoded ``GetEvaluationsRequest`` at ``now``, in Unix seconds.

    Raises:
        RefusedRequestError: If the request has neither a tag nor a condition, or a flag cannot be evaluated.
    """
    flags = environment.loaded(now)
    if not flags:
        return _response(_NO_EVALUATIONS, _NO_EVALUATIONS, now)
    conditional = request.HasField("user_evaluation_condition")
    if not conditional and not request.tag:
        raise invalid_argument("gateway: tag is required")
    user = _User(request.user.id, dict(request.user.data))
    tagged = {flag.compiled.id: flag.updated_at for flag in flags if _has_tag(flag, request.tag)}
    current_id = user_evaluations_id(user.id, user.attributes, tagged)
    if request.user_evaluations_id == current_id:
        return _response(current_id, _NO_EVALUATIONS, now)
    wanted = _changed(flags, request, now) if conditional else None
    included = [flag for flag in flags if wanted is None or flag.compiled.id in wanted]
    found = [
        _evaluation_json(_evaluate(environment, user, flag.compiled.id, request.tag, now), user.id)
        for flag in included
        if not flag.compiled.archived and _has_tag(flag, request.tag)
    ]
    archived = [flag.compiled.id for flag in included if flag.compiled.archived]
    force_update = conditional and wanted is None
    return _response(current_id, current_id, now, found, [] if force_update else archived, force_update=force_update)


def _has_tag(flag: Stored[Flag], tag: str) -> bool:
    return not tag or tag in flag.compiled.tags


def _changed(flags: Iterable[Stored[Flag]], request: Any, now: int) -> set[str] | None:
    """Return the ids of the changed flags and of all connected flags; None if the response must contain all flags."""
    condition = request.user_evaluation_condition
    if not request.user_evaluations_id or is_too_old(condition.evaluated_at, now):
        return None
    changed = {
        flag.compiled.id
        for flag in flags
        if flag.updated_at > condition.evaluated_at - GRACE
        or (condition.user_attributes_updated and flag.compiled.rules)
    }
    if not changed:
        return None
    needs: dict[str, list[str]] = {flag.compiled.id: list(flag.compiled.dependencies) for flag in flags}
    needed_by: dict[str, list[str]] = {}
    for feature_id, dependencies in needs.items():
        for dependency in dependencies:
            needed_by.setdefault(dependency, []).append(feature_id)
    return _reachable(_reachable(changed, needed_by), needs)


def _reachable(start: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += edges.get(node, ())
    return found


def _response(
    current_id: str,
    evaluations_id: str,
    now: int,
    found: list[JsonObject] | None = None,
    archived: list[str] | None = None,
    *,
    force_update: bool = False,
) -> JsonObject:
    return {
        "state": "FULL",
        "evaluations": {
            "id": evaluations_id,
            "evaluations": found or [],
            "createdAt": str(now),
            "archivedFeatureIds": archived or [],
            "forceUpdate": force_update,
        },
        "userEvaluationsId": current_id,
    }
