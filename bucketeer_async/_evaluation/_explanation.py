"""Explanations: what an evaluation tried, in order, and with which outcome; as values, as text, and as JSON.

Recording an evaluation is left to `_explain.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._models import Reason, ReasonType, shown

_SHOWN_VALUES: Final = 5  # of a clause, in the text


class DecisiveStep(StrEnum):
    """The step of an evaluation that decided what a flag serves, or that failed.

    The steps from ``PREREQUISITE`` to ``DEFAULT`` are tried in this order, up to the first that applies.
    """

    PREREQUISITE = "prerequisite"
    """A prerequisite is not met: the last one in `ExplainedFlag.prerequisites`."""
    OFF = "off"
    """The flag is off."""
    TARGET = "target"
    """The user is in a list of individual targets."""
    RULE = "rule"
    """A rule matches: the last one in `ExplainedFlag.rules`."""
    DEFAULT = "default"
    """None of the steps above applies: the default strategy of the flag."""
    ARCHIVED = "archived"
    """The flag is archived, and is evaluated only as a dependency of other flags."""
    TAG = "tag"
    """The flag does not have the tag."""
    DEPENDENCY = "dependency"
    """A flag that the flag depends on is unknown, is malformed, depends on itself, or could not be evaluated."""
    DEFINITION = "definition"
    """The flag's definition cannot be used."""
    UNKNOWN = "unknown"
    """There is no such flag."""


