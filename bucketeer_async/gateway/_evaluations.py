"""The endpoints of client SDKs: evaluations of one flag, or of all flags of a tag, in the server's JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from bucketeer_async._evaluation import EvaluationError, Flag, Served, Snapshot
from bucketeer_async.gateway._environment import MEMORY, Environment, Stored
from bucketeer_async.gateway._ids import user_evaluations_id
from bucketeer_async.gateway._polls import GRACE, JsonObject
from bucketeer_async.gateway._validation import RefusedRequestError, invalid_argument

_NO_EVALUATIONS: Final = "no_evaluations"


class _User(NamedTuple):
    """The user of a request, which need not be valid as a `bucketeer_async.User`."""

    id: str
    attributes: Mapping[str, str]


def evaluation(environment: Environment, request: Any, now: int) -> JsonObject:
    """Return the response to a decoded ``GetEvaluationRequest`` at ``now``, in Unix seconds.

    Raises:
        RefusedRequestError: If the flag is unknown or archived, does not have the tag, or cannot be evaluated.
    """
    snapshot = environment.snapshot(now)
    flag = snapshot.flags.get(request.feature_id)
    if flag is None or flag.archived:
        raise RefusedRequestError(404, 5, "gateway: feature not found")
    user = _user_of(request)
    served = _serve(snapshot, [flag.id], user)
    if any(snapshot.flags[dependency].archived for dependency in served):
        raise _internal()  # for this endpoint, the server discards all archived flags first
    if request.tag not in flag.tags:
        raise RefusedRequestError(404, 5, "gateway: evaluation not found")
    return {"evaluation": _evaluation_json(served[flag.id], user.id)}


def _user_of(request: Any) -> _User:
    return _User(request.user.id, dict(request.user.data))


def _serve(snapshot: Snapshot, feature_ids: Iterable[str], user: _User) -> dict[str, Served]:
    """Return what flags and their dependencies serve to a user, dependencies first.

    Raises:
        RefusedRequestError: If one of them cannot be evaluated.
    """
    served: dict[str, Served] = {}
    variations: dict[str, str] = {}
    try:
        for feature_id in feature_ids:
            for flag in snapshot.order(feature_id):
                if flag.id not in served:
                    served[flag.id] = flag.serve(user, variations, snapshot.segments)
                    variations[flag.id] = served[flag.id].variation.id
    except EvaluationError:
        raise _internal() from None
    return served


def _internal() -> RefusedRequestError:
    return RefusedRequestError(500, 13, "gateway: internal")


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
    user = _user_of(request)
    current_id = _id(user, (flag for flag in flags if request.tag in flag.compiled.tags))
    if request.user_evaluations_id == current_id:
        return _response(current_id, _NO_EVALUATIONS, now)
    conditional = request.HasField("user_evaluation_condition")
    if not conditional and not request.tag:
        raise invalid_argument("gateway: tag is required")
    wanted = _changed(flags, request, now) if conditional else None
    included = [flag for flag in flags if wanted is None or flag.compiled.id in wanted]
    snapshot = environment.snapshot(now)
    served = _serve(snapshot, (flag.compiled.id for flag in included), user)
    evaluated = [(snapshot.flags[feature_id], each) for feature_id, each in served.items()]
    return _response(
        current_id,
        _id(user, included),
        now,
        [_evaluation_json(each, user.id) for flag, each in evaluated if _is_reported(flag, request.tag)],
        [flag.id for flag, _ in evaluated if flag.archived],
        force_update=conditional and wanted is None,
    )


def _id(user: _User, flags: Iterable[Stored[Flag]]) -> str:
    return user_evaluations_id(user.id, user.attributes, {flag.compiled.id: flag.updated_at for flag in flags})


def _is_reported(flag: Flag, tag: str) -> bool:
    return not flag.archived and (not tag or tag in flag.tags)


def _changed(flags: Iterable[Stored[Flag]], request: Any, now: int) -> set[str] | None:
    """Return the ids of the changed flags and of all connected flags; None if the response must contain all flags."""
    condition = request.user_evaluation_condition
    if not request.user_evaluations_id or condition.evaluated_at < now - MEMORY:
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
