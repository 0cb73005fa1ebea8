"""Explanations of evaluations: records what the evaluator tries.

The evaluator is the same for an evaluation and for its explanation. It takes flags and segments whose conditions and
rollouts, made anew of the same parts, record their outcomes, so that evaluations without an explanation cost nothing.
What an explanation consists of is left to `_explanation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

from bucketeer_async._evaluation._clauses import Clause, ClauseContext, Condition, UserLike
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._evaluate import evaluate
from bucketeer_async._evaluation._explanation import (
    DecisiveStep,
    ExplainedClause,
    ExplainedFlag,
    ExplainedPrerequisite,
    ExplainedRollout,
    ExplainedRule,
    ExplainedSegment,
    Explanation,
)
from bucketeer_async._evaluation._flags import Flag, FlagRule, Served
from bucketeer_async._evaluation._rollout import Buckets, Choice, Strategy
from bucketeer_async._evaluation._rules import Rule, all_of
from bucketeer_async._evaluation._segments import Segment
from bucketeer_async._evaluation._snapshot import Snapshot
from bucketeer_async._models import Reason, ReasonType

_IsMember = Callable[[Sequence[str]], bool]

_STEPS: Final[Mapping[ReasonType, DecisiveStep]] = {
    ReasonType.PREREQUISITE: DecisiveStep.PREREQUISITE,
    ReasonType.OFF_VARIATION: DecisiveStep.OFF,
    ReasonType.TARGET: DecisiveStep.TARGET,
    ReasonType.RULE: DecisiveStep.RULE,
    ReasonType.DEFAULT: DecisiveStep.DEFAULT,
}


def explain(snapshot: Snapshot, user: UserLike, feature_id: str, tag: str = "") -> Explanation:
    """Return what `evaluate` serves for the same arguments, and why. A failure is explained, too, and not raised.

    Args:
        snapshot: All flags and segments.
        user: The user.
        feature_id: Id of the flag.
        tag: A tag that the flag must have; "" accepts every flag.
    """
    trace = _Trace(snapshot)
    try:
        evaluation = evaluate(trace, user, feature_id, tag).evaluation(user.id)
    except EvaluationError as error:
        return Explanation(
            feature_id=feature_id,
            user_id=user.id,
            tag=tag,
            reason=Reason(error.reason),
            decided_by=_failed_step(error, feature_id, trace),
            error=str(error),
            flags=tuple(trace.explained),
        )
    return Explanation(
        feature_id=feature_id,
        user_id=user.id,
        tag=tag,
        reason=evaluation.reason,
        decided_by=_STEPS[evaluation.reason.type],
        feature_version=evaluation.feature_version,
        variation_id=evaluation.variation_id,
        variation_name=evaluation.variation_name,
        variation_value=evaluation.variation_value,
        flags=tuple(trace.explained),
    )


class _Trace(Snapshot):
    """A snapshot for one evaluation, whose flags record what they try.

    Args:
        snapshot: The snapshot with the same flags and segments.

    Attributes:
        explained: The flags that were evaluated so far.
    """

    __slots__ = ("_snapshot", "explained")

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot.flags, snapshot.segments)
        self._snapshot = snapshot
        self.explained: list[ExplainedFlag] = []

    def order(self, feature_id: str) -> Sequence[Flag]:
        return [_TracedFlag(flag, self.explained) for flag in self._snapshot.order(feature_id)]


def _failed_step(error: EvaluationError, feature_id: str, trace: _Trace) -> DecisiveStep:
    """Return the step of the evaluation that failed; of the requested flag, if it is not a step of a dependency."""
    if error.cause is EvaluationCause.FLAG_NOT_FOUND:
        return DecisiveStep.UNKNOWN
    if error.cause is EvaluationCause.EVALUATION_NOT_FOUND:
        return DecisiveStep.ARCHIVED if trace.flags[feature_id].archived else DecisiveStep.TAG
    if not trace.explained:
        malformed = error.cause is EvaluationCause.MALFORMED and error.feature_id == feature_id
        return DecisiveStep.DEFINITION if malformed else DecisiveStep.DEPENDENCY
    last = trace.explained[-1]
    if last.feature_id != feature_id:
        return DecisiveStep.DEPENDENCY
    return last.decided_by if last.error else DecisiveStep.DEFINITION


class _TracedFlag(Flag):
    """A flag that records what it tries; it decides by the code of every flag, and is evaluated once.

    Args:
        flag: The flag with the same definition.
        explained: Where the evaluation is appended.
    """

    def __init__(self, flag: Flag, explained: list[ExplainedFlag]) -> None:
        super().__init__(**{each.name: getattr(flag, each.name) for each in fields(flag) if each.init})
        self._explained = explained
        self._compared: list[ExplainedPrerequisite] = []
        self._tried: list[ExplainedRule] = []
        self._rollout: ExplainedRollout | None = None

    def serve(
        self, user: UserLike, dependency_variations: Mapping[str, str], all_segments: Mapping[str, Segment]
    ) -> Served:
        segments = _TracedSegments({each: all_segments[each] for each in self.segments if each in all_segments})
        self.prerequisites = self._traced_prerequisites(self.prerequisites, dependency_variations)
        self.rules = [
            FlagRule(
                _traced_rule(rule, number, rule_id, self._tried, segments), self._traced_choice(strategy), each.served
            )
            for number, (each, (rule_id, rule, strategy)) in enumerate(
                zip(self.rules, self.parts.rules, strict=True), 1
            )
        ]
        if self.parts.default is not None:
            self.default = self._traced_choice(self.parts.default)
        try:
            served = super().serve(user, dependency_variations, segments.by_id)
        except EvaluationError as error:
            self._record(self._step_that_failed(user.id), error=str(error))
            raise
        self._record(_STEPS[served.reason.type], variation_id=served.variation.id)
        return served

    def _traced_prerequisites(
        self, prerequisites: Iterable[tuple[str, str]], dependency_variations: Mapping[str, str]
    ) -> Iterator[tuple[str, str]]:
        for feature_id, variation_id in prerequisites:
            compared = ExplainedPrerequisite(
                feature_id=feature_id,
                variation_id=variation_id,
                served_variation_id=dependency_variations[feature_id],
                is_met=False,
            )
            self._compared.append(compared)
            yield feature_id, variation_id
            self._compared[-1] = replace(compared, is_met=True)  # the evaluation has gone on

    def _traced_choice(self, strategy: Strategy) -> Choice:
        rollout = strategy.rollout
        if rollout is None:
            return strategy.choose

        def choose(user_id: str) -> str:
            buckets = _RecordedBuckets(rollout.buckets)
            try:
                return rollout.choice(buckets)(user_id)
            finally:
                self._rollout = ExplainedRollout(
                    shares=tuple((variation_id, bound) for bound, variation_id in rollout.bounds),
                    bucket=buckets.variation,
                    audience=rollout.audience,
                    audience_bucket=buckets.audience,
                    outside_variation_id=rollout.outside,
                )

        return choose

    def _step_that_failed(self, user_id: str) -> DecisiveStep:
        """Return the step that has raised the error."""
        if self._compared and not self._compared[-1].is_met:
            return DecisiveStep.PREREQUISITE
        if self.off_variation and not self.enabled:
            return DecisiveStep.OFF
        if user_id in self.targets:
            return DecisiveStep.TARGET
        return DecisiveStep.RULE if self._tried and self._tried[-1].matches else DecisiveStep.DEFAULT

    def _record(self, decided_by: DecisiveStep, *, variation_id: str = "", error: str = "") -> None:
        self._explained.append(
            ExplainedFlag(
                feature_id=self.id,
                feature_version=self.version,
                is_enabled=self.enabled,
                off_variation_id=self.off_variation,
                prerequisites=tuple(self._compared),
                rules=tuple(self._tried),
                rollout=self._rollout,
                decided_by=decided_by,
                variation_id=variation_id,
                error=error,
            )
        )


class _RecordedBuckets:
    """The buckets of one user.

    Args:
        buckets: The buckets of all users.

    Attributes:
        variation: The bucket that was compared with the weights of the variations; None if none was.
        audience: The bucket that was compared with the percentage of the audience; None if none was.
    """

    def __init__(self, buckets: Buckets) -> None:
        self.feature_id = buckets.feature_id
        self.variation: float | None = None
        self.audience: float | None = None
        self._buckets = buckets

    def variation_bucket(self, user_id: str) -> float:
        self.variation = self._buckets.variation_bucket(user_id)
        return self.variation

    def audience_bucket(self, user_id: str) -> float:
        self.audience = self._buckets.audience_bucket(user_id)
        return self.audience


class _TracedSegments:
    """The segments that the rules of a flag name, whose rules record what they try.

    Args:
        segments: The segments, by id.

    Attributes:
        by_id: The segments that record, by id.
    """

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self._tried: list[ExplainedRule] = []  # rules of the segment that is looked at
        self.by_id = {key: replace(each, rules=self._traced_rules(each.rules)) for key, each in segments.items()}

    def _traced_rules(self, rules: Sequence[Rule]) -> list[Rule]:
        return [
            rule._replace(matches=_traced_rule(rule, number, "", self._tried)) for number, rule in enumerate(rules, 1)
        ]

    def traced(self, is_member: _IsMember, looked_at: list[ExplainedSegment]) -> _IsMember:
        """Return ``is_member`` so that it records each segment that it looks at."""

        def is_in(segment_id: str) -> bool:
            self._tried.clear()
            found = is_member([segment_id])
            looked_at.append(
                ExplainedSegment(
                    segment_id=segment_id,
                    is_known=segment_id in self.by_id,
                    is_member=found,
                    rules=tuple(self._tried),
                )
            )
            return found

        return lambda segment_ids: any(map(is_in, segment_ids))


def _traced_rule(
    rule: Rule, number: int, rule_id: str, tried: list[ExplainedRule], segments: _TracedSegments | None = None
) -> Condition:
    """Return the condition of a rule so that it appends itself to ``tried``."""

    def matches(context: ClauseContext) -> bool:
        clauses: list[ExplainedClause] = []
        matched = all_of([_traced_clause(each, clauses, segments) for each in rule.clauses])(context)
        tried.append(ExplainedRule(number=number, rule_id=rule_id, matches=matched, clauses=tuple(clauses)))
        return matched

    return matches


def _traced_clause(clause: Clause, tried: list[ExplainedClause], segments: _TracedSegments | None) -> Condition:
    """Return the condition of a clause so that it appends itself to ``tried``."""

    def matches(context: ClauseContext) -> bool:
        looked_at: list[ExplainedSegment] = []
        if segments is not None:
            context = replace(context, is_member=segments.traced(context.is_member, looked_at))
        matched = clause.matches(context)
        tried.append(
            ExplainedClause(
                attribute=clause.attribute,
                operator=clause.operator,
                values=tuple(clause.values),
                actual=clause.subject(context),
                matches=matched,
                segments=tuple(looked_at),
            )
        )
        return matched

    return matches