_STEPS_OF_FLAGS: Final = frozenset(
    {DecisiveStep.PREREQUISITE, DecisiveStep.OFF, DecisiveStep.TARGET, DecisiveStep.RULE, DecisiveStep.DEFAULT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSegment:
    """A segment that a clause looked at.

    Attributes:
        segment_id: Id of the segment.
        is_known: Whether the segment exists; a segment that does not has no members.
        is_member: Whether the user is a member: by a rule if the last one in ``rules`` matches, otherwise by the
            segment's list of users.
        rules: The segment's rules that were tried, in order; none if the list of users has the user.
    """

    segment_id: str
    is_known: bool
    is_member: bool
    rules: tuple[ExplainedRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedClause:
    """A clause that was tried. The repr has neither the values nor what was compared with them.

    Attributes:
        attribute: Name of the user's attribute, "id" for the user's id; with ``FEATURE_FLAG`` the id of a flag.
        operator: Name of the operator, such as ``EQUALS``; a clause with an unknown one never matches.
        values: The values, of which one must match: ids of segments with ``SEGMENT``, ids of variations with
            ``FEATURE_FLAG``.
        actual: What was compared with the values: the user's attribute or id, or with ``FEATURE_FLAG`` the id of the
            variation that the flag serves. None with ``SEGMENT``, and if the user does not have the attribute, which
            counts as the empty string.
        matches: Whether the clause matches.
        segments: With ``SEGMENT``, the segments that were looked at, in order, up to the first with the user.
    """

    attribute: str
    operator: str
    values: tuple[str, ...] = field(repr=False)
    actual: str | None = field(repr=False)
    matches: bool
    segments: tuple[ExplainedSegment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRule:
    """A rule that was tried, of a flag or of a segment.

    Attributes:
        number: Position of the rule, from 1.
        rule_id: Id of the rule; "" for a rule of a segment.
        matches: Whether the rule matches: every clause does.
        clauses: The clauses that were tried, in order, up to the first that does not match.
    """

    number: int
    rule_id: str
    matches: bool
    clauses: tuple[ExplainedClause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRollout:
    """A rollout that was applied. A bucket is a number from 0 to 1 that depends only on the flag and on the user's id.

    Attributes:
        shares: Id of each variation, with the upper bound of its buckets, in order: a user gets the first variation
            whose bound is greater than the user's bucket.
        bucket: The user's bucket; None if the user is outside the audience.
        audience: Share of the users in the audience, from 0 to 1; 1 if there is no audience.
        audience_bucket: The user's bucket for the audience, who is in it if the bucket is less than ``audience``; None
            if there is no audience.
        outside_variation_id: Id of the variation for users outside the audience; "" for none.
    """

    shares: tuple[tuple[str, float], ...]
    bucket: float | None
    audience: float = 1.0
    audience_bucket: float | None = None
    outside_variation_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedPrerequisite:
    """A prerequisite that was compared.

    Attributes:
        feature_id: Id of the flag that has to serve a variation.
        variation_id: Id of the variation that it has to serve.
        served_variation_id: Id of the variation that it serves.
        is_met: Whether the two are the same.
    """

    feature_id: str
    variation_id: str
    served_variation_id: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedFlag:
    """The evaluation of one flag: of the requested flag, or of one that it depends on.

    Attributes:
        feature_id: Id of the flag.
        feature_version: Version of the flag.
        is_enabled: Whether the flag is on.
        off_variation_id: Id of the variation that the flag serves while it is off or a prerequisite is not met; "" for
            none: then neither counts.
        prerequisites: The prerequisites that were compared, in order, up to the first that is not met.
        rules: The rules that were tried, in order, up to the first that matches.
        rollout: The rollout of the rule that matches, or of the default strategy; None if it serves a fixed variation,
            and if another step decided.
        decided_by: The step that decided, or that failed.
        variation_id: Id of the variation that the flag serves; "" if the evaluation failed.
        error: Why the evaluation failed; "" if it did not.
    """

    feature_id: str
    feature_version: int
    is_enabled: bool
    off_variation_id: str
    prerequisites: tuple[ExplainedPrerequisite, ...] = ()
    rules: tuple[ExplainedRule, ...] = ()
    rollout: ExplainedRollout | None = None
    decided_by: DecisiveStep
    variation_id: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a flag serves a variation to a user, or the caller's default.

    ``str()`` returns a text of some indented lines. The text and the dict contain the id of the user, attributes of the
    user, and values of rules, which may be ids of other users; the repr does not.

    Attributes:
        feature_id: Id of the flag, as requested.
        user_id: Id of the user.
        tag: The tag that the flag must have; "" for none.
        reason: Why the variation was chosen; ``reason.type.is_error`` is True if the caller's default is returned.
        decided_by: The step that decided, or that failed.
        feature_version: Version of the flag; 0 if the default is returned.
        variation_id: Id of the variation; "" if the default is returned.
        variation_name: Name of the variation; "" if the default is returned.
        variation_value: Value of the variation, as text; "" if the default is returned.
        error: Why the default is returned; "" if a variation is.
        flags: The flags that were evaluated, in this order: those that the flag depends on, and the flag itself at the
            end. Shorter if one of them failed; empty if a flag is unknown or malformed, or depends on itself.
    """

    feature_id: str
    user_id: str = field(repr=False)
    tag: str = ""
    reason: Reason
    decided_by: DecisiveStep
    feature_version: int = 0
    variation_id: str = ""
    variation_name: str = ""
    variation_value: str = ""
    error: str = ""
    flags: tuple[ExplainedFlag, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as a dict that can be written as JSON: lists for tuples, names for members of enums."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _plain(value: Any) -> Any:
    match value:
        case ReasonType():
            return value.name
        case StrEnum():
            return value.value
        case tuple():
            return [_plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


# The text


def _lines(explanation: Explanation) -> Iterator[str]:
    reason = explanation.reason
    gets = "the caller's default"
    if not explanation.error:
        gets = f"variation {explanation.variation_id!r} = {shown(explanation.variation_value)}"
    rule = f" {reason.rule_id!r}" if reason.rule_id else ""
    yield f"user {shown(explanation.user_id)} gets {gets} of flag {explanation.feature_id!r}: {reason.type.name}{rule}"
    for flag in explanation.flags:
        yield f"  flag {flag.feature_id!r}, version {flag.feature_version}"
        yield from _indented(_flag_lines(flag), 2)
    if explanation.decided_by not in _STEPS_OF_FLAGS:
        yield f"  {_failure(explanation)}"


def _failure(explanation: Explanation) -> str:
    """Return in words what else than a step of the flag has failed."""
    match explanation.decided_by:
        case DecisiveStep.UNKNOWN:
            return f"no such flag{f' with the tag {explanation.tag!r}' if explanation.tag else ''}: the default"
        case DecisiveStep.ARCHIVED:
            return "the flag is archived: the default"
        case DecisiveStep.TAG:
            return f"the flag does not have the tag {explanation.tag!r}: the default"
        case DecisiveStep.DEPENDENCY:
            return f"a dependency failed: the default ({explanation.error})"
    return f"the definition cannot be used: the default ({explanation.error})"


def _flag_lines(flag: ExplainedFlag) -> Iterator[str]:
    if not flag.off_variation_id:
        yield "no off variation: prerequisites, and whether the flag is on, do not count"
    for each in flag.prerequisites:
        served = (
            f"prerequisite {each.feature_id!r} must serve {each.variation_id!r}, serves {each.served_variation_id!r}"
        )
        yield f"{served}: {'met' if each.is_met else 'not met'}"
    if flag.decided_by is not DecisiveStep.PREREQUISITE:
        yield f"the flag is {'on' if flag.is_enabled else 'off'}"
    if flag.decided_by in {DecisiveStep.RULE, DecisiveStep.DEFAULT}:
        yield "the user is not an individual target"
    for rule in flag.rules:
        yield from _rule_lines(rule)
    if flag.rollout is not None:
        yield from _rollout_lines(flag.rollout)
    yield f"failed at {_step(flag)}: {flag.error}" if flag.error else f"decided by {_step(flag)}: {flag.variation_id!r}"


def _step(flag: ExplainedFlag) -> str:
    match flag.decided_by:
        case DecisiveStep.PREREQUISITE:
            return f"prerequisite {flag.prerequisites[-1].feature_id!r}, not met: the off variation"
        case DecisiveStep.OFF:
            return "the off variation"
        case DecisiveStep.TARGET:
            return "the individual targets"
        case DecisiveStep.RULE:
            return f"rule {flag.rules[-1].number}"
    return "the default strategy"


def _rule_lines(rule: ExplainedRule) -> Iterator[str]:
    yield f"rule {rule.number}{f' {rule.rule_id!r}' if rule.rule_id else ''}: {_outcome(rule)}"
    for clause in rule.clauses:
        yield from _indented(_clause_lines(clause))


def _clause_lines(clause: ExplainedClause) -> Iterator[str]:
    yield f"{_subject(clause)}{_name(clause.operator)} {_listed([shown(each) for each in clause.values])}: {_outcome(clause)}"
    for segment in clause.segments:
        yield from _indented(_segment_lines(segment))


def _subject(clause: ExplainedClause) -> str:
    """Return what is compared with the values, and where it is from; "" for membership of segments."""
    if clause.operator == "SEGMENT":
        return ""
    actual = "missing" if clause.actual is None else shown(clause.actual)
    return f"{'flag ' if clause.operator == 'FEATURE_FLAG' else ''}{_name(clause.attribute)} ({actual}) "


def _segment_lines(segment: ExplainedSegment) -> Iterator[str]:
    outcome = "a member" if segment.is_member else "not a member"
    listed = ", in the list of users" if segment.is_member and not segment.rules else ""
    yield f"segment {segment.segment_id!r}{'' if segment.is_known else ' (unknown)'}: {outcome}{listed}"
    for rule in segment.rules:
        yield from _indented(_rule_lines(rule))


def _rollout_lines(rollout: ExplainedRollout) -> Iterator[str]:
    if rollout.audience_bucket is not None:
        place = "inside" if rollout.bucket is not None else f"outside: {rollout.outside_variation_id!r}"
        yield f"audience below {rollout.audience:g}: bucket {rollout.audience_bucket:.6f}, {place}"
    if rollout.bucket is not None:
        shares = ", ".join(f"{variation!r} below {bound:g}" for variation, bound in rollout.shares)
        yield f"rollout: bucket {rollout.bucket:.6f}, {shares}"


def _outcome(tried: ExplainedRule | ExplainedClause) -> str:
    return "matches" if tried.matches else "does not match"


def _name(name: str) -> str:
    """Return a name as it is if it looks like one."""
    return name if name.isidentifier() else shown(name)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN_VALUES} more" if len(texts) > _SHOWN_VALUES else ""
    return (", ".join(texts[:_SHOWN_VALUES]) or "nothing") + more


def _indented(lines: Iterable[str], levels: int = 1) -> Iterator[str]:
    for line in lines:
        yield "  " * levels + line


for _cls in (
    DecisiveStep,
    ExplainedClause,
    ExplainedFlag,
    ExplainedPrerequisite,
    ExplainedRollout,
    ExplainedRule,
    ExplainedSegment,
    Explanation,
):  # as in the root
    _cls.__module__ = "bucketeer_async"
