"""The endpoints of client SDKs: the evaluator's results, and the server's rules about changes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from bucketeer_async import ConfigurationError, ReasonType
from bucketeer_async._evaluation import EvaluationError, Snapshot, compile_flag, compile_segment, evaluate
from bucketeer_async.gateway import GatewayState, create_app, flag
from bucketeer_async.gateway._definitions import complete_flag, complete_segment
from bucketeer_async.gateway._ids import feature_flags_id, user_evaluations_id
from tests.evaluation.test_vectors import THEMES, load, unchecked_user
from tests.gateway.test_recorded import exchange

NOW = 1_800_000_000
DAY = 86_400


@pytest.fixture
def state() -> GatewayState:
    return GatewayState(now=lambda: NOW)


@pytest.fixture
async def http(state: GatewayState) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(state))
    headers = {"authorization": "client-key"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


async def ask(http: httpx.AsyncClient, feature_id: str, user: str = "user", tag: str = "shop") -> httpx.Response:
    return await http.post("/get_evaluation", json={"tag": tag, "featureId": feature_id, "user": {"id": user}})


async def ask_all(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await http.post("/get_evaluations", json={"tag": "shop", "user": {"id": "user"}} | fields)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def told(answer: dict[str, Any]) -> tuple[list[str], list[str], bool]:
    """Return the flags of a response, its archived flags, and its ``forceUpdate``."""
    fields = answer["evaluations"]
    return [each["featureId"] for each in fields["evaluations"]], fields["archivedFeatureIds"], fields["forceUpdate"]


# One flag


async def test_an_evaluation_has_the_servers_form(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("colour", variations={"r": "red", "g": "green"}, tags=["shop"], version=3))

    assert (await ask(http, "colour")).json()["evaluation"] == {
        "id": "colour:3:user",
        "featureId": "colour",
        "featureVersion": 3,
        "userId": "user",
        "variationId": "r",
        "variation": {"id": "r", "value": "red", "name": "r", "description": ""},
        "reason": {"type": "DEFAULT", "ruleId": ""},
        "variationValue": "red",
        "variationName": "r",
    }


async def test_a_flag_flips_while_the_gateway_runs(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("a", tags=["shop"], targets={"off": ["bob"]}))
    before = [(await ask(http, "a", user)).json()["evaluation"] for user in ("alice", "bob")]
    state.update_flag("a", enabled=False)
    after = (await ask(http, "a")).json()["evaluation"]

    assert [(each["variationId"], each["reason"]["type"]) for each in before] == [("on", "DEFAULT"), ("off", "TARGET")]
    assert (after["variationValue"], after["reason"]["type"]) == ("false", "OFF_VARIATION")
    assert (before[0]["featureVersion"], after["featureVersion"]) == (1, 2)


async def test_a_rollout_reaches_its_share(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("a", tags=["shop"], default={"on": 12.5, "off": 87.5}))

    answers = [(await ask(http, "a", f"user-{number}")).json()["evaluation"] for number in range(400)]

    assert sum(each["variationId"] == "on" for each in answers) == pytest.approx(50, abs=20)


async def test_segments_and_prerequisites_count_whatever_their_tag(
    http: httpx.AsyncClient, state: GatewayState
) -> None:
    strategy = {"fixedStrategy": {"variation": "off"}}
    rule = {"id": "r", "strategy": strategy, "clauses": [{"operator": "SEGMENT", "values": ["vips"]}]}
    state.set_segment({"segmentId": "vips", "users": ["alice", {"userId": "bob", "state": "EXCLUDED"}]})
    state.set_flag(flag("base", rules=[rule]))
    state.set_flag(flag("a", tags=["shop"], prerequisites=[{"featureId": "base", "variationId": "on"}]))

    reasons = [(await ask(http, "a", user)).json()["evaluation"]["reason"]["type"] for user in ("alice", "bob")]
    assert reasons == ["PREREQUISITE", "DEFAULT"]
    state.remove_segment("vips")
    assert (await ask(http, "a", "alice")).json()["evaluation"]["variationId"] == "on"


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"archived": True}, 404, "gateway: feature not found"),
        ({"deleted": True}, 404, "gateway: feature not found"),
        ({"enabled": False, "offVariation": ""}, 404, "gateway: feature not found"),
        ({"tags": []}, 404, "gateway: evaluation not found"),
        ({"prerequisites": [{"featureId": "gone", "variationId": "on"}]}, 500, "gateway: internal"),
        ({"prerequisites": [{"featureId": "a", "variationId": "on"}]}, 500, "gateway: internal"),
        ({"defaultStrategy": {"type": 7}}, 500, "gateway: internal"),
    ],
)
async def test_a_flag_that_gives_nothing(
    http: httpx.AsyncClient, state: GatewayState, changes: dict[str, Any], status: int, message: str
) -> None:
    state.set_flag(flag("a", tags=["shop"]) | changes)

    response = await ask(http, "a")

    assert (response.status_code, response.json()["message"]) == (status, message)


async def test_a_prerequisite_is_forgotten_thirty_days_after_it_was_archived(state: GatewayState) -> None:
    state.set_flag(flag("base"))
    state.archive_flag("base")
    state.set_flag(flag("a", prerequisites=[{"featureId": "base", "variationId": "on"}]))

    assert state.environment.snapshot(NOW + 30 * DAY).flags.keys() == {"a", "base"}
    assert state.environment.snapshot(NOW + 30 * DAY + 2).flags.keys() == {"a"}


async def test_a_flag_that_depends_on_an_archived_flag_cannot_be_evaluated_alone(
    http: httpx.AsyncClient, state: GatewayState
) -> None:
    state.set_flag(flag("base"))
    state.set_flag(flag("between", prerequisites=[{"featureId": "base", "variationId": "on"}]))
    state.set_flag(flag("a", tags=["shop"], prerequisites=[{"featureId": "between", "variationId": "on"}]))
    before = await ask(http, "a")
    state.archive_flag("base")

    response = await ask(http, "a")

    assert before.json()["evaluation"]["variationId"] == "on"
    assert (response.status_code, response.json()["message"]) == (500, "gateway: internal")
    assert told(await ask_all(http)) == (["a"], ["base"], False)  # this endpoint evaluates archived flags


async def test_a_user_that_no_client_would_send_is_answered(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("a", tags=["shop"]))
    user = {"id": "u", "data": {"userAttributesUpdated": "x"}}

    response = await http.post("/get_evaluation", json={"tag": "shop", "featureId": "a", "user": user})

    assert response.json()["evaluation"]["variationId"] == "on"


def accepted(complete: Callable[[Mapping[str, Any]], Any], definitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the definitions that the gateway accepts, which are those that the server's console accepts."""
    kept = []
    for each in definitions:
        known = {name: value for name, value in each.items() if name != "someFutureField"}
        with contextlib.suppress(ConfigurationError):
            complete(known)
            kept.append(known)
    return kept


