"""Compiled flags: a flag's definition is parsed once and evaluated many times.

A flag decides in this order: prerequisites and the off variation, targets, rules, the default strategy. Whether a rule
matches is left to `_rules.py`, the choice of a strategy to `_rollout.py`, and the evaluation of dependencies to
`_evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._evaluation import _fields, _yaml
from bucketeer_async._evaluation._clauses import OPERATORS, ClauseContext, Condition, UserLike
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError, MalformedError
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._rollout import Choice, Strategy, UserBuckets, compile_strategy
from bucketeer_async._evaluation._rules import Rule, compile_rule
from bucketeer_async._evaluation._segments import Membership, Segment, in_no_segment
from bucketeer_async._models import Evaluation, Reason, ReasonType, evaluation_of

_TARGET: Final = Reason(ReasonType.TARGET)
_DEFAULT: Final = Reason(ReasonType.DEFAULT)
_OFF: Final = Reason(ReasonType.OFF_VARIATION)
_PREREQUISITE: Final = Reason(ReasonType.PREREQUISITE)


class Variation(NamedTuple):
    """One of the possible values of a flag.

    Attributes:
        id: Id of the variation.
        name: Name of the variation.
        value: The value as text; the value of a YAML flag is converted to JSON.
        is_yaml: Whether the value is still YAML, because the extra ``yaml`` is not installed.
    """

    id: str
    name: str
    value: str
    is_yaml: bool = False


@dataclass(slots=True)
class Served:
    """A variation that a flag serves, with the reason; without a user, so that many users share an instance.

    Attributes:
        feature_id: Id of the flag.
        feature_version: Version of the flag.
        variation: The variation.
        reason: Why the variation was chosen.
    """

    feature_id: str
    feature_version: int
    variation: Variation
    reason: Reason
    _prototype: Evaluation | None = field(default=None, init=False, repr=False, compare=False)

    def evaluation(self, user_id: str) -> Evaluation:
        """Return the evaluation of a user; the fields that all users share are checked once.

        Raises:
            EvaluationError: If the value is still YAML, or if an event cannot report the evaluation, for example
                because the variation id is empty.
        """
        return evaluation_of(self.of_all(), user_id)

    def of_all(self) -> Evaluation:
        """Return the evaluation that all users share, with the user id "".

        Raises:
            EvaluationError: As in `evaluation`.
        """
        if self._prototype is None:
            self._prototype = self._new_prototype()
        return self._prototype

    def _new_prototype(self) -> Evaluation:
        if self.variation.is_yaml:
            reason = f"the values are YAML: {_yaml.INSTALL}"
            raise EvaluationError(EvaluationCause.YAML_NOT_INSTALLED, self.feature_id, reason)
        try:
            return Evaluation(
                feature_id=self.feature_id,
                variation_id=self.variation.id,
                reason=self.reason,
                feature_version=self.feature_version,
                variation_name=self.variation.name,
                variation_value=self.variation.value,
            )
        except (TypeError, ValueError) as error:
            raise EvaluationError(EvaluationCause.MALFORMED, self.feature_id, str(error)) from None


class _ServedByVariation(dict[str, Served]):
    """What a flag serves for one reason, by variation id; each value is created on first use."""

    def __init__(self, flag: Flag, reason: Reason) -> None:
        super().__init__()
        self._flag = flag
        self._reason = reason

    def __missing__(self, variation_id: str) -> Served:
        variation = self._flag.variations.get(variation_id)
        if variation is None:
            raise EvaluationError(EvaluationCause.VARIATION_NOT_FOUND, self._flag.id, repr(variation_id))
        served = self[variation_id] = Served(self._flag.id, self._flag.version, variation, self._reason)
        return served


class FlagRule(NamedTuple):
    """A compiled rule of a flag.

    Attributes:
        matches: Returns whether the rule applies to a user.
        choose: Chooses a variation for a user.
        served: What the rule serves, by variation id.
    """

    matches: Condition
    choose: Choice
    served: _ServedByVariation


class FlagParts(NamedTuple):
    """What the functions of a flag are made of; an explanation makes them anew, so that they record what they do.

    Attributes:
        rules: The id, the clauses and the strategy of each rule, in order.
        default: The default strategy; None if the definition has none.
    """

    rules: Sequence[tuple[str, Rule, Strategy]] = ()
    default: Strategy | None = None


@dataclass(slots=True, kw_only=True)
class Flag:
    """A compiled flag; not changed once `compile_flag` has returned it.

    Attributes:
        id: Id of the flag.
        version: Version of the flag.
        enabled: Whether the flag is on.
        archived: Whether the flag is archived; an archived flag is evaluated only as a dependency of other flags.
        tags: Tags of the flag.
        variations: The variations by id; of variations with the same id, the first.
        off_variation: Id of the variation that is served while the flag is off; "" for none.
        prerequisites: Pairs of a flag's id and the id of the variation that the flag must serve.
        targets: Ids of the variations that listed users are served, by user id.
        dependencies: Ids of the flags that must be evaluated before this one, in order, with duplicates.
        segments: Ids of the segments that the rules name.
        rules: The rules, in order.
        default: Chooses a variation if no target and no rule does; None if the definition has no default strategy.
        parts: What `rules` and `default` are made of.
    """

    id: str
    version: int
    enabled: bool
    archived: bool
    tags: frozenset[str]
    variations: Mapping[str, Variation]
    off_variation: str
    prerequisites: Iterable[tuple[str, str]]
    targets: Mapping[str, str] = field(repr=False)
    dependencies: Sequence[str] = ()
    segments: Sequence[str] = ()
    rules: Sequence[FlagRule] = ()
    default: Choice | None = None
    parts: FlagParts = field(default=FlagParts(), repr=False)
    _may_be_off: bool = field(init=False, repr=False)
    _by_target: _ServedByVariation = field(init=False, repr=False)
    _by_default: _ServedByVariation = field(init=False, repr=False)
    _by_prerequisite: _ServedByVariation = field(init=False, repr=False)
    _while_off: _ServedByVariation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._may_be_off = bool(self.off_variation) and (not self.enabled or bool(self.prerequisites))
        self._by_target = _ServedByVariation(self, _TARGET)
        self._by_default = _ServedByVariation(self, _DEFAULT)
        self._by_prerequisite = _ServedByVariation(self, _PREREQUISITE)
        self._while_off = _ServedByVariation(self, _OFF)

    def serve(
        self, user: UserLike, dependency_variations: Mapping[str, str], all_segments: Mapping[str, Segment]
    ) -> Served:
        """Return the variation that the flag serves to a user.

        Args:
            user: The user.
            dependency_variations: Ids of the variations that the `dependencies` serve to the user, by flag id.
            all_segments: All known segments, by id.

        Raises:
            EvaluationError: If the flag serves no variation.
        """
        user_id = user.id
        if self._may_be_off and (off := self._off(dependency_variations)) is not None:
            return off
        target = self.targets.get(user_id)
        if target is not None:
            return self._by_target[target]
        if self.rules:
            context = self._clause_context(user, dependency_variations, all_segments)
            for matches, choose, served in self.rules:
                if matches(context):
                    return served[choose(user_id)]
        if self.default is None:
            raise EvaluationError(EvaluationCause.DEFAULT_STRATEGY_NOT_FOUND, self.id)
        return self._by_default[self.default(user_id)]

    def _off(self, dependency_variations: Mapping[str, str]) -> Served | None:
        """Return the off variation if a prerequisite is not met or the flag is off, otherwise None."""
        for feature_id, variation_id in self.prerequisites:
            if dependency_variations[feature_id] != variation_id:
                return self._by_prerequisite[self.off_variation]
        return None if self.enabled else self._while_off[self.off_variation]

    def _clause_context(
        self, user: UserLike, dependency_variations: Mapping[str, str], all_segments: Mapping[str, Segment]
    ) -> ClauseContext:
        if not self.segments:
            return ClauseContext(user.id, user.attributes, dependency_variations, in_no_segment)
        membership = Membership(all_segments, self.segments, user.id, user.attributes)
        return ClauseContext(user.id, user.attributes, dependency_variations, membership)


def compile_flag(fields: Fields) -> Flag:
    """Compile the parsed JSON of ``bucketeer.feature.Feature``.

    Raises:
        MalformedError: If a field has the wrong type, or the id is missing.
    """
    feature_id = _fields.text(fields, "id")
    if not feature_id:
        raise MalformedError("id is missing")
    parts = _parts(fields, UserBuckets(feature_id, _fields.text(fields, "samplingSeed")))
    flag = Flag(
        id=feature_id,
        version=_fields.integer(fields, "version"),
        enabled=_fields.boolean(fields, "enabled"),
        archived=_fields.boolean(fields, "archived"),
        tags=frozenset(_fields.texts(fields, "tags")),
        variations=_variations(fields),
        off_variation=_fields.text(fields, "offVariation"),
        prerequisites=_prerequisites(fields),
        targets=_targets(fields),
        dependencies=dependencies(fields),
        segments=segments(fields),
        default=None if parts.default is None else parts.default.choose,
        parts=parts,
    )
    flag.rules = [
        FlagRule(rule.matches, strategy.choose, _ServedByVariation(flag, Reason(ReasonType.RULE, rule_id)))
        for rule_id, rule, strategy in parts.rules
    ]
    return flag


def dependencies(fields: Fields) -> list[str]:
    """Return the ids of the flags that must be evaluated before the flag, in order, with duplicates.

    Args:
        fields: The parsed JSON of the flag.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    required = [feature_id for feature_id, _ in _prerequisites(fields)]
    return required + _named(_fields.messages(fields, "rules"), "FEATURE_FLAG")


