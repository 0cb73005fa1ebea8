"""Short forms for definitions of flags and experiments; everything else can be written in the server's JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from bucketeer_async._errors import ConfigurationError

_SWITCH: Final[Mapping[str, object]] = MappingProxyType({"on": True, "off": False})


def flag(
    feature_id: str,
    *,
    variations: Mapping[str, object] = _SWITCH,
    default: str | Mapping[str, float] | None = None,
    off: str | None = None,
    enabled: bool = True,
    tags: Iterable[str] = (),
    targets: Mapping[str, Sequence[str]] = MappingProxyType({}),
    **fields: Any,
) -> dict[str, Any]:
    """Return the definition of a flag, for ``LocalGateway(flags=[...])`` or ``GatewayState.set_flag``.

    Args:
        feature_id: Id of the flag.
        variations: Values by variation id. The type of the flag is boolean, number or string if all values are bool,
            int or float, or str, respectively; otherwise it is JSON. By default, ``"on"`` is True and ``"off"`` False.
        default: Id of the variation that is served by default, or the percentages of a rollout by variation id, 100 in
            total. By default, the first variation.
        off: Id of the variation that is served while the flag is off. By default, the last variation.
        enabled: Whether the flag is on.
        tags: Tags of the flag.
        targets: Lists of user ids, by the id of the variation that these users are served.
        fields: Other fields of ``bucketeer.feature.Feature``, by their JSON names: ``rules``, ``prerequisites``, ...
    """
    kind = _kind(variations.values())
    ids = list(variations)
    return {
        "id": feature_id,
        "name": feature_id,
        "enabled": enabled,
        "tags": list(tags),
        "variationType": kind,
        "variations": [{"id": key, "name": key, "value": _text(value, kind)} for key, value in variations.items()],
        "targets": [{"variation": variation, "users": list(users)} for variation, users in targets.items()],
        "defaultStrategy": _strategy(ids[0] if default is None else default),
        "offVariation": ids[-1] if off is None else off,
    } | fields


def experiment(
    experiment_id: str,
    *,
    feature_id: str,
    goal_ids: Iterable[str],
    feature_version: int = 1,
    start: datetime | int = 0,
    stop: datetime | int | None = None,
) -> dict[str, Any]:
    """Return the definition of an experiment, for ``LocalGateway(experiments=[...])`` or ``set_experiment``.

    Args:
        experiment_id: Id of the experiment.
        feature_id: Id of the flag whose variations are compared.
        goal_ids: Ids of the goals that are counted.
        feature_version: Version of the flag; evaluations of other versions do not belong to the experiment. A new flag
            has version 1.
        start: Time of the first evaluation and goal that belong to the experiment: a datetime with a time zone, or Unix
            seconds.
        stop: Time of the last ones, as ``start``; None for no end.

    Raises:
        ConfigurationError: If a datetime has no time zone.
    """
    return {
        "id": experiment_id,
        "featureId": feature_id,
        "featureVersion": feature_version,
        "goalIds": list(goal_ids),
        "startAt": _seconds("start", start),
        "stopAt": None if stop is None else _seconds("stop", stop),
    }


def _seconds(name: str, time: datetime | int) -> int:
    if not isinstance(time, datetime):
        return time
    if time.tzinfo is None:
        raise ConfigurationError(f"{name} must have a time zone: {time.isoformat()} has none")
    return int(time.timestamp())


def _kind(values: Iterable[object]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds <= {int, float}:
        return "NUMBER"
    return "STRING" if kinds == {str} else "JSON"


def _text(value: object, kind: str) -> str:
    return str(value) if kind == "STRING" else json.dumps(value, ensure_ascii=False)


def _strategy(default: str | Mapping[str, float]) -> dict[str, Any]:
    if isinstance(default, str):
        return {"type": "FIXED", "fixedStrategy": {"variation": default}}
    shares = [{"variation": key, "weight": round(percentage * 1000)} for key, percentage in default.items()]
    return {"type": "ROLLOUT", "rolloutStrategy": {"variations": shares}}
