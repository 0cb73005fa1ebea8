"""Rules: conditions that must all hold. A rule without any holds for everybody."""

from __future__ import annotations

from collections.abc import Sequence

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import ClauseContext, Condition, compile_clause
from bucketeer_async._evaluation._fields import Fields


def compile_conditions(rule: Fields) -> Condition:
    """Return whether all clauses of a rule hold.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    conditions = [compile_clause(clause) for clause in _fields.messages(rule, "clauses")]
    return conditions[0] if len(conditions) == 1 else _all(conditions)


def _all(conditions: Sequence[Condition]) -> Condition:
    def hold(context: ClauseContext) -> bool:
        for condition in conditions:  # noqa: SIM110 - all() over a generator takes twice as long
            if not condition(context):
                return False
        return True

    return hold