def is_loaded(fields: Mapping[str, Any]) -> bool:
    return bool(fields.get("enabled") or fields.get("offVariation")) and not fields.get("deleted")


@pytest.mark.parametrize("theme", [theme for theme in THEMES if theme != "tags_archived"])
async def test_the_gateway_answers_what_the_evaluator_does(theme: str) -> None:
    vectors = load(theme)
    features = [each for each in accepted(complete_flag, vectors["features"]) if is_loaded(each)]
    segments = accepted(complete_segment, vectors["segmentUsers"])
    flags = {str(each["id"]): compile_flag(each) for each in features if not each.get("archived")}
    snapshot = Snapshot(flags, {each["segmentId"]: compile_segment(each) for each in segments})
    # The times are so old that the server would not load archived flags.
    app = create_app(GatewayState(flags=[dict(each, tags=["t"], updatedAt=0) for each in features], segments=segments))
    asked = 0
    for case in vectors["cases"][::3]:
        feature_id, user = case["featureId"], unchecked_user(case["user"])
        if feature_id not in flags or not user.id or not str(user.id).isprintable():
            continue
        body = json.dumps({"tag": "t", "featureId": feature_id, "user": {"id": user.id, "data": dict(user.attributes)}})
        status, _, answer = await exchange(
            app, "POST", "/get_evaluation", [(b"authorization", b"client-key")], body.encode()
        )
        asked += 1
        try:
            served = evaluate(snapshot, user, feature_id)
        except EvaluationError:
            assert status in {404, 500}
            continue
        found = json.loads(answer)["evaluation"]
        assert (found["variationId"], found["variationValue"]) == (served.variation.id, served.variation.value)
        assert (ReasonType[found["reason"]["type"]], found["reason"]["ruleId"]) == (
            served.reason.type,
            served.reason.rule_id,
        )
    assert asked > 5


# All flags of a tag


async def test_all_evaluations_of_a_tag_and_nothing_new(http: httpx.AsyncClient, state: GatewayState) -> None:
    for definition in (flag("a", tags=["shop"]), flag("b", tags=["x"]), flag("c", tags=["shop"])):
        state.set_flag(definition)
    state.set_flag(flag("gone", archived=True))

    first = await ask_all(http)
    second = await ask_all(http, userEvaluationsId=first["userEvaluationsId"])

    assert told(first) == (["a", "c"], ["gone"], False)
    assert told(second) == ([], [], False)
    assert (second["userEvaluationsId"], second["evaluations"]["id"]) == (first["userEvaluationsId"], "no_evaluations")
    assert first["evaluations"]["createdAt"] == str(NOW)


@pytest.mark.parametrize(
    ("known", "evaluated_at"), [("", NOW), ("1", NOW - 31 * DAY), ("1", 0), ("1", NOW + 1), ("1", NOW - DAY)]
)
async def test_with_a_condition_everything_is_forced_unless_something_changed_since(
    http: httpx.AsyncClient, state: GatewayState, known: str, evaluated_at: int
) -> None:
    state.set_flag(flag("a", tags=["shop"], updatedAt=NOW - 2 * DAY))
    state.set_flag(flag("gone", tags=["shop"], archived=True, updatedAt=NOW - 2 * DAY))

    answer = await ask_all(http, userEvaluationsId=known, userEvaluationCondition={"evaluatedAt": evaluated_at})

    assert told(answer) == (["a"], ["gone"], True)


