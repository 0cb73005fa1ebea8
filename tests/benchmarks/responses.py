"""What a sink responds to polls and evaluations, with the flags of ``flags.py``, or with a large environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bucketeer_async.gateway import GatewayState, flag
from tests.benchmarks.flags import ON_SHARE, PAGE, REMOTE, RULES, TARGETED

_REMOTE_RESPONSE: Final = {
    "evaluation": {
        "id": "1",
        "featureId": REMOTE,
        "featureVersion": 12,
        "variationId": "8d0c2a5e-3f3b-4a7b-9b6e-0f9d5c1a2b3c",
        "variationName": "on",
        "variationValue": "true",
        "reason": {"type": "DEFAULT"},
    }
}
_SEGMENTS: Final = 2


def small() -> list[dict[str, Any]]:
    """Return the flags of ``flags.py``."""
    rules = [
        {
            "id": f"rule-{number}",
            "clauses": [
                {"id": f"clause-{clause}", "attribute": f"attribute-{clause}", "operator": "EQUALS", "values": values}
                for clause, values in enumerate(clauses)
            ],
            "strategy": _fixed("on"),
        }
        for number, clauses in enumerate(RULES)
    ]
    chain = [
        flag(
            f"chain-{depth}", prerequisites=[{"featureId": f"chain-{depth - 1}", "variationId": "on"}] if depth else []
        )
        for depth in range(6)
    ]
    return [
        flag("fixed"),
        flag("targeting", default="off", targets={"on": TARGETED}),
        flag("rules", default="off", rules=rules),
        flag("rollout", default={"on": ON_SHARE, "off": 100 - ON_SHARE}),
        *chain,
        *map(flag, PAGE),
    ]


def _fixed(variation: str) -> dict[str, Any]:
    return {"type": "FIXED", "fixedStrategy": {"variation": variation}}


def large(flags: int, members: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return so many flags, and segments of so many users each."""
    return [_flag_with_segment(number) for number in range(flags)], [
        {"segmentId": f"segment-{number}", "users": [f"user-{number}-{member:06d}" for member in range(members)]}
        for number in range(_SEGMENTS)
    ]


def _flag_with_segment(number: int) -> dict[str, Any]:
    rule = {
        "id": "rule",
        "clauses": [{"operator": "SEGMENT", "values": [f"segment-{number % _SEGMENTS}"]}],
        "strategy": _fixed("on"),
    }
    return flag(f"flag-{number}", default={"on": 10, "off": 90}, targets={"off": TARGETED[:10]}, rules=[rule])


def canned(folder: Path, flags: Sequence[dict[str, Any]] = (), segments: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Write responses to polls and evaluations; return the options that have a sink send them."""
    environment = GatewayState(flags=flags, segments=segments).environment
    bodies = {
        "/get_evaluation": _REMOTE_RESPONSE,
        "/get_feature_flags": {
            "featureFlagsId": "1",
            "features": [stored.fields for stored in environment.flags.values()],
            "archivedFeatureFlagIds": [],
            "requestedAt": "1",
            "forceUpdate": True,
        },
        "/get_segment_users": {
            "segmentUsers": [stored.fields for stored in environment.segments.values()],
            "deletedSegmentIds": [],
            "requestedAt": "1",
            "forceUpdate": True,
        },
    }
    options = []
    for path, body in bodies.items():
        file = folder / path.strip("/")
        file.write_text(json.dumps(body))
        options += ["--canned", path, str(file)]
    return options
