"""The gateway's checks of requests and events, its simulated faults, and its ``/_dev/`` endpoints."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bucketeer_async import EventKind
from bucketeer_async.gateway import Fault, GatewayKey, GatewayState, RecordedEvent, create_app, flag

TYPE = "type.googleapis.com/bucketeer.event.client."


@pytest.fixture
def state() -> GatewayState:
    return GatewayState(
        keys={
            "client-key": GatewayKey(role="SDK_CLIENT"),
            "server-key": GatewayKey(role="SDK_SERVER"),
            "disabled-key": GatewayKey(role="SDK_CLIENT", disabled=True),
            "closed-key": GatewayKey(role="SDK_CLIENT", environment_disabled=True),
            "reader-key": GatewayKey(role="PUBLIC_API_READ_ONLY"),
        },
        flags=[flag("flag", tags=["shop"])],
        window=10,
    )


@pytest.fixture
async def http(state: GatewayState) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def post(http: httpx.AsyncClient, path: str, body: Any, key: str | None = "client-key") -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {} if key is None else {"authorization": key}
    return await http.post(path, content=content, headers=headers)


def new_id() -> str:
    return str(uuid.uuid4())


def now() -> int:
    return int(time.time())


def goal(**changes: Any) -> dict[str, Any]:
    event = {"@type": f"{TYPE}GoalEvent", "timestamp": now(), "goalId": "goal", "userId": "user"}
    return {"id": new_id(), "event": event | changes}


def evaluation(**changes: Any) -> dict[str, Any]:
    event = {
        "@type": f"{TYPE}EvaluationEvent",
        "timestamp": now(),
        "featureId": "flag",
        "variationId": "on",
        "user": {"id": "user"},
        "reason": {},
    }
    return {"id": new_id(), "event": {key: value for key, value in (event | changes).items() if value is not ...}}


def metrics(**changes: Any) -> dict[str, Any]:
    detail = {"@type": f"{TYPE}SizeMetricsEvent", "apiId": 1, "sizeByte": 5}
    return {"id": new_id(), "event": {"@type": f"{TYPE}MetricsEvent", "event": detail} | changes}


async def test_good_events_are_taken_and_recorded_in_order(http: httpx.AsyncClient, state: GatewayState) -> None:
    events = [goal(value=1.5), evaluation(), metrics()]

    response = await post(http, "/register_events", {"events": events}, key="server-key")

    assert (response.status_code, response.json()) == (200, {"errors": {}})
    assert [event.id for event in state.events] == [event["id"] for event in events]
    assert [event.kind for event in state.events] == [EventKind.GOAL, EventKind.EVALUATION, EventKind.METRICS]
    assert state.events[0].event["value"] == 1.5


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (lambda: {"id": new_id()}, "Invalid message type"),
        (lambda: {"id": new_id(), "event": {}}, "Invalid message type"),
        (lambda: {"id": new_id(), "event": {"@type": f"{TYPE}SizeMetricsEvent"}}, "Invalid message type"),
        (
            lambda: {"id": new_id(), "event": {"@type": "google.protobuf.Duration", "value": "1s"}},
            "Invalid message type",
        ),
        (lambda: goal() | {"id": "1"}, "gateway: invalid event id format"),
        (lambda: goal() | {"id": str(uuid.uuid1())}, "gateway: invalid event id format"),
        (lambda: goal() | {"id": new_id() + "\n"}, "gateway: invalid event id format"),
        (lambda: goal(goalId=""), "gateway: goal_id is empty"),
        (lambda: goal(userId=""), "gateway: user_id is empty"),
        (lambda: goal(timestamp=0), "gateway: invalid event timestamp"),
        (lambda: goal(timestamp=now() - 744 * 3600 - 60), "gateway: invalid event timestamp"),
        (lambda: goal(timestamp=now() + 3660), "gateway: invalid event timestamp"),
        (lambda: evaluation(featureId=""), "gateway: feature_id is empty"),
        (lambda: evaluation(variationId=""), "gateway: variation_id is empty"),
        (lambda: evaluation(user={}), "gateway: user_id is empty"),
        (lambda: evaluation(reason=...), "gateway: reason is nil"),
        (lambda: evaluation(timestamp=now() * 1000), "gateway: invalid event timestamp"),
        (lambda: metrics() | {"id": "x"}, "gateway: invalid event id format"),
    ],
    ids=range(18),
)
async def test_a_bad_event_fails_alone(http: httpx.AsyncClient, state: GatewayState, event: Any, message: str) -> None:
    bad, good = event(), goal()

    response = await post(http, "/register_events", {"events": [bad, good]})

    assert response.status_code == 200
    assert response.json() == {"errors": {bad["id"]: {"retriable": False, "message": message}}}
    assert [recorded.id for recorded in state.events] == [good["id"]]


@pytest.mark.parametrize("reason", [4, 20, 26, "CLIENT", "ERROR_EXCEPTION"])
async def test_a_default_needs_no_variation(http: httpx.AsyncClient, reason: Any) -> None:
    response = await post(http, "/register_events", {"events": [evaluation(variationId="", reason={"type": reason})]})

    assert response.json() == {"errors": {}}


@pytest.mark.parametrize(
    "poison",
    [
        lambda: {"event": {"@type": f"{TYPE}NewerEvent"}},
        lambda: {"event": {"@type": f"{TYPE}MetricsEvent", "event": {"@type": f"{TYPE}Newer"}}},
        lambda: {"event": {"@type": ""}},
        lambda: {"event": {"@type": None}},
        lambda: {"event": {"@type": "x/"}},
        lambda: {"event": []},
        lambda: {"event": {"@type": "google.protobuf.Duration"}},
        lambda: {"event": {"@type": "google.protobuf.Duration", "value": 5}},
        lambda: goal(user={"id": "u", "data": {"age": 30}}),
        lambda: goal(user={"id": "u", "data": {"x": None}}),
        lambda: goal(timestamp=1767225600.5),
        lambda: goal(userId="\ud800"),
        lambda: goal(goalId=5),
        lambda: goal(value=True),
        lambda: goal(value="inf"),
        lambda: goal(timestamp="1e99999999999999999999"),
        lambda: goal(goal_id="twice"),
        lambda: evaluation(featureVersion=2**31),
        lambda: evaluation(reason=[]),
        lambda: evaluation(metadata={"x": True}),
        lambda: metrics(event={"@type": f"{TYPE}LatencyMetricsEvent", "duration": "1"}),
        lambda: {"id": "", "event": goal()["event"]},
        lambda: {"event": goal()["event"], "id": None},
    ],
    ids=range(23),
)
async def test_poison_refuses_the_whole_request(http: httpx.AsyncClient, state: GatewayState, poison: Any) -> None:
    response = await post(http, "/register_events", {"events": [goal(), {"id": new_id()} | poison(), goal()]})

    body = response.json()
    assert (response.status_code, body["code"], body["details"]) == (400, 3, [])
    assert body["message"].startswith("proto:") or body["message"] == "gateway: missing event id"
    assert state.events == []


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "{", "{}x", "\ufeff{}", '{"events":[{]}', '{"sdkVersion":"a\nb"}', '{"events":NaN}']
)
async def test_what_is_no_json_object_is_refused_before_the_key(http: httpx.AsyncClient, body: str) -> None:
    response = await post(http, "/register_events", body, key=None)

    assert (response.status_code, response.json()["code"]) == (400, 3)
    assert response.json()["message"].startswith("proto:")


@pytest.mark.parametrize(
    ("number", "unknown", "integer", "double"),  # the server's statuses, by the field that has the number
    [
        *((number, 200, 400, 400) for number in ("1e+", "-1e-", "1.5e+", "0E-", "-0e+", "1e+ ", '"1e"', '"1e+,"')),
        *((number, 200, 200, 400) for number in ("1e", "1.0e", '"1e,"', '"1e}x"')),
        *((number, 400, 400, 400) for number in ("01", "1.", "1e+x", "1.e+", "-", "-e", "+1")),
        ('"7,5"', 200, 200, 200),
    ],
)
async def test_numbers_in_unknown_fields_are_tokens_only(
    http: httpx.AsyncClient, number: str, unknown: int, integer: int, double: int
) -> None:
    statuses = []
    for event, field in ((goal(), "nope"), (evaluation(), "featureVersion"), (goal(), "value")):
        text = json.dumps(event).replace('"@type"', f'"{field}": {number}, "@type"')
        statuses.append((await post(http, "/register_events", f'{{"events":[{text}]}}')).status_code)

    assert statuses == [unknown, integer, double]


async def test_bytes_that_are_no_text_break_even_the_error(http: httpx.AsyncClient) -> None:
    response = await post(http, "/register_events", b"\xff")

    assert (response.status_code, response.json()) == (500, {"code": 13, "message": "failed to marshal error message"})


@pytest.mark.parametrize(("number", "status"), [("1", 200), ("1e", 400), ("1e+", 400), ("1e999", 400)])
async def test_text_booleans_are_repaired_unless_a_number_is_in_the_way(
    http: httpx.AsyncClient, number: str, status: int
) -> None:
    condition = f'{{"userAttributesUpdated":" TRUE ","nope":{number}}}'

    response = await post(http, "/get_evaluations", f'{{"user":{{"id":"u"}},"userEvaluationCondition":{condition}}}')

    assert response.status_code == status


async def test_no_events(http: httpx.AsyncClient) -> None:
    response = await post(http, "/register_events", {})

    assert response.json() == {"code": 3, "message": "gateway: missing events", "details": []}


async def test_four_mebibytes_of_protobuf_are_the_limit(http: httpx.AsyncClient) -> None:
    response = await post(http, "/register_events", {"sdkVersion": "x" * (4 * 2**20)}, key="wrong")

    assert (response.status_code, response.json()["code"]) == (429, 8)
    assert response.json()["message"] == "grpc: received message larger than max (4194309 vs. 4194304)"


@pytest.mark.parametrize(
    ("path", "key", "status", "code", "message"),
    [
        ("/register_events", None, 401, 16, "gateway: missing APIKey"),
        ("/register_events", " ", 401, 16, "gateway: missing APIKey"),
        ("/register_events", "wrong", 403, 7, "gateway: invalid APIKey"),
        ("/register_events", "Bearer client-key", 403, 7, "gateway: invalid APIKey"),
        ("/register_events", "reader-key", 403, 7, "gateway: bad role"),
        ("/register_events", "disabled-key", 403, 7, "gateway: disabled APIKey"),
        ("/register_events", "closed-key", 403, 7, "gateway: disabled APIKey"),
        ("/get_evaluation", "server-key", 403, 7, "gateway: bad role"),
        ("/get_evaluations", "server-key", 403, 7, "gateway: bad role"),
        ("/get_feature_flags", "client-key", 403, 7, "gateway: bad role"),
        ("/get_segment_users", "disabled-key", 403, 7, "gateway: bad role"),
    ],
)
async def test_keys(http: httpx.AsyncClient, path: str, key: str | None, status: int, code: int, message: str) -> None:
    response = await post(http, path, {}, key=key)

    assert (response.status_code, response.json()) == (status, {"code": code, "message": message, "details": []})
    assert response.headers.get("www-authenticate") == (message if status == 401 else None)


USER = {"user": {"id": "user"}}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/get_evaluation", {}, 400, "gateway: tag is required"),
        ("/get_evaluation", {"tag": "shop"}, 400, "gateway: user is required"),
        ("/get_evaluation", {"tag": "shop", "user": {}}, 400, "gateway: user id is required"),
        ("/get_evaluation", {"tag": "shop"} | USER, 400, "gateway: feature id is required"),
        ("/get_evaluation", {"tag": "shop", "featureId": "no"} | USER, 404, "gateway: feature not found"),
        ("/get_evaluation", {"tag": "other", "featureId": "flag"} | USER, 404, "gateway: evaluation not found"),
        ("/get_evaluations", {}, 400, "gateway: user is required"),
        ("/get_evaluations", {"user": {}}, 400, "gateway: user id is required"),
        ("/get_evaluations", USER, 400, "gateway: tag is required"),
        ("/get_feature_flags", {}, 400, "gateway: source id is required"),
        ("/get_feature_flags", {"sourceId": "PYTHON"}, 400, "gateway: source id is required"),
        ("/get_feature_flags", {"sourceId": 5}, 400, "gateway: sdk version is required"),
        ("/get_segment_users", {}, 400, "gateway: source id is required"),
        ("/get_segment_users", {"sourceId": 1000}, 400, "gateway: sdk version is required"),
    ],
)
async def test_required_fields(http: httpx.AsyncClient, path: str, body: Any, status: int, message: str) -> None:
    key = "server-key" if "flags" in path or "segment" in path else "client-key"

    response = await post(http, path, body, key=key)

    assert (response.status_code, response.json()["message"]) == (status, message)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "message"),
    [
        ("GET", "/register_events", 501, 12, "Method Not Allowed"),
        ("POST", "/ping", 501, 12, "Method Not Allowed"),
        ("PUT", "/get_evaluation", 501, 12, "Method Not Allowed"),
        ("GET", "/nothing", 404, 5, "Not Found"),
        ("POST", "//register_events", 404, 5, "Not Found"),
        ("POST", "/Register_events", 404, 5, "Not Found"),
        ("GET", "/", 400, 3, "Bad Request"),
    ],
)
async def test_other_paths(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: int, message: str
) -> None:
    response = await http.request(method, httpx.URL("http://localhost").copy_with(raw_path=path.encode()))

    assert (response.status_code, response.json()) == (status, {"code": code, "message": message, "details": []})


async def test_trailing_slashes_are_tolerated(http: httpx.AsyncClient) -> None:
    assert (await post(http, "/register_events//", {"events": [goal()]})).status_code == 200
    assert int((await http.get("/ping/")).json()["time"]) == pytest.approx(now(), abs=5)


async def test_a_foreign_host_is_refused(state: GatewayState) -> None:
    for any_host, status in ((False, 400), (True, 200)):
        transport = httpx.ASGITransport(create_app(state, any_host=any_host))
        async with httpx.AsyncClient(transport=transport, base_url="http://evil.test") as client:
            assert (await client.get("/ping")).status_code == status


# Faults


async def test_a_fault_answers_for_some_requests(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.fail(Fault(status=503, requests=2, retry_after=7, headers={"x-why": "test"}))

    responses = [await post(http, "/register_events", {"events": [goal()]}) for _ in range(3)]

    assert [response.status_code for response in responses] == [503, 503, 200]
    assert (responses[0].headers["retry-after"], responses[0].headers["x-why"]) == ("7", "test")
    assert state.faults == []


async def test_a_fault_is_about_one_path(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.fail(Fault(status=500, path="/get_evaluation", body="<html>"))

    assert (await post(http, "/register_events", {"events": [goal()]})).status_code == 200
    assert (await post(http, "/get_evaluation", {})).text == "<html>"


async def test_a_fault_ends_with_its_time(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.fail(Fault(status=500, seconds=0.0))

    assert (await post(http, "/register_events", {"events": [goal()]})).status_code == 200


async def test_a_delay_still_answers_the_truth(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.fail(Fault(delay=0.001))

    assert (await post(http, "/register_events", {"events": [goal()]})).json() == {"errors": {}}


async def test_a_partial_fault_takes_some_events(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.fail(Fault(partial=0.5, requests=1))
    events = [goal() for _ in range(100)]

    errors = (await post(http, "/register_events", {"events": [*events, metrics()]})).json()["errors"]

    assert 20 < len(errors) < 80
    assert {json.dumps(error) for error in errors.values()} == {
        '{"retriable": true, "message": "Failed to publish event"}'
    }
    assert sum(count["accepted"] for count in state.counts().values()) == 101 - len(errors)


async def test_faults_over_http(http: httpx.AsyncClient) -> None:
    made = await http.post("/_dev/faults", json={"status": 503, "requests": 1})
    assert made.json()[0]["status"] == 503
    assert (await http.post("/_dev/faults", json={"stratus": 503})).status_code == 400
    assert (await http.post("/_dev/faults", json={"status": 5})).status_code == 400
    assert (await http.delete("/_dev/faults")).json() == []

    assert (await post(http, "/register_events", {"events": [goal()]})).status_code == 200


@pytest.mark.parametrize(
    "fields", [{"status": 99}, {"status": 10**5000}, {"delay": -1}, {"partial": 2}, {"requests": 0}], ids=range(5)
)
def test_a_wrong_fault_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} must be"):
        Fault(**fields)


# The /_dev/ endpoints


async def test_the_page_and_the_state_show_counts_and_the_newest_events(http: httpx.AsyncClient) -> None:
    await post(http, "/register_events", {"events": [goal(goalId="<b>bold</b>")] * 2})

    page = (await http.get("/_dev/")).text
    shown = (await http.get("/_dev/state")).json()

    assert "&lt;b&gt;bold" in page
    assert shown["counts"]["goal"] == {"accepted": 2, "unique": 1}
    assert shown["newest"][0]["event"]["goalId"] == "<b>bold</b>"
    assert shown["requests"] == {"/register_events": 1}


async def test_the_page_and_the_state_show_the_flags(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("<i>", enabled=False))
    state.set_flag(flag("old"))
    state.archive_flag("old")
    state.flags_problem = "it is <broken>"

    page = (await http.get("/_dev/")).text
    shown = (await http.get("/_dev/state")).json()

    assert "<tr><td>&lt;i&gt;<td>1<td>off" in page
    assert "it is &lt;broken&gt;" in page
    assert [(each["id"], each["version"], each["status"]) for each in shown["flags"]] == [
        ("flag", 1, "on"),
        ("<i>", 1, "off"),
        ("old", 2, "archived"),
    ]
    assert shown["flagsProblem"] == "it is <broken>"


async def test_which_variations_were_served_is_counted_by_different_events(
    http: httpx.AsyncClient, state: GatewayState
) -> None:
    def shown(variation: str, reason: str = "DEFAULT") -> dict[str, Any]:
        return evaluation(featureId="flag", variationId=variation, reason={"type": reason})

    events = [shown("on"), shown("on"), shown("<off>"), shown("", "ERROR_EXCEPTION"), goal()]
    await post(http, "/register_events", {"events": [*events, events[0]]})

    assert state.served() == {"flag": {"on": 2, "<off>": 1, "": 1}}
    assert (await http.get("/_dev/state")).json()["served"] == state.served()
    assert "<td>on<td>on 2, &lt;off&gt; 1, a default 1" in (await http.get("/_dev/")).text
    state.forget_events()
    assert state.served() == {}


async def test_a_flag_is_changed_over_http(http: httpx.AsyncClient, state: GatewayState) -> None:
    state.set_flag(flag("a/b"))

    changed = (await http.patch("/_dev/flags/a/b", json={"enabled": False})).json()

    assert (changed["enabled"], changed["version"]) == (False, 2)
    assert state.flag("a/b") == changed
    assert (await http.patch("/_dev/flags/nothing", json={})).status_code == 404
    for wrong in ("{", "5", '{"enabled": 5}'):
        response = await http.patch("/_dev/flags/flag", content=wrong)
        assert (response.status_code, "a change is an object" in response.json()["error"]) == (400, True)
    assert state.flag("flag")["version"] == 1


@pytest.mark.usefixtures("recursion_limit")
@pytest.mark.parametrize(("levels", "is_shown"), [(50, True), (51, False), (400, False)])
async def test_an_event_that_is_nested_too_deep_to_show_is_taken(
    http: httpx.AsyncClient, state: GatewayState, levels: int, is_shown: bool
) -> None:
    head, tail = f'{{"@type":"{TYPE}MetricsEvent","event":', "}"
    innermost = f'{{"@type":"{TYPE}SizeMetricsEvent","sizeByte":5}}'
    nested = head * levels + innermost + tail * levels

    response = await post(http, "/register_events", f'{{"events":[{{"id":"{new_id()}","event":{nested}}}]}}')

    assert response.json() == {"errors": {}}
    assert bool(state.events[0].event) == is_shown
    assert (await http.get("/_dev/state")).status_code == 200


@pytest.mark.usefixtures("recursion_limit")
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (9_999, "gateway: missing events"),
        (10_000, "proto: exceeded max recursion depth"),
        (20_000, "proto: exceeded max recursion depth"),
    ],
)
async def test_ten_thousand_levels_of_nesting_are_the_limit(
    http: httpx.AsyncClient, opening: str, depth: int, message: str
) -> None:
    closing = "]" if opening == "[" else "}"

    response = await post(http, "/register_events", f'{{"nope":{opening * depth}0{closing * depth}}}')

    assert (response.status_code, response.json()["message"]) == (400, message)


async def test_text_booleans_are_repaired_beside_any_nesting(http: httpx.AsyncClient) -> None:
    body = f'{{"user":{{"id":"u"}},"userAttributesUpdated":"true","nope":{"[" * 9_999}"\\ud800"{"]" * 9_999}}}'

    response = await post(http, "/get_evaluations", body)

    assert (response.status_code, response.json()["message"]) == (400, "gateway: tag is required")


@pytest.mark.parametrize("depth", [501, 5_000, 100_000])
async def test_what_is_nested_too_deep_is_no_change_and_no_fault(http: httpx.AsyncClient, depth: int) -> None:
    body = f'{{"name":{"[" * depth}{"]" * depth}}}'

    for response in (
        await http.patch("/_dev/flags/flag", content=body),
        await http.post("/_dev/faults", content=body),
    ):
        assert response.status_code == 400
        assert "nested more than 500 levels deep" in response.json()["error"]


def test_the_window_is_bounded_and_the_counters_are_exact(state: GatewayState) -> None:
    state.record(RecordedEvent(new_id(), EventKind.GOAL, None) for _ in range(25))

    assert len(state.events) == 10
    assert state.counts()["goal"] == {"accepted": 25, "unique": 25}
    assert [event.id for event in state.newest(3)] == [event.id for event in reversed(state.events[-3:])]