async def test_a_condition_of_the_future_gets_the_changes_before_now(
    http: httpx.AsyncClient, state: GatewayState
) -> None:
    state.set_flag(flag("old", tags=["shop"], updatedAt=NOW - 2 * DAY))
    state.set_flag(flag("new", tags=["shop"]))

    answer = await ask_all(http, userEvaluationsId="1", userEvaluationCondition={"evaluatedAt": NOW + 60})

    assert told(answer) == (["new"], [], False)


async def test_a_diff_has_what_changed_and_all_that_is_connected(http: httpx.AsyncClient, state: GatewayState) -> None:
    def needing(*feature_ids: str) -> list[dict[str, str]]:
        return [{"featureId": each, "variationId": "on"} for each in feature_ids]

    for definition in (
        flag("unrelated", tags=["shop"]),
        flag("changed", tags=["shop"]),
        flag("above", tags=["shop"], prerequisites=needing("changed", "beside")),
        flag("beside", tags=["shop"], prerequisites=needing("below")),
        flag("below", tags=["shop"]),
        flag("archived", archived=True),
    ):
        state.set_flag(definition | {"updatedAt": NOW - 2 * DAY})
    state.update_flag("changed", description="new")
    state.update_flag("archived", description="new")

    answer = await ask_all(http, userEvaluationsId="1", userEvaluationCondition={"evaluatedAt": NOW})

    assert told(answer) == (["changed", "below", "beside", "above"], ["archived"], False)


@pytest.mark.parametrize("updated", [True, False])
async def test_changed_attributes_count_for_flags_with_rules(
    http: httpx.AsyncClient, state: GatewayState, updated: bool
) -> None:
    rule = {"id": "r", "strategy": {"fixedStrategy": {"variation": "off"}}}
    for definition in (flag("plain", tags=["shop"]), flag("ruled", tags=["shop"], rules=[rule])):
        state.set_flag(definition | {"updatedAt": NOW - 2 * DAY})
    condition = {"evaluatedAt": NOW, "userAttributesUpdated": updated}

    answer = await ask_all(http, userEvaluationsId="1", userEvaluationCondition=condition)

    assert told(answer) == ((["ruled"], [], False) if updated else (["plain", "ruled"], [], True))


@pytest.mark.parametrize("fields", [{"tags": ["shop"]}, {"tags": ["other"]}, {"tags": []}, {"archived": True}])
async def test_one_flag_that_cannot_be_evaluated_breaks_all(
    http: httpx.AsyncClient, state: GatewayState, fields: dict[str, Any]
) -> None:
    state.set_flag(flag("a", tags=["shop"]))
    state.set_flag(flag("b", prerequisites=[{"featureId": "gone", "variationId": "on"}]) | fields)

    response = await http.post("/get_evaluations", json={"tag": "shop", "user": {"id": "user"}})

    assert (response.status_code, response.json()["message"]) == (500, "gateway: internal")


async def test_the_old_id_is_that_of_all_flags_which_were_evaluated(
    http: httpx.AsyncClient, state: GatewayState
) -> None:
    times = {"tagged": NOW - 2 * DAY, "untagged": NOW - 2 * DAY, "changed": NOW}
    for feature_id, time in times.items():
        state.set_flag(flag(feature_id, tags=[] if feature_id == "untagged" else ["shop"], updatedAt=time))

    everything = await ask_all(http)
    changes = await ask_all(http, userEvaluationsId="1", userEvaluationCondition={"evaluatedAt": NOW})

    assert everything["evaluations"]["id"] == user_evaluations_id("user", {}, times)
    assert changes["evaluations"]["id"] == user_evaluations_id("user", {}, {"changed": NOW})
    del times["untagged"]
    assert everything["userEvaluationsId"] == changes["userEvaluationsId"] == user_evaluations_id("user", {}, times)


async def test_without_a_tag_the_id_is_that_of_no_flag(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("a", tags=["shop"]))
    state.set_flag(flag("b"))
    of_no_flag = user_evaluations_id("user", {}, {})

    answer = await ask_all(http, tag="", userEvaluationCondition={})
    without_condition = await http.post("/get_evaluations", json={"user": {"id": "user"}})
    nothing_new = await ask_all(http, tag="", userEvaluationsId=of_no_flag)

    assert told(answer) == (["a", "b"], [], True)
    assert answer["userEvaluationsId"] == of_no_flag
    assert (without_condition.status_code, without_condition.json()["message"]) == (400, "gateway: tag is required")
    assert told(nothing_new) == ([], [], False)
    assert (nothing_new["userEvaluationsId"], nothing_new["evaluations"]["id"]) == (of_no_flag, "no_evaluations")


def test_the_ids_are_the_servers() -> None:
    for each in load("hashes")["ids"]:
        updated = {feature["id"]: int(feature.get("updatedAt", 0)) for feature in each["features"]}
        user = each["user"]

        assert user_evaluations_id(user["id"], user.get("data") or {}, updated) == each["userEvaluationsId"]
        assert feature_flags_id(updated) == each["featureFlagsId"]
