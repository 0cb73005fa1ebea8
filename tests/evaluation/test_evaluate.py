"""Evaluation beyond the server's test vectors: malformed definitions, long chains of dependencies, shared results."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ReasonType, User
from bucketeer_async._evaluation import (
    EvaluationCause,
    EvaluationError,
    Snapshot,
    compile_flag,
    compile_segment,
    evaluate,
)
from bucketeer_async._evaluation._errors import MalformedError
from bucketeer_async._evaluation._versions import version
from bucketeer_async._flags._definitions import CompiledFlags, FlagDefinition
from bucketeer_async._go_numbers import integer, number

USER = User("user-1", {"plan": "pro"})


def definition(feature_id: str = "flag", **fields: Any) -> dict[str, Any]:
    return {
        "id": feature_id,
        "version": 3,
        "enabled": True,
        "variations": [{"id": "A", "value": "true", "name": "on"}, {"id": "B", "value": "false"}],
        "defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "A"}},
        **fields,
    }


def snapshot(*definitions: dict[str, Any], segments: list[dict[str, Any]] | None = None) -> Snapshot:
    compiled = [compile_segment(each) for each in segments or []]
    return Snapshot({each["id"]: compile_flag(each) for each in definitions}, {each.id: each for each in compiled})


def rule(operator: object, values: list[str], attribute: str = "plan") -> dict[str, Any]:
    return {
        "id": "rule",
        "strategy": {"fixedStrategy": {"variation": "B"}},
        "clauses": [{"attribute": attribute, "operator": operator, "values": values}],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": 5},
        {"version": True},
        {"version": "x"},
        {"version": 1.5},
        {"enabled": "yes"},
        {"variations": {}},
        {"variations": [5]},
        {"targets": [{"variation": "A", "users": [5]}]},
        {"rules": "all"},
        {"rules": [{"clauses": [{"operator": []}]}]},
        {"rules": [{"strategy": 5}]},
        {"defaultStrategy": []},
        {"defaultStrategy": {"type": "ROLLOUT", "rolloutStrategy": {"variations": [{"weight": "much"}]}}},
        {"tags": "all"},
        {"prerequisites": [None]},
    ],
    ids=str,
)
def test_a_definition_with_wrong_types_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        compile_flag(definition(**fields))


def test_a_segment_with_wrong_types_is_refused() -> None:
    with pytest.raises(MalformedError):
        compile_segment({"segmentId": "segment", "users": [{"userId": 5}]})


def lazy_snapshot(*definitions: dict[str, Any]) -> Snapshot:
    """Return a snapshot as the poller makes it: each flag is compiled when it is first evaluated."""
    return Snapshot(
        CompiledFlags({each["id"]: FlagDefinition(each["id"], json.dumps(each), each) for each in definitions}), {}
    )


def test_a_flag_that_could_not_be_compiled_fails_alone() -> None:
    flags = lazy_snapshot(definition(), definition("other", version="five"))

    assert evaluate(flags, USER, "flag").variation.id == "A"
    with pytest.raises(EvaluationError, match=r"flag 'other': MALFORMED \(version is not an integer\)"):
        evaluate(flags, USER, "other")


def test_a_flag_that_depends_on_one_that_could_not_be_compiled_says_so() -> None:
    needs = definition(prerequisites=[{"featureId": "other", "variationId": "A"}])
    flags = lazy_snapshot(needs, definition("other", version="five"))

    with pytest.raises(EvaluationError, match=r"flag 'other': MALFORMED \(version is not an integer\)"):
        evaluate(flags, USER, "flag")


def test_a_chain_may_be_longer_than_the_stack() -> None:
    chain = [
        definition(f"flag-{number}", prerequisites=[{"featureId": f"flag-{number + 1}", "variationId": "A"}])
        for number in range(5_000)
    ]
    flags = snapshot(*chain, definition("flag-5000"))

    assert evaluate(flags, USER, "flag-0").variation.id == "A"


def test_a_long_cycle_is_seen() -> None:
    chain = [
        definition(f"flag-{number}", prerequisites=[{"featureId": f"flag-{(number + 1) % 5000}", "variationId": "A"}])
        for number in range(5_000)
    ]

    with pytest.raises(EvaluationError) as caught:
        evaluate(snapshot(*chain), USER, "flag-7")

    assert caught.value.cause is EvaluationCause.CYCLE_EXISTS


@pytest.mark.parametrize(("operator", "variation"), [("EQUALS", "B"), (0, "B"), (None, "B"), (99, "A"), ("LIKE", "A")])
def test_an_operator_is_a_name_or_a_number_and_an_unknown_one_never_holds(operator: object, variation: str) -> None:
    flags = snapshot(definition(rules=[rule(operator, ["pro"])]))

    assert evaluate(flags, USER, "flag").variation.id == variation


def test_users_share_what_a_flag_serves() -> None:
    flags = snapshot(definition())

    first, second = (evaluate(flags, User(name), "flag") for name in ("user-1", "user-2"))

    assert first is second
    assert (first.feature_id, first.feature_version, first.reason.type) == ("flag", 3, ReasonType.DEFAULT)


def test_an_entry_of_another_segment_counts_for_that_one() -> None:
    entry = {"segmentId": "b", "userId": "user-1"}
    segments = [{"segmentId": "a", "users": [entry]}, {"segmentId": "b"}]
    both = definition("both", rules=[rule("SEGMENT", ["b"]), rule("SEGMENT", ["a"])])
    alone = definition("alone", rules=[rule("SEGMENT", ["b"])])
    flags = snapshot(both, alone, segments=segments)

    assert evaluate(flags, USER, "both").variation.id == "B"
    assert evaluate(flags, USER, "alone").variation.id == "A"


def test_yaml_stays_as_it_is_without_the_extra() -> None:
    code = (
        "import sys; sys.modules['yaml'] = None\n"
        "from bucketeer_async._evaluation._yaml import to_json\n"
        "print(to_json('a: 1'))"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "a: 1\n"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_reads_back(value: float) -> None:
    assert number(repr(value)) == value
    assert number(value.hex()) == value


@given(st.integers())
def test_integers_are_int64(value: int) -> None:
    assert integer(str(value)) == (value if -(2**63) <= value < 2**63 else None)
    assert integer(f"+000{abs(value)}") == (abs(value) if abs(value) < 2**63 else None)


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    for read in (number, integer, version):
        read(text)
        read(f"1.0.0-{text}")
