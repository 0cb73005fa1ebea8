"""Explanations: by the server's test vectors and by random flags, they are those of the evaluations; text and dict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketeer_async import Evaluation, Reason, ReasonType, User
from bucketeer_async._evaluation import (
    EvaluationError,
    Explanation,
    Snapshot,
    compile_flag,
    compile_segment,
    evaluate,
)
from bucketeer_async._evaluation._clauses import OPERATORS, UserLike
from bucketeer_async._evaluation._explain import explain
from bucketeer_async._evaluation._explanation import DecisiveStep, ExplainedFlag, ExplainedRule
from bucketeer_async._evaluation._murmur import Hash
from tests.evaluation.test_evaluate import definition, lazy_snapshot, rule, snapshot
from tests.evaluation.test_vectors import THEMES, load, unchecked_user

USER = User("user-1", {"plan": "pro"})
STEPS = {
    ReasonType.PREREQUISITE: DecisiveStep.PREREQUISITE,
    ReasonType.OFF_VARIATION: DecisiveStep.OFF,
    ReasonType.TARGET: DecisiveStep.TARGET,
    ReasonType.RULE: DecisiveStep.RULE,
    ReasonType.DEFAULT: DecisiveStep.DEFAULT,
}
#: The steps that fail for a cause; the steps of the flag itself, if it is not in the table.
FAILED = {
    "FLAG_NOT_FOUND": {DecisiveStep.UNKNOWN},
    "EVALUATION_NOT_FOUND": {DecisiveStep.ARCHIVED, DecisiveStep.TAG},
    "FEATURE_NOT_FOUND": {DecisiveStep.DEPENDENCY},
    "CYCLE_EXISTS": {DecisiveStep.DEPENDENCY},
    "DEFAULT_STRATEGY_NOT_FOUND": {DecisiveStep.DEFAULT, DecisiveStep.DEPENDENCY},
}


def outcome(flags: Snapshot, user: UserLike, feature_id: str, tag: str) -> Evaluation | EvaluationError:
    try:
        return evaluate(flags, user, feature_id, tag).evaluation(user.id)
    except EvaluationError as error:
        return error


def check(flags: Snapshot, user: UserLike, feature_id: str, tag: str = "") -> Explanation:
    """Return the explanation, which has the answer of the evaluation, and whose steps lead to it."""
    explanation = explain(flags, user, feature_id, tag)
    evaluated = outcome(flags, user, feature_id, tag)
    if isinstance(evaluated, EvaluationError):
        assert explanation.error == str(evaluated)
        assert explanation.reason == Reason(evaluated.reason)
        assert explanation.decided_by in FAILED.get(evaluated.cause.value, {*DecisiveStep})
        assert (explanation.feature_version, explanation.variation_id, explanation.variation_value) == (0, "", "")
    else:
        assert explanation.error == ""
        assert explanation.decided_by is STEPS[evaluated.reason.type]
        assert explanation.variation_id == explanation.flags[-1].variation_id
        for name in ("reason", "feature_version", "variation_id", "variation_name", "variation_value"):
            assert getattr(explanation, name) == getattr(evaluated, name)
        if evaluated.reason.type is ReasonType.RULE:
            assert explanation.flags[-1].rules[-1].rule_id == evaluated.reason.rule_id
    assert (explanation.feature_id, explanation.user_id, explanation.tag) == (feature_id, user.id, tag)
    served: dict[str, str] = {}
    for flag in explanation.flags:
        check_steps(flag, served, last=flag is explanation.flags[-1])
        served[flag.feature_id] = flag.variation_id
    assert json.loads(json.dumps(explanation.to_dict())) == explanation.to_dict()
    assert str(explanation).startswith("user ")
    return explanation


def check_steps(flag: ExplainedFlag, served: Mapping[str, str], *, last: bool) -> None:
    """Check that the steps of a flag end with the decisive one, and that it has the outcome of that step."""
    assert last or not flag.error
    assert bool(flag.error) <= (flag.variation_id == "")
    met = [each.is_met for each in flag.prerequisites]
    assert met == [each.variation_id == served[each.feature_id] for each in flag.prerequisites]
    assert all(met[:-1])
    assert (met[-1:] == [False]) == (flag.decided_by is DecisiveStep.PREREQUISITE)
    assert (flag.decided_by is DecisiveStep.OFF) <= (not flag.is_enabled)
    assert (flag.off_variation_id != "") >= (flag.decided_by in {DecisiveStep.PREREQUISITE, DecisiveStep.OFF})
    check_rules(flag.rules)
    assert any(each.matches for each in flag.rules) == (flag.decided_by is DecisiveStep.RULE)
    if flag.decided_by in {DecisiveStep.PREREQUISITE, DecisiveStep.OFF} and not flag.error:
        assert flag.variation_id == flag.off_variation_id
    if flag.rollout is not None:
        assert flag.decided_by in {DecisiveStep.RULE, DecisiveStep.DEFAULT}
        rollout = flag.rollout
        chosen = rollout.outside_variation_id
        if rollout.bucket is not None:
            chosen = next((variation for variation, bound in rollout.shares if rollout.bucket < bound), "")
        assert flag.error or flag.variation_id == chosen
        assert rollout.audience_bucket is None or (rollout.audience_bucket < rollout.audience) == (
            rollout.bucket is not None
        )


def check_rules(rules: tuple[ExplainedRule, ...]) -> None:
    """Check that only the last rule may match, and that it does if all of its clauses do."""
    assert [each.number for each in rules] == list(range(1, len(rules) + 1))
    assert not any(each.matches for each in rules[:-1])
    for each in rules:
        outcomes = [clause.matches for clause in each.clauses]
        assert all(outcomes[:-1])
        assert each.matches == all(outcomes)
        for clause in each.clauses:
            members = [segment.is_member for segment in clause.segments]
            assert not any(members[:-1])
            assert not members or clause.matches == members[-1]
            for segment in clause.segments:
                check_rules(segment.rules)


@pytest.mark.parametrize("theme", THEMES)
def test_every_case_of_the_server_is_explained_as_it_is_evaluated(theme: str) -> None:
    vectors = load(theme)
    flags = Snapshot(
        {each["id"]: compile_flag(each) for each in vectors["features"]},
        {each["segmentId"]: compile_segment(each) for each in vectors["segmentUsers"]},
    )
    for case in vectors["cases"]:
        explanation = check(flags, unchecked_user(case["user"]), case["featureId"], case.get("tag", ""))
        wanted = case["expect"]
        if "error" in wanted or explanation.decided_by is DecisiveStep.DEFINITION:
            assert explanation.error
        else:
            assert explanation.variation_id == wanted["variationId"]
            assert explanation.reason.type.name == wanted["reason"]["type"]
            assert explanation.reason.rule_id == wanted["reason"]["ruleId"]


IDS = ["a", "b", "c"]
VARIATIONS = ["A", "B", "C"]
TEXTS = st.sampled_from(["", "a", "b", "user", "1", "2.5", "1.0.0", "v1.0.1", "pro", "A", "B"])
GROUPS = ["s", "t", "unknown"]


def fixed(variations: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda variation: {"type": "FIXED", "fixedStrategy": {"variation": variation}}, variations)


def rollouts(variations: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    shares = st.lists(
        st.fixed_dictionaries({"variation": variations, "weight": st.integers(0, 60_000)}), min_size=1, max_size=4
    )
    audiences = st.none() | st.fixed_dictionaries(
        {"percentage": st.integers(0, 100), "defaultVariation": variations | st.just("")}
    )
    return st.builds(
        lambda shares, audience: {
            "type": "ROLLOUT",
            "rolloutStrategy": {"variations": shares, "audience": audience},
        },
        shares,
        audiences,
    )


def clauses() -> st.SearchStrategy[dict[str, Any]]:
    plain = st.fixed_dictionaries(
        {
            "attribute": st.sampled_from(["id", "plan", "age"]),
            "operator": st.sampled_from(
                [each for each in OPERATORS if each not in {"SEGMENT", "FEATURE_FLAG"}] + ["NEW"]
            ),
            "values": st.lists(TEXTS, max_size=3),
        }
    )
    segment = st.fixed_dictionaries(
        {"operator": st.just("SEGMENT"), "values": st.lists(st.sampled_from(GROUPS), max_size=3)}
    )
    flag = st.fixed_dictionaries(
        {
            "operator": st.just("FEATURE_FLAG"),
            "attribute": st.sampled_from(IDS),
            "values": st.lists(st.sampled_from(VARIATIONS), max_size=2),
        }
    )
    return plain | segment | flag


VARIATION = st.sampled_from([*VARIATIONS, "A", "A", "B", "B"])  # now and then one that does not exist
STRATEGY = fixed(VARIATION) | rollouts(VARIATION) | st.just({"type": "MAGIC"})
RULES = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["r", ""]), "clauses": st.lists(clauses(), max_size=3), "strategy": STRATEGY | st.none()}
    ),
    max_size=3,
)


@st.composite
def flags(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {
            "id": feature_id,
            "version": draw(st.integers(0, 9)),
            "enabled": draw(st.booleans()),
            "archived": draw(st.sampled_from([False, False, False, True])),
            "tags": draw(st.sampled_from([[], ["shop"]])),
            "samplingSeed": draw(TEXTS),
            "variations": [{"id": each, "value": each.lower()} for each in ("A", "B")],
            "offVariation": draw(st.sampled_from(["", "A", "B", "C"])),
            "prerequisites": draw(
                st.lists(
                    st.fixed_dictionaries(
                        {"featureId": st.sampled_from(IDS[number + 1 :] or ["z"]), "variationId": VARIATION}
                    ),
                    max_size=2 if number < len(IDS) - 1 else 0,
                )
            ),
            "targets": draw(
                st.lists(st.fixed_dictionaries({"variation": VARIATION, "users": st.lists(TEXTS)}), max_size=2)
            ),
            "rules": draw(RULES),
            "defaultStrategy": draw(STRATEGY | st.none()),
        }
        for number, feature_id in enumerate(IDS)
    ]


@st.composite
def segments(draw: st.DrawFn) -> list[dict[str, Any]]:
    users = st.fixed_dictionaries({"userId": TEXTS, "segmentId": st.sampled_from(GROUPS)})
    return [
        {"segmentId": each, "users": draw(st.lists(users, max_size=3)), "rules": draw(RULES)} for each in GROUPS[:2]
    ]


@settings(max_examples=300)
@given(
    flags=flags(),
    segments=segments(),
    user_id=TEXTS,
    attributes=st.dictionaries(st.sampled_from(["plan", "age"]), TEXTS),
    tag=st.sampled_from(["", "shop"]),
)
def test_every_flag_is_explained_as_it_is_evaluated(
    flags: list[dict[str, Any]],
    segments: list[dict[str, Any]],
    user_id: str,
    attributes: dict[str, str],
    tag: str,
) -> None:
    both = snapshot(*flags, segments=segments)
    user = unchecked_user({"id": user_id, "data": attributes})
    for feature_id in IDS:
        check(both, user, feature_id, tag)


# What is shown


def story() -> Snapshot:
    """A flag with a prerequisite, a segment and rollouts."""
    payments = definition("payments", defaultStrategy={"fixedStrategy": {"variation": "A"}})
    checkout = definition(
        "checkout",
        offVariation="B",
        prerequisites=[{"featureId": "payments", "variationId": "A"}],
        targets=[{"variation": "A", "users": ["someone"]}],
        rules=[
            {
                "id": "staff",
                "strategy": {"fixedStrategy": {"variation": "A"}},
                "clauses": [
                    {"attribute": "plan", "operator": "EQUALS", "values": ["pro"]},
                    {"attribute": "email", "operator": "ENDS_WITH", "values": [f"@{each}.test" for each in range(7)]},
                ],
            },
            {
                "id": "beta",
                "strategy": {
                    "type": "ROLLOUT",
                    "rolloutStrategy": {
                        "variations": [{"variation": "A", "weight": 20_000}, {"variation": "B", "weight": 80_000}],
                        "audience": {"percentage": 60, "defaultVariation": "B"},
                    },
                },
                "clauses": [
                    {"operator": "SEGMENT", "values": ["gone", "testers"]},
                    {"attribute": "payments", "operator": "FEATURE_FLAG", "values": ["A"]},
                ],
            },
        ],
    )
    testers = {
        "segmentId": "testers",
        "users": [{"segmentId": "testers", "userId": "listed"}],
        "rules": [
            {"clauses": [{"attribute": "plan", "operator": "EQUALS", "values": ["free"]}]},
            {"clauses": [{"attribute": "plan", "operator": "STARTS_WITH", "values": ["p"]}]},
        ],
    }
    return snapshot(payments, checkout, segments=[testers])


TEXT = """\
user 'user-1' gets variation 'B' = 'false' of flag 'checkout': RULE 'beta'
  flag 'payments', version 3
    no off variation: prerequisites, and whether the flag is on, do not count
    the flag is on
    the user is not an individual target
    decided by the default strategy: 'A'
  flag 'checkout', version 3
    prerequisite 'payments' must serve 'A', serves 'A': met
    the flag is on
    the user is not an individual target
    rule 1 'staff': does not match
      plan ('pro') EQUALS 'pro': matches
      email (missing) ENDS_WITH '@0.test', '@1.test', '@2.test', '@3.test', '@4.test' and 2 more: does not match
    rule 2 'beta': matches
      SEGMENT 'gone', 'testers': matches
        segment 'gone' (unknown): not a member
        segment 'testers': a member
          rule 1: does not match
            plan ('pro') EQUALS 'free': does not match
          rule 2: matches
            plan ('pro') STARTS_WITH 'p': matches
      flag payments ('A') FEATURE_FLAG 'A': matches
    audience below 0.6: bucket 0.449625, inside
    rollout: bucket 0.233197, 'A' below 0.2, 'B' below 1
    decided by rule 2: 'B'"""


def test_the_text_names_every_step_in_its_order() -> None:
    assert str(check(story(), USER, "checkout")) == TEXT


def test_the_dict_has_the_same_as_json() -> None:
    found = check(story(), USER, "checkout").to_dict()

    checkout = found.pop("flags")[1]
    assert found == {
        "feature_id": "checkout",
        "user_id": "user-1",
        "tag": "",
        "reason": {"type": "RULE", "rule_id": "beta"},
        "decided_by": "rule",
        "feature_version": 3,
        "variation_id": "B",
        "variation_name": "",
        "variation_value": "false",
        "error": "",
    }
    assert checkout["prerequisites"] == [
        {"feature_id": "payments", "variation_id": "A", "served_variation_id": "A", "is_met": True}
    ]
    segment, flag = checkout["rules"][1]["clauses"]
    assert flag == {
        "attribute": "payments",
        "operator": "FEATURE_FLAG",
        "values": ["A"],
        "actual": "A",
        "matches": True,
        "segments": [],
    }
    assert segment["segments"][0] == {"segment_id": "gone", "is_known": False, "is_member": False, "rules": []}
    assert [rule["matches"] for rule in segment["segments"][1]["rules"]] == [False, True]
    assert checkout["rollout"]["shares"] == [["A", 0.2], ["B", 1.0]]
    assert checkout["rollout"]["audience"] == 0.6


def test_the_buckets_are_those_that_were_compared() -> None:
    rollout = check(story(), USER, "checkout").flags[-1].rollout

    assert rollout is not None
    assert rollout.audience_bucket == Hash("traffic-checkout-").bucket("user-1-")
    assert rollout.bucket == Hash("checkout-").bucket("user-1-")


UNMET = definition(offVariation="B", prerequisites=[{"featureId": "other", "variationId": "B"}])
HALF = {"variations": [], "audience": {"percentage": 1, "defaultVariation": "B"}}


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "default": (definition(), "default", "    decided by the default strategy: 'A'"),
    "off": (definition(enabled=False, offVariation="B"), "off", "    decided by the off variation: 'B'"),
    "target": (
        definition(targets=[{"variation": "B", "users": ["user-1"]}]),
        "target",
        "    decided by the individual targets: 'B'",
    ),
    "prerequisite": (UNMET, "prerequisite", "    decided by prerequisite 'other', not met: the off variation: 'B'"),
    "audience": (
        definition(defaultStrategy={"type": "ROLLOUT", "rolloutStrategy": HALF}),
        "default",
        "    audience below 0.01: bucket 0.701847, outside: 'B'",
    ),
    "unknown operator": (
        definition(rules=[rule("LIKE", ["a b"], "a b")]),
        "default",
        "      'a b' (missing) LIKE 'a b': does not match",
    ),
    "no values": (definition(rules=[rule("IN", [])]), "default", "      plan ('pro') IN nothing: does not match"),
    "archived": (definition(archived=True), "archived", "  the flag is archived: the default"),
    "tag": (definition(tags=["web"]), "tag", "  the flag does not have the tag 'shop': the default"),
    "unknown": (definition("another"), "unknown", "  no such flag with the tag 'shop': the default"),
    "malformed": (
        definition(version="five"),
        "definition",
        "  the definition cannot be used: the default (flag 'flag': MALFORMED (version is not an integer))",
    ),
    "unknown dependency": (
        definition(prerequisites=[{"featureId": "none", "variationId": "A"}]),
        "dependency",
        "  a dependency failed: the default (flag 'none': FEATURE_NOT_FOUND ('flag' depends on it))",
    ),
    "broken dependency": (
        definition(prerequisites=[{"featureId": "broken", "variationId": "A"}]),
        "dependency",
        "    failed at the default strategy: flag 'broken': VARIATION_NOT_FOUND ('gone')",
    ),
    "no default": (
        definition(defaultStrategy=None),
        "default",
        "    failed at the default strategy: flag 'flag': DEFAULT_STRATEGY_NOT_FOUND",
    ),
    "no strategy": (
        definition(rules=[rule("EQUALS", ["pro"]) | {"strategy": None}]),
        "rule",
        "    failed at rule 1: flag 'flag': MALFORMED (the rule has no strategy)",
    ),
    "broken target": (
        definition(targets=[{"variation": "gone", "users": ["user-1"]}]),
        "target",
        "    failed at the individual targets: flag 'flag': VARIATION_NOT_FOUND ('gone')",
    ),
    "broken prerequisite": (
        UNMET | {"offVariation": "gone"},
        "prerequisite",
        "    failed at prerequisite 'other', not met: the off variation: flag 'flag': VARIATION_NOT_FOUND ('gone')",
    ),
    "broken off": (
        definition(enabled=False, offVariation="gone"),
        "off",
        "    failed at the off variation: flag 'flag': VARIATION_NOT_FOUND ('gone')",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_decisive_step_is_named(case: str) -> None:
    flag, decided_by, line = CASES[case]
    broken = definition("broken", defaultStrategy={"fixedStrategy": {"variation": "gone"}})

    explanation = check(lazy_snapshot({"tags": ["shop"]} | flag, definition("other"), broken), USER, "flag", "shop")

    assert explanation.decided_by == decided_by
    assert line in str(explanation).splitlines()


def test_an_explanation_changes_no_later_evaluation() -> None:
    flags = story()
    before = evaluate(flags, USER, "checkout")

    explain(flags, USER, "checkout")
    explain(flags, User("user-2"), "checkout")

    assert evaluate(flags, USER, "checkout") is before


def test_threads_may_explain_at_the_same_time() -> None:
    flags = story()
    users = [User(f"user-{number}", {"plan": "pro"}) for number in range(100)]

    with ThreadPoolExecutor(8) as threads:
        explanations = list(threads.map(lambda user: explain(flags, user, "checkout"), users))

    assert explanations == [explain(story(), user, "checkout") for user in users]


def test_a_long_chain_of_dependencies_is_explained() -> None:
    chain = [
        definition(
            f"flag-{number}", offVariation="B", prerequisites=[{"featureId": f"flag-{number + 1}", "variationId": "A"}]
        )
        for number in range(3_000)
    ]

    explanation = check(snapshot(*chain, definition("flag-3000")), USER, "flag-0")

    assert [each.feature_id for each in explanation.flags] == [f"flag-{number}" for number in range(3000, -1, -1)]


def test_an_explanation_cannot_be_changed() -> None:
    explanation = check(story(), USER, "checkout")

    assert explanation == explain(story(), USER, "checkout")
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.reason = Reason(ReasonType.DEFAULT)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.flags[1].rules[0].clauses[0].matches = True  # type: ignore[misc]


def test_any_object_with_an_id_and_attributes_is_a_user() -> None:
    class Visitor:
        id = "\ud800"
        attributes = MappingProxyType({"plan": "pro"})

    explanation = check(story(), Visitor(), "checkout")

    assert explanation.user_id == "\ud800"
    assert str(explanation).isascii()


def test_a_value_that_cannot_be_reported_is_explained() -> None:
    flags = snapshot(
        definition(variations=[{"id": "", "value": "x"}], defaultStrategy={"fixedStrategy": {"variation": ""}})
    )

    explanation = check(flags, USER, "flag")

    assert explanation.decided_by is DecisiveStep.DEFINITION
    assert str(explanation).splitlines()[-1].startswith("  the definition cannot be used: the default (flag 'flag'")
