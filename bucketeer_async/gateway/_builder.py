"""Writes the definition of a flag in one line; what it cannot say is said in the server's JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

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
        feature_id: Its id.
        variations: Values by variation id: all bool, all numbers, all text, or else JSON.
        default: The variation that is served; or the percentage of users by variation, 100 in all. By default the
            first variation.
        off: The variation that is served while the flag is off; by default the last one.
        enabled: Whether it is on.
        tags: Its tags.
        targets: Users by the variation that they are served whatever the default is.
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
