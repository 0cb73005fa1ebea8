"""Rules: lists of clauses that must all match. A rule without clauses matches every user."""

from __future__ import annotations

from collections.abc import Sequence

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import ClauseContext, Condition, compile_clause
from bucketeer_async._evaluation._fields import Fields


def compile_rule(rule: Fields) -> Condition:
    """Return a condition that is true if all clauses of a rule match.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    conditions = [compile_clause(clause) for clause in _fields.messages(rule, "clauses")]
    return conditions[0] if len(conditions) == 1 else _all(conditions)


def _all(conditions: Sequence[Condition]) -> Condition:
    def match_all(context: ClauseContext) -> bool:
        for condition in conditions:  # noqa: SIM110 - all() over a generator takes twice as long
            if not condition(context):
                return False
        return True

    return match_all
