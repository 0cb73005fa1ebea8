"""The flags that are evaluated, and their definitions for LaunchDarkly; ``responses.py`` has those for Bucketeer."""

from __future__ import annotations

from typing import Any, Final

#: The kinds of flags that are evaluated, by flag.
KINDS: Final = {
    "fixed": "fixed variation",
    "rollout": "percentage rollout",
    "targeting": "one of 10 000 targeted users",
    "rules": "10 rules of 5 clauses, the last rule matches",
    "chain-5": "chain of 5 prerequisites",
}
#: The flags that a page needs.
PAGE: Final = tuple(f"page-{number:02d}" for number in range(50))
#: The flag that the gateway evaluates.
REMOTE: Final = "new-checkout"
TARGETED: Final = [f"user-{number:06d}" for number in range(10_000)]
RULES: Final = [[[f"common-{clause}"] for clause in range(4)] + [[f"only-{rule}"]] for rule in range(10)]
#: What the last rule asks of users.
RULE_ATTRIBUTES: Final = {f"attribute-{clause}": value for clause, (value,) in enumerate(RULES[-1])}
ON_SHARE: Final = 20  # percent


def launchdarkly() -> list[dict[str, Any]]:
    """Return the same definitions for LaunchDarkly; each evaluation makes an event."""
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
