"""Definitions of flags and segments: valid ones, updates, and the errors of invalid ones."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bucketeer_async import ConfigurationError
from bucketeer_async.gateway import GatewayState, flag

BEGIN = 1_800_000_000


class Clock:
    now = BEGIN

    def __call__(self) -> float:
        return float(self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> GatewayState:
    return GatewayState(now=clock)


ROLLOUT = {"type": "ROLLOUT", "rolloutStrategy": {"variations": [{"variation": "on", "weight": 100_000}]}}


def with_rollout(**changes: Any) -> dict[str, Any]:
    return {"defaultStrategy": {"type": "ROLLOUT", "rolloutStrategy": ROLLOUT["rolloutStrategy"] | changes}}  # type: ignore[operator]


def rule(**changes: Any) -> dict[str, Any]:
    return {"rules": [{"id": "r", "strategy": {"fixedStrategy": {"variation": "on"}}} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enabld": True}, "enabld is not a field; did you mean enabled?"),
        ({"zzz": True}, "zzz is not a field; the fields are id, name,"),
        ({"enabled": "yes"}, "enabled must be true or false, not 'yes'"),
        ({"version": "1"}, "version must be an int, not str"),
        ({"version": -1}, "version must be from 0 to 2147483647"),
        ({"updatedAt": 1.5}, "updatedAt must be Unix seconds, a whole number, not 1.5"),
        ({"updatedAt": "9" * 5000}, "updatedAt must be Unix seconds, a whole number, not '999"),
        ({"updatedAt": 10**5000}, "updatedAt must be Unix seconds, a whole number, not int(...)"),
        ({"enabled": 10**5000}, "enabled must be true or false, not int(...)"),
        ({"variationType": 10**5000}, "variationType must be one of"),
        ({"updatedAt": "soon"}, "updatedAt must be Unix seconds, a whole number, not 'soon'"),
        ({"variationType": "BOOL"}, "variationType must be one of STRING, BOOLEAN, NUMBER, JSON, YAML, not 'BOOL'"),
        ({"tags": "shop"}, "tags must be a list, not str"),
        ({"tags": [True]}, "tags[0] must be a str, not bool; quote it"),
        ({"name": "\ud800"}, "name has a lone surrogate at index 0"),
        ({"variations": []}, "variations is missing"),
        ({"variations": [5]}, "variations[0] must be an object, not int"),
        ({"variations": [{"value": "x"}]}, "variations[0].id is missing"),
        ({"variations": [{"id": "on"}, {"id": "on"}]}, "variations[1].id 'on' is a duplicate"),
        ({"offVariation": "of"}, "offVariation must be one of off, on, not 'of'"),
        ({"targets": [{"variation": "x"}]}, "targets[0].variation must be one of off, on, not 'x'"),
        ({"defaultStrategy": None}, "defaultStrategy is missing"),
        ({"defaultStrategy": {"type": "FIXED"}}, "defaultStrategy.fixedStrategy is missing"),
        (
            {"defaultStrategy": {"fixedStrategy": {"variation": "x"}}},
            "defaultStrategy.fixedStrategy.variation must be one of off, on, not 'x'",
        ),
        ({"defaultStrategy": {"type": "ROLLOUT"}}, "defaultStrategy.rolloutStrategy is missing"),
        (
            with_rollout(variations=[{"variation": "on", "weight": 100}]),
            "defaultStrategy.rolloutStrategy.variations: the weights must add up to 100000, not 100",
        ),
        (
            with_rollout(variations=[{"variation": "x", "weight": 100_000}]),
            "defaultStrategy.rolloutStrategy.variations[0].variation must be one of off, on, not 'x'",
        ),
        (
            with_rollout(audience={"percentage": 101}),
            "defaultStrategy.rolloutStrategy.audience.percentage must be from 0 to 100",
        ),
        (
            with_rollout(audience={"percentage": 10, "defaultVariation": "x"}),
            "defaultStrategy.rolloutStrategy.audience.defaultVariation must be one of off, on, not 'x'",
        ),
        (rule(strategy=None), "rules[0].strategy is missing"),
        (rule(clauses=[{"operator": "EQUAL"}]), "rules[0].clauses[0].operator must be one of EQUALS, IN,"),
        (rule(clauses=[{"values": [1]}]), "rules[0].clauses[0].values[0] must be a str, not int; quote it"),
    ],
)
def test_a_wrong_flag_is_refused_by_name_and_field(changes: dict[str, Any], message: str, state: GatewayState) -> None:
    with pytest.raises(ConfigurationError, match=rf"^flag 'a': {re.escape(message)}"):
        state.set_flag(flag("a") | changes)
    with pytest.raises(ConfigurationError, match=rf"^flags\[1\]: flag 'a': {re.escape(message)}"):
        GatewayState(flags=[flag("b"), flag("a") | changes])
    assert not state.environment.flags


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ({"flags": 5}, "flags must be a list, not int"),
        ({"flags": [5]}, "flags[0]: flag: the content must be an object, not int"),
        ({"flags": [{}]}, "flags[0]: flag: id is missing"),
        ({"flags": [flag("a"), flag("a")]}, "flags[1]: id 'a' is a duplicate"),
        ({"segments": [{}]}, "segments[0]: segment: segmentId is missing"),
        ({"segments": [{"segmentId": "s", "users": [5]}]}, "segments[0]: segment 's': users[0] must be an object"),
        ({"segments": [{"segmentId": "s", "users": [{}]}]}, "segments[0]: segment 's': users[0].userId is missing"),
        ({"segments": [{"segmentId": "s", "rules": {}}]}, "segments[0]: segment 's': rules must be a list"),
    ],
)
def test_wrong_lists_are_refused(definitions: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        GatewayState(**definitions)


def test_a_definition_is_completed_to_what_the_server_prints(state: GatewayState) -> None:
    state.set_flag(flag("a", **with_rollout(), variationType=1, rules=[{"strategy": ROLLOUT, "clauses": [{}]}]))
    state.set_segment({"segmentId": "s", "users": ["u"], "rules": [{"clauses": [{"operator": 13}]}]})

    fields = state.flag("a")
    segment = state.environment.segments["s"].fields
    assert (fields["variationType"], fields["createdAt"], fields["maintainer"]) == ("BOOLEAN", str(BEGIN), "")
    assert fields["rules"][0]["clauses"] == [{"id": "", "attribute": "", "operator": "EQUALS", "values": []}]
    assert fields["defaultStrategy"]["fixedStrategy"] is None
    assert segment == {
        "segmentId": "s",
        "users": [{"id": "s:u:INCLUDED", "segmentId": "s", "userId": "u", "state": "INCLUDED", "deleted": False}],
        "updatedAt": str(BEGIN),
        "rules": [
            {
                "id": "",
                "strategy": None,
                "clauses": [{"id": "", "attribute": "", "operator": "NOT_EQUALS", "values": []}],
            }
        ],
    }


def test_members_of_enums_that_a_newer_server_has_go_by_number(state: GatewayState) -> None:
    state.set_flag(flag("a", **rule(clauses=[{"operator": 99}])))

    assert state.flag("a")["rules"][0]["clauses"][0]["operator"] == 99


def history(state: GatewayState) -> tuple[int, int, int]:
    fields = state.flag("a")
    return fields["version"], int(fields["createdAt"]) - BEGIN, int(fields["updatedAt"]) - BEGIN


def test_a_change_moves_version_and_time_on_and_no_change_does_not(state: GatewayState, clock: Clock) -> None:
    seen = []
    for definition in (flag("a"), flag("a"), flag("a", enabled=False), flag("a", enabled=False)):
        state.set_flag(definition)
        seen.append(history(state))
        clock.now += 60

    assert seen == [(1, 0, 0), (1, 0, 0), (2, 0, 120), (2, 0, 120)]


def test_a_version_and_a_time_that_are_later_count(state: GatewayState) -> None:
    state.set_flag(flag("a", version=7, createdAt=BEGIN - 90, updatedAt=str(BEGIN - 60)))
    assert history(state) == (7, -90, -60)
    state.set_flag(flag("a", version=6, updatedAt=BEGIN - 70))
    assert history(state) == (7, -90, -60)
    state.set_flag(flag("a", version=9, updatedAt=BEGIN - 50))
    assert history(state) == (9, -90, -50)
    state.set_flag(flag("a", version=9, updatedAt=BEGIN - 50, enabled=False))
    assert history(state) == (10, -90, 0)


def test_a_segment_moves_on_likewise(state: GatewayState, clock: Clock) -> None:
    seen = []
    for users in (["u"], ["u"], ["u", "v"]):
        state.set_segment({"segmentId": "s", "users": users})
        seen.append(state.environment.segments["s"].updated_at - BEGIN)
        clock.now += 60

    assert seen == [0, 0, 120]


def test_a_copy_of_a_definition_can_be_changed_and_set(state: GatewayState) -> None:
    state.set_flag(flag("a"))
    fields = state.flag("a")
    fields["defaultStrategy"]["fixedStrategy"]["variation"] = "off"
    assert state.flag("a")["defaultStrategy"]["fixedStrategy"] == {"variation": "on"}

    state.set_flag(fields)

    assert state.flag("a")["version"] == 2
    assert state.flag("a")["defaultStrategy"]["fixedStrategy"] == {"variation": "off"}


def test_what_is_not_there_cannot_be_changed(state: GatewayState) -> None:
    for change in (state.flag, state.update_flag, state.archive_flag, state.remove_flag, state.remove_segment):
        with pytest.raises(KeyError, match="a"):
            change("a")


@pytest.mark.parametrize(
    ("variations", "kind", "values"),
    [
        ({"on": True, "off": False}, "BOOLEAN", ["true", "false"]),
        ({"a": 1, "b": 2.5}, "NUMBER", ["1", "2.5"]),
        ({"a": "é", "b": ""}, "STRING", ["é", ""]),
        ({"a": {"x": ["é"]}, "b": "text"}, "JSON", ['{"x": ["é"]}', '"text"']),
        ({"a": True, "b": 1}, "JSON", ["true", "1"]),
    ],
)
def test_the_builder_tells_types_from_values(
    variations: dict[str, object], kind: str, values: list[str], state: GatewayState
) -> None:
    state.set_flag(flag("a", variations=variations))

    fields = state.flag("a")
    assert (fields["variationType"], [each["value"] for each in fields["variations"]]) == (kind, values)
    assert fields["defaultStrategy"]["fixedStrategy"]["variation"] == next(iter(variations))
    assert fields["offVariation"] == list(variations)[-1]


def test_the_builder_takes_what_is_given(state: GatewayState) -> None:
    state.set_flag(flag("a", default="off", off="on", enabled=False, tags=["t"], name="A"))

    fields = state.flag("a")
    assert (fields["offVariation"], fields["enabled"], fields["tags"], fields["name"]) == ("on", False, ["t"], "A")
    assert fields["defaultStrategy"]["fixedStrategy"]["variation"] == "off"