def segments(fields: Fields) -> list[str]:
    """Return the ids of the segments that the rules of a flag name.

    Args:
        fields: The parsed JSON of the flag.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    return _named(_fields.messages(fields, "rules"), "SEGMENT")


def lacks_yaml(fields: Fields) -> bool:
    """Return whether the values of a flag are YAML, and the extra ``yaml`` is not installed."""
    return _is_yaml(fields) and not _yaml.is_available()


def _is_yaml(fields: Fields) -> bool:
    return fields.get("variationType") in ("YAML", 4)  # not a set: what is malformed may be unhashable


def _prerequisites(fields: Fields) -> list[tuple[str, str]]:
    return [
        (_fields.text(each, "featureId"), _fields.text(each, "variationId"))
        for each in _fields.messages(fields, "prerequisites")
    ]


def _variations(fields: Fields) -> dict[str, Variation]:
    convert, is_yaml = (_yaml.to_json if _is_yaml(fields) else str), lacks_yaml(fields)
    variations: dict[str, Variation] = {}
    for each in _fields.messages(fields, "variations"):
        variation_id = _fields.text(each, "id")
        if variation_id not in variations:
            value = convert(_fields.text(each, "value"))
            variations[variation_id] = Variation(variation_id, _fields.text(each, "name"), value, is_yaml)
    return variations


def _targets(fields: Fields) -> dict[str, str]:
    targets: dict[str, str] = {}
    for target in _fields.messages(fields, "targets"):
        variation = _fields.text(target, "variation")
        for user_id in _fields.texts(target, "users"):
            targets.setdefault(user_id, variation)  # a user who is listed twice gets the first target
    return targets


def _named(rules: Sequence[Fields], kind: str) -> list[str]:
    """Return the ids of the flags, or of the segments, that the clauses of rules name."""
    named: list[str] = []
    for rule in rules:
        for clause in _fields.messages(rule, "clauses"):
            if _fields.enum_name(clause, "operator", OPERATORS) == kind:
                named += (
                    [_fields.text(clause, "attribute")] if kind == "FEATURE_FLAG" else _fields.texts(clause, "values")
                )
    return named


def _parts(fields: Fields, buckets: UserBuckets) -> FlagParts:
    default = _fields.message(fields, "defaultStrategy")
    rules = [
        (_fields.text(rule, "id"), compile_rule(rule), compile_strategy(_fields.message(rule, "strategy"), buckets))
        for rule in _fields.messages(fields, "rules")
    ]
    return FlagParts(rules, None if default is None else compile_strategy(default, buckets))
