"""Rules: lists of clauses that must all match. A rule without clauses matches every user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import Clause, ClauseContext, Condition, compile_clause
from bucketeer_async._evaluation._fields import Fields


class Rule(NamedTuple):
    """A compiled rule, of a flag or of a segment.

    Attributes:
        matches: The condition: all clauses match.
        clauses: The clauses, in order.
    """

    matches: Condition
    clauses: Sequence[Clause]


def compile_rule(rule: Fields) -> Rule:
    """Compile the clauses of a rule.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    clauses = [compile_clause(clause) for clause in _fields.messages(rule, "clauses")]
    return Rule(all_of([clause.matches for clause in clauses]), clauses)


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Return a condition that is true if all conditions are; they are tried in order, up to the first that is false."""
    return conditions[0] if len(conditions) == 1 else _all(conditions)


def _all(conditions: Sequence[Condition]) -> Condition:
    def match_all(context: ClauseContext) -> bool:
        for condition in conditions:  # noqa: SIM110 - all() over a generator takes twice as long
            if not condition(context):
                return False
        return True

    return match_all
