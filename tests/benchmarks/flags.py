"""The flags that are asked for: the same ones for this SDK and for the other, and an environment that is large."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bucketeer_async.gateway import GatewayState, flag

#: What is asked for, by flag.
QUESTIONS: Final = {
    "fixed": "a fixed variation",
    "targeting": "a user who is one of 10 000 targeted users",
    "rules": "10 rules of 5 clauses each, of which the last rule matches",
    "rollout": "a percentage rollout",
    "chain-5": "a chain of 5 prerequisites",
}
TARGETED: Final = [f"user-{number:06d}" for number in range(10_000)]
ASKING: Final = "user-005000"
RULES: Final = [[[f"common-{clause}"] for clause in range(4)] + [[f"only-{rule}"]] for rule in range(10)]
ATTRIBUTES: Final = {f"attribute-{clause}": value for clause, (value,) in enumerate(RULES[-1])}
ON_SHARE: Final = 20  # percent

FLAGS: Final = 5_000
SEGMENTS: Final = 2
MEMBERS: Final = 100_000


def ours() -> list[dict[str, Any]]:
    """Return the definitions for Bucketeer."""
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
    ]


def _fixed(variation: str) -> dict[str, Any]:
    return {"type": "FIXED", "fixedStrategy": {"variation": variation}}


def launchdarkly() -> list[dict[str, Any]]:
    """Return the same definitions for LaunchDarkly; each question makes an event."""
    rules = [
        {
            "id": f"rule-{number}",
            "variation": 0,
            "clauses": [
                {"attribute": f"attribute-{clause}", "op": "in", "values": values, "negate": False}
                for clause, values in enumerate(clauses)
            ],
        }
        for number, clauses in enumerate(RULES)
    ]
    shares = [{"variation": 0, "weight": ON_SHARE * 1000}, {"variation": 1, "weight": (100 - ON_SHARE) * 1000}]
    chain = [
        _launchdarkly(f"chain-{depth}", prerequisites=[{"key": f"chain-{depth - 1}", "variation": 0}] if depth else [])
        for depth in range(6)
    ]
    return [
        _launchdarkly("fixed"),
        _launchdarkly(
            "targeting",
            fallthrough={"variation": 1},
            targets=[{"variation": 0, "values": TARGETED, "contextKind": "user"}],
        ),
        _launchdarkly("rules", fallthrough={"variation": 1}, rules=rules),
        _launchdarkly("rollout", fallthrough={"rollout": {"variations": shares}}),
        *chain,
    ]


def _launchdarkly(key: str, **fields: Any) -> dict[str, Any]:
    return {
        "key": key,
        "version": 1,
        "on": True,
        "variations": [True, False],
        "offVariation": 1,
        "fallthrough": {"variation": 0},
        "prerequisites": [],
        "targets": [],
        "contextTargets": [],
        "rules": [],
        "salt": "salt",
        "trackEvents": True,
    } | fields


def large() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the flags and segments of an environment that is large."""
    return list(_many_flags()), [
        {"segmentId": f"segment-{number}", "users": [f"user-{number}-{member:06d}" for member in range(MEMBERS)]}
        for number in range(SEGMENTS)
    ]


def _many_flags() -> Iterator[dict[str, Any]]:
    for number in range(FLAGS):
        rule = {
            "id": "rule",
            "clauses": [{"operator": "SEGMENT", "values": [f"segment-{number % SEGMENTS}"]}],
            "strategy": _fixed("on"),
        }
        yield flag(f"flag-{number}", default={"on": 10, "off": 90}, targets={"off": TARGETED[:10]}, rules=[rule])


def write_polls(folder: Path, flags: Sequence[dict[str, Any]], segments: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Write what polls for these are answered; return the sink's options that have it answer so."""
    environment = GatewayState(flags=flags, segments=segments).environment
    answers = {
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
    for path, answer in answers.items():
        file = folder / path.strip("/")
        file.write_text(json.dumps(answer))
        options += ["--canned", path, str(file)]
    return options
