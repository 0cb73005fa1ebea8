"""The client over httpx against the gateway in the same process, in virtual time: values, defaults, events, life."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import (
    Client,
    ClosedError,
    ConfigurationError,
    DrainReport,
    EvaluationDetails,
    EventKind,
    Fate,
    LocalEvaluation,
    ProcessorConfig,
    Reason,
    ReasonType,
    RefusedReason,
    User,
    WrongLoopError,
)
from bucketeer_async._evaluation import Snapshot, compile_flag, evaluate
from bucketeer_async._flags._conversion import json_like
from bucketeer_async.gateway import GatewayState, create_app
from tests.clock import VirtualLoop

USER = User("user-of-the-test", {"plan": "attribute-of-the-test"})
VALUES = {"bool": "true", "int": "42", "float": "1.5", "string": "blue", "object": '{"a": [1]}', "list": "[1, 2]"}
UNKNOWN = Reason(ReasonType.ERROR_FLAG_NOT_FOUND)

Way = Callable[[httpx.Request], Awaitable[httpx.Response]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def definition(feature_id: str, value: str, tag: str = "shop") -> dict[str, Any]:
    """Return a flag that serves a value by a rule, to users with this plan."""
    served = {"type": "FIXED", "fixedStrategy": {"variation": f"{feature_id}-id"}}
    clause = {"id": "clause-1", "attribute": "plan", "operator": "EQUALS", "values": [USER.attributes["plan"]]}
    return {
        "id": feature_id,
        "version": 7,
        "enabled": True,
        "tags": [tag],
        "variationType": "STRING",
        "variations": [{"id": f"{feature_id}-id", "name": f"{feature_id}-name", "value": value}],
        "rules": [{"id": "rule-1", "strategy": served, "clauses": [clause]}],
        "defaultStrategy": served,
        "offVariation": f"{feature_id}-id",
    }


async def fair(request: httpx.Request, way: Way) -> httpx.Response:
    return await way(request)


def late(seconds: float) -> Callable[[httpx.Request, Way], Awaitable[httpx.Response]]:
    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(seconds)
        return await way(request)

    return weather


def says(status: int, body: Any = None) -> Callable[[httpx.Request, Way], Awaitable[httpx.Response]]:
    async def weather(_request: httpx.Request, _way: Way) -> httpx.Response:
        return httpx.Response(status, json=body)

    return weather


async def refused(request: httpx.Request, _way: Way) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


class World(httpx.AsyncBaseTransport):
    """A gateway, a client, and the faults of the requests between them."""

    client: Client

    def __init__(self) -> None:
        flags = [definition(name, value) for name, value in VALUES.items()]
        self.state = GatewayState(flags=[*flags, definition("elsewhere", "true", tag="other")])
        self._gateway = httpx.ASGITransport(create_app(self.state))
        self.weather = fair
        self.events_weather = fair
        self.questions = 0
        self.sizes: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/get_evaluation":
            return await self.events_weather(request, self._gateway.handle_async_request)
        self.questions += 1
        response = await self.weather(request, self._gateway.handle_async_request)
        self.sizes.append(len(await response.aread()))
        return response

    async def events(self) -> dict[str, list[dict[str, Any]]]:
        """Return the names of the events stored since the last call; for metrics, the names of their messages."""
        await self.client.flush()
        found: dict[str, list[dict[str, Any]]] = {}
        for each in self.state.events:
            event = each.event["event"] if each.kind is EventKind.METRICS else each.event
            name = str(event.get("@type", each.kind)).rpartition(".")[2]
            found.setdefault(name, []).append(event)
        self.state.forget_events()
        return found

    async def counts(self) -> dict[str, int]:
        return {name: len(events) for name, events in (await self.events()).items()}


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    here = World()
    async with httpx.AsyncClient(transport=here) as http:
        options = {"endpoint": "http://127.0.0.1", "api_key": "client-key", "tag": "shop", "http": http} | options
        async with Client(**options) as here.client:
            yield here


# Values


async def test_every_type_of_flag_is_answered() -> None:
    async with world() as here:
        client = here.client

        assert await client.bool_variation(USER, "bool", False) is True
        assert await client.int_variation(USER, "int", 0) == 42
        assert await client.int_variation(USER, "float", 0) == 1
        assert await client.float_variation(USER, "float", 0.0) == 1.5
        assert await client.string_variation(USER, "string", "red") == "blue"
        assert await client.string_variation(USER, "bool", "red") == "true"
        assert await client.json_variation(USER, "object", {"b": 1}) == {"a": [1]}
        assert await client.json_variation(USER, "list", None) == [1, 2]


@pytest.mark.parametrize(
    ("ask", "feature_id", "default", "value"),
    [
        (Client.bool_variation_details, "bool", False, True),
        (Client.int_variation_details, "int", 0, 42),
        (Client.float_variation_details, "float", 0, 1.5),
        (Client.string_variation_details, "string", "", "blue"),
        (Client.json_variation_details, "object", {}, {"a": [1]}),
    ],
)
async def test_details_say_where_the_value_comes_from(ask: Any, feature_id: str, default: Any, value: Any) -> None:
    async with world() as here:
        details = await ask(here.client, USER, feature_id, default)

    assert details == EvaluationDetails(
        feature_id=feature_id,
        value=value,
        reason=Reason(ReasonType.RULE, "rule-1"),
        user_id=USER.id,
        feature_version=7,
        variation_id=f"{feature_id}-id",
        variation_name=f"{feature_id}-name",
    )


async def test_an_answer_makes_an_evaluation_event_and_the_request_two_metrics_events() -> None:
    async with world() as here:
        here.weather = late(0.25)
        await here.client.bool_variation(USER, "bool", False)

        events = await here.events()

    assert events.keys() == {"evaluation", "LatencyMetricsEvent", "SizeMetricsEvent"}
    [evaluation], [latency], [size] = (
        events[name] for name in ("evaluation", "LatencyMetricsEvent", "SizeMetricsEvent")
    )
    assert evaluation["featureId"] == "bool"
    assert evaluation["featureVersion"] == 7
    assert evaluation["variationId"] == "bool-id"
    assert evaluation["userId"] == USER.id
    assert evaluation["reason"] == {"type": "RULE", "ruleId": "rule-1"}
    assert evaluation["tag"] == "shop"
    assert latency["latencySecond"] == 0.25
    assert latency["apiId"] == size["apiId"] == "GET_EVALUATION"
    assert latency["labels"] == size["labels"] == {"tag": "shop"}
    assert size["sizeByte"] == here.sizes[0]


async def test_identical_questions_share_a_request_and_have_an_event_each() -> None:
    async with world() as here:
        here.weather = late(0.25)

        await asyncio.gather(*(here.client.bool_variation(USER, "bool", False) for _ in range(10)))

        assert here.questions == 1
        assert await here.counts() == {"evaluation": 10, "LatencyMetricsEvent": 1, "SizeMetricsEvent": 1}


async def test_a_yaml_flag_is_json() -> None:
    fields = {
        "id": "yaml",
        "enabled": True,
        "variationType": "YAML",
        "variations": [{"id": "v", "value": "colour: blue\nsizes: [1, 2]"}],
        "defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "v"}},
    }
    served = evaluate(Snapshot({"yaml": compile_flag(fields)}, {}), USER, "yaml")

    assert json_like({})(served.variation.value) == {"colour": "blue", "sizes": [1, 2]}


# Defaults


@pytest.mark.parametrize(
    ("weather", "reason", "message"),
    [
        (says(404, {"code": 5, "message": "no"}), ReasonType.ERROR_FLAG_NOT_FOUND, "NotFoundErrorMetricsEvent"),
        (says(400), ReasonType.ERROR_EXCEPTION, "BadRequestErrorMetricsEvent"),
        (says(302), ReasonType.ERROR_EXCEPTION, "RedirectionRequestExceptionEvent"),
        (says(429), ReasonType.ERROR_EXCEPTION, "UnknownErrorMetricsEvent"),
        (says(499), ReasonType.ERROR_EXCEPTION, "ClientClosedRequestErrorMetricsEvent"),
        (says(500), ReasonType.ERROR_EXCEPTION, "InternalServerErrorMetricsEvent"),
        (says(503), ReasonType.ERROR_EXCEPTION, "ServiceUnavailableErrorMetricsEvent"),
        (says(504), ReasonType.ERROR_EXCEPTION, "TimeoutErrorMetricsEvent"),
        (says(200, []), ReasonType.ERROR_EXCEPTION, "InternalSdkErrorMetricsEvent"),
        (refused, ReasonType.ERROR_EXCEPTION, "NetworkErrorMetricsEvent"),
        (late(60.0), ReasonType.ERROR_EXCEPTION, "TimeoutErrorMetricsEvent"),
    ],
    ids=["404", "400", "302", "429", "499", "500", "503", "504", "list", "refused", "late"],
)
async def test_a_failure_is_answered_with_the_default_and_told_once(
    weather: Any, reason: ReasonType, message: str
) -> None:
    async with world() as here:
        here.weather = weather

        details = await here.client.int_variation_details(USER, "int", 5)
        events = await here.events()

    assert replace(details, error="") == EvaluationDetails(
        feature_id="int", value=5, reason=Reason(reason), user_id=USER.id
    )
    assert details.error
    assert events.keys() == {"evaluation", message}
    [evaluation], [error] = events["evaluation"], events[message]
    assert evaluation["reason"] == {"type": reason.name}
    assert evaluation["featureId"] == "int"
    assert "variationId" not in evaluation
    assert error["apiId"] == "GET_EVALUATION"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_logged_and_no_metrics_event(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.weather = says(status)

        assert (await here.client.bool_variation_details(USER, "bool", False)).reason.type is ReasonType.ERROR_EXCEPTION

        assert await here.counts() == {"evaluation": 1}
    assert "remote evaluation needs a client key" in caplog.text


@pytest.mark.parametrize("feature_id", ["unknown", "elsewhere"])
async def test_a_flag_that_is_unknown_or_of_another_tag_is_not_found(feature_id: str) -> None:
    async with world() as here:
        details = await here.client.bool_variation_details(USER, feature_id, True)

    assert details.value is True
    assert details.reason == UNKNOWN


@pytest.mark.parametrize(
    "evaluation", [None, {"featureId": "another", "variationId": "v", "variationValue": "1"}], ids=["none", "another"]
)
async def test_an_answer_to_no_question_is_answered_with_the_default(evaluation: Any) -> None:
    async with world() as here:
        here.weather = says(200, {"evaluation": evaluation})

        details = await here.client.int_variation_details(USER, "int", 5)
        counts = await here.counts()

    assert details.reason.type is ReasonType.ERROR_EXCEPTION
    assert counts == dict.fromkeys(
        ["evaluation", "LatencyMetricsEvent", "SizeMetricsEvent", "InternalSdkErrorMetricsEvent"], 1
    )


async def test_a_value_of_the_wrong_type_is_no_error_of_the_request() -> None:
    async with world() as here:
        details = await here.client.bool_variation_details(USER, "string", False)
        counts = await here.counts()

    assert details == EvaluationDetails(
        feature_id="string",
        value=False,
        reason=Reason(ReasonType.ERROR_WRONG_TYPE),
        user_id=USER.id,
        error="the value is not a bool",
    )
    assert counts == {"evaluation": 1, "LatencyMetricsEvent": 1, "SizeMetricsEvent": 1}


class Gone:
    """A proxy whose object is gone: it cannot even say what it is."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("working outside of the request")

    @__class__.setter
    def __class__(self, _cls: type) -> None: ...


NO_USER, NO_FLAG = ReasonType.ERROR_USER_ID_NOT_SPECIFIED, ReasonType.ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED


@pytest.mark.parametrize(
    ("user", "feature_id", "reason", "error"),
    [
        ("user-of-the-test", "bool", NO_USER, "user must be a User, not str"),
        (None, "bool", NO_USER, "user must be a User, not NoneType"),
        (None, "", NO_USER, "user must be a User, not NoneType"),
        (USER, "", NO_FLAG, "feature_id must not be empty"),
        (USER, None, NO_FLAG, "feature_id must be a str, not NoneType"),
        (USER, ["bool"], NO_FLAG, "feature_id must be a str, not list"),
        (USER, "\ud800", NO_FLAG, "feature_id has a lone surrogate at index 0; it must be valid Unicode"),
    ],
)
@pytest.mark.parametrize("disabled", [False, True])
async def test_a_wrong_user_or_flag_id_is_answered_without_a_request_and_without_an_event(
    user: Any, feature_id: Any, reason: ReasonType, error: str, disabled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        client = Client.disabled() if disabled else here.client
        async with client:
            found = await client.bool_variation_details(user, feature_id, True)

        assert here.questions == 0
        assert here.client.statistics().total.pushed == 0
    assert found == EvaluationDetails(
        feature_id=feature_id if isinstance(feature_id, str) else "",
        value=True,
        reason=Reason(reason),
        user_id=USER.id if user is USER else "",
        error=error,
    )
    flag = repr(feature_id) if isinstance(feature_id, str) else f"of type {type(feature_id).__name__}"
    assert f"the evaluation of flag {flag} returned the default: {error}" in caplog.text
    assert "of-the-test" not in caplog.text


class Evil(str):
    """An id whose own code raises."""

    __slots__ = ()

    def isascii(self) -> bool:
        raise RuntimeError("isascii")

    def __str__(self) -> str:
        raise RuntimeError("str")


async def test_no_code_of_a_flag_id_makes_a_variation_raise() -> None:
    gone: Any = Gone()
    async with world() as here:
        for feature_id, shown in ((gone, ""), (Evil("bool"), "bool")):
            details = await here.client.bool_variation_details(USER, feature_id, True)
            assert (details.value, details.reason.type, details.feature_id) == (True, NO_FLAG, shown)
            assert details.error == "feature_id raised RuntimeError"


async def test_a_user_that_cannot_say_what_it_is_is_no_user() -> None:
    gone: Any = Gone()
    async with world() as here:
        details = await here.client.bool_variation_details(gone, "bool", True)
        receipt = await here.client.track(gone, "goal")

    assert (details.value, details.error) == (True, "user must be a User, not Gone")
    assert receipt.outcome is not None
    assert receipt.outcome.reason is RefusedReason.INVALID


@pytest.mark.parametrize("disabled", [False, True])
async def test_a_strict_client_raises_for_a_user_or_a_flag_id_of_the_wrong_type(disabled: bool) -> None:
    nobody: Any = "user-42"
    number: Any = 5
    async with world(events=ProcessorConfig(strict=True)) as here:
        client = Client.disabled(strict=True) if disabled else here.client
        async with client:
            with pytest.raises(TypeError, match="user must be a User, not str"):
                await client.bool_variation(nobody, "bool", False)
            with pytest.raises(TypeError, match="feature_id must be a str, not int"):
                await client.bool_variation(USER, number, False)
            with pytest.raises(TypeError, match="user must be a User, not str"):
                await client.track(nobody, "goal")
            with pytest.raises(TypeError, match="user must be a User, not str"):
                client.track_nowait(nobody, "goal")
            assert await client.bool_variation(USER, "", True) is True


def test_a_disabled_client_from_the_environment_is_as_strict_as_the_other() -> None:
    async def ask() -> None:
        client = Client.from_env({"BUCKETEER_DISABLED": "1"}, events=ProcessorConfig(strict=True))
        async with client:
            await client.track("user-42", "goal")  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="user must be a User, not str"):
        asyncio.run(ask())


async def test_a_variation_never_raises_because_of_its_own_events() -> None:
    large = User("user", {"attribute": "x" * 2**20})
    async with world(events=ProcessorConfig(strict=True)) as here:
        assert await here.client.bool_variation(large, "bool", False) is True
        assert await here.client.bool_variation(large, "unknown", True) is True
        with pytest.raises(ValueError, match="flush_max_bytes"):
            await here.client.track(large, "goal")

        refused = here.client.statistics().evaluation.refused_by
    assert refused == {RefusedReason.TOO_LARGE: 2}


@pytest.mark.parametrize(
    ("ask", "default"),
    [
        (Client.bool_variation, 1),
        (Client.int_variation, True),
        (Client.int_variation, 1.0),
        (Client.float_variation, "1"),
        (Client.string_variation, None),
        (Client.json_variation, {1}),
    ],
)
async def test_a_default_of_the_wrong_type_is_an_error_of_the_program(ask: Any, default: Any) -> None:
    async with world() as here:
        with pytest.raises(TypeError, match="default must be"):
            await ask(here.client, USER, "bool", default)
        assert here.questions == 0


async def test_a_cancelled_caller_gets_nothing_and_the_request_ends_by_itself() -> None:
    async with world() as here:
        here.weather = late(1.0)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await here.client.bool_variation(USER, "bool", False)
        assert now() == pytest.approx(0.1)
        await asyncio.sleep(1.0)

        assert await here.counts() == {"LatencyMetricsEvent": 1, "SizeMetricsEvent": 1}


async def test_a_question_takes_at_most_its_timeout_and_the_client_is_as_good_as_before() -> None:
    async with world(timeout=0.5) as here:
        here.weather = late(60.0)
        assert await here.client.int_variation(USER, "int", 5) == 5
        assert now() == 0.5

        here.weather = fair
        assert await here.client.int_variation(USER, "int", 5) == 42


async def test_defaults_are_logged_once_in_a_while_per_flag_and_without_users(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as here:
        here.weather = says(503)
        for _ in range(10):
            await here.client.bool_variation(USER, "bool", False)
        await here.client.bool_variation(USER, "unknown", False)

    lines = [record.getMessage() for record in caplog.records if "returned the default" in record.getMessage()]
    assert lines == [
        f"the evaluation of flag {flag} returned the default: the gateway answered 503"
        for flag in ("'bool'", "'unknown'")
    ]
    assert "of-the-test" not in caplog.text
    assert "client-key" not in caplog.text


async def test_more_flags_than_are_told_apart_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.weather = says(503)
        for number in range(300):
            await here.client.bool_variation(USER, f"flag-{number}", False)

    lines = [record for record in caplog.records if "returned the default" in record.getMessage()]
    assert len(lines) == 201


@pytest.mark.parametrize(
    ("weather", "error"),
    [
        (fair, "the gateway answered 404: gateway: feature not found (no flag with this id has the tag 'shop')"),
        (says(404), "the gateway answered 404 (not by a Bucketeer gateway: is the endpoint right?)"),
        (says(401), "the gateway answered 401 (remote evaluation needs a client key that is enabled)"),
        (refused, "the gateway cannot be reached (ConnectError: refused)"),
    ],
)
async def test_the_details_say_why_the_default_is_served(
    weather: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        here.weather = weather
        details = await here.client.bool_variation_details(USER, "unknown", True)

    assert details.error == error
    assert f"the evaluation of flag 'unknown' returned the default: {error}" in caplog.text


# Bounds


async def test_error_metrics_of_an_outage_are_bounded_and_never_feed_on_themselves() -> None:
    config = ProcessorConfig(queue_capacity=200, flush_size=10)
    async with world(events=config) as here:
        here.weather = here.events_weather = says(503)
        for _ in range(100):
            await here.client.bool_variation(USER, "bool", False)
        await asyncio.sleep(600)

        statistics = here.client.statistics()
        assert statistics.evaluation.accepted == 100
        assert statistics.metrics.pushed == 20

        here.weather = here.events_weather = fair
        await here.client.flush()
        here.weather = says(503)
        await here.client.bool_variation(USER, "bool", False)
        assert here.client.statistics().metrics.pushed == 21


@given(
    st.lists(
        st.tuples(
            st.sampled_from([fair, says(404), says(503), refused, late(60.0)]),
            st.sampled_from(["bool", "string", "unknown", ""]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_every_question_has_one_evaluation_event_and_every_request_its_metrics(
    script: list[tuple[Any, str, bool]],
) -> None:
    async def story() -> None:
        async with world() as here:
            asked = valid = 0
            for weather, feature_id, hasty in script:
                here.weather = weather
                with anyio.move_on_after(0.0 if hasty else None) as scope:
                    value = await here.client.bool_variation(USER, feature_id, False)
                    assert value is (weather is fair and feature_id == "bool")
                valid += bool(feature_id) and not scope.cancelled_caught
                asked += 1
                await asyncio.sleep(10.0)  # until no request is under way
            statistics = here.client.statistics()
            assert asked == len(script)
            assert statistics.evaluation.pushed == statistics.evaluation.accepted == valid
            named = Counter(await here.counts())
            errors = sum(count for name, count in named.items() if "Error" in name)
            assert named["LatencyMetricsEvent"] == named["SizeMetricsEvent"]
            assert statistics.remote_evaluation is not None
            assert named["LatencyMetricsEvent"] + errors == here.questions - statistics.remote_evaluation.second_tries

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())


# Goals


async def test_goals_are_tracked() -> None:
    async with world() as here:
        receipt = await here.client.track(USER, "purchase", value=49.5)
        other = here.client.track_nowait(USER, "visit")
        goals = (await here.events())["goal"]

        assert receipt.accepted
        assert other.accepted
        assert (await receipt.settled()).fate is Fate.DELIVERED
    assert [(event["goalId"], event.get("value")) for event in goals] == [("purchase", 49.5), ("visit", None)]


async def test_a_goal_of_nobody_is_refused() -> None:
    async with world() as here:
        receipt = await here.client.track(None, "purchase")  # type: ignore[arg-type]

    assert receipt.outcome is not None
    assert receipt.outcome.reason == RefusedReason.INVALID


# Lifecycle


async def test_a_client_that_is_not_running_answers_defaults(caplog: pytest.LogCaptureFixture) -> None:
    here = World()
    async with httpx.AsyncClient(transport=here) as http:
        client = Client(endpoint="http://127.0.0.1", api_key="client-key", tag="shop", http=http)
        assert repr(client) == "<Client new>"
        assert (await client.bool_variation_details(USER, "bool", False)).reason.type is ReasonType.ERROR_EXCEPTION
        assert "the client is not started" in caplog.text
        with pytest.raises(ClosedError):
            await client.wait_ready()

        await client.start()
        await client.wait_ready()
        assert await client.bool_variation(USER, "bool", False) is True
        report = await client.aclose()

        assert report.complete
        assert report.total.delivered == 3
        assert report == await client.aclose()
        assert await client.bool_variation(USER, "bool", False) is False
        assert repr(client) == "<Client closed>"
        assert not http.is_closed
    assert here.questions == 1


@pytest.mark.parametrize("local", [None, LocalEvaluation()], ids=["remote", "local"])
async def test_a_start_that_is_cancelled_at_any_turn_leaves_nothing_behind(local: LocalEvaluation | None) -> None:
    options: dict[str, Any] = {"endpoint": "http://127.0.0.1", "api_key": "client-key", "tag": "shop"}
    before = asyncio.all_tasks()
    async with httpx.AsyncClient(transport=World()) as http:
        for turns in itertools.count():
            client = Client(**options, http=http, local_evaluation=local)
            starting = asyncio.create_task(client.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            if starting.done():
                break
            starting.cancel()
            await asyncio.wait([starting])
            at_once = client.track_nowait(USER, "goal")
            await asyncio.sleep(0.1)
            later = client.track_nowait(USER, "goal")

            assert starting.cancelled()
            assert asyncio.all_tasks() == before
            assert at_once.outcome is not None
            assert at_once.outcome.fate in {Fate.REFUSED, Fate.DELIVERED}
            assert later.outcome is not None
            assert later.outcome.reason == RefusedReason.NOT_RUNNING
        await client.aclose()

    assert turns > 2


async def test_closing_waits_for_questions_and_loses_none_of_their_events() -> None:
    async with world() as here:
        here.weather = late(2.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.client.bool_variation, USER, "bool", False)
            await asyncio.sleep(0.5)

            report = await here.client.aclose()

        assert now() == 2.0
        assert report.evaluation.delivered == 1
        assert report.metrics.delivered == 2
        assert here.state.counts()["evaluation"]["accepted"] == 1


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_client_whose_tasks_are_cancelled_again_and_again_delivers(times: int) -> None:
    before = asyncio.all_tasks()
    async with world() as here:
        here.events_weather = refused
        receipts = [await here.client.track(USER, "goal") for _ in range(10)]
        for _ in range(times):
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await asyncio.sleep(1)
        here.events_weather = fair
        report = await here.client.aclose()

        assert {receipt.outcome.fate for receipt in receipts if receipt.outcome} == {Fate.DELIVERED}
        assert report.total.delivered == 10
        assert asyncio.all_tasks() == before


async def test_closing_with_a_timeout_gives_questions_up() -> None:
    async with world() as here:
        here.weather = late(3.0)
        answers: list[EvaluationDetails[bool]] = []

        async def ask() -> None:
            answers.append(await here.client.bool_variation_details(USER, "bool", False))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await asyncio.sleep(0.5)
            await here.client.aclose(1.0)

        assert now() == 1.5
    assert [each.reason.type for each in answers] == [ReasonType.ERROR_EXCEPTION]


@pytest.mark.parametrize("timeout", ["1", False, math.nan], ids=repr)
async def test_a_wrong_timeout_is_refused_before_anything_happens(timeout: Any) -> None:
    async with world() as here:
        for call in (here.client.aclose, here.client.flush):
            with pytest.raises((TypeError, ValueError), match="timeout must be"):
                await call(timeout)

        assert await here.client.bool_variation(USER, "bool", False) is True
        assert await here.client.flush(math.inf)

    disabled = Client.disabled()
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        await disabled.aclose(timeout)
    assert repr(disabled) == "<Client new>"


def test_another_loop_is_an_error_of_the_program() -> None:
    client = Client(endpoint="127.0.0.1", api_key="client-key", tag="shop", http=httpx.AsyncClient(transport=World()))
    loop = VirtualLoop()
    loop.run_until_complete(client.start())

    async def elsewhere() -> None:
        with pytest.raises(WrongLoopError):
            await client.bool_variation(USER, "bool", False)

    asyncio.run(elsewhere())
    loop.run_until_complete(client.aclose())
    loop.close()


def test_a_client_may_be_made_where_no_loop_runs() -> None:
    assert repr(Client(endpoint="api.example.com", api_key="key", tag="shop")) == "<Client new>"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tag": ""}, r"Client\.tag must not be empty: the gateway .* refuses"),
        ({"tag": None}, r"Client\.tag must be a str"),
        ({"tag": "a\nb"}, r"Client\.tag must be text without control characters"),
        ({"events": 5}, r"Client\.events must be a ProcessorConfig, not 5"),
        ({"events": ProcessorConfig(tag="other")}, r"ProcessorConfig\.tag must be the client's, 'shop', .*'other'"),
        ({"timeout": 0}, r"ApiClient\.timeout must be more than 0"),
        ({"endpoint": ""}, r"ApiClient\.endpoint must be"),
        ({"api_key": ""}, r"ApiClient\.api_key must be"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Client(**{"endpoint": "api.example.com", "api_key": "key", "tag": "shop"} | options)


# Environment variables, and a disabled client


async def test_a_client_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    here = World()
    monkeypatch.setenv("BUCKETEER_API_ENDPOINT", "http://127.0.0.1")
    monkeypatch.setenv("BUCKETEER_API_KEY", "client-key")
    monkeypatch.setenv("BUCKETEER_TAG", "shop")
    monkeypatch.setenv("BUCKETEER_FLUSH_SIZE", "3")
    async with httpx.AsyncClient(transport=here) as http:
        async with Client.from_env(http=http, events=ProcessorConfig(flush_interval=3600.0)) as client:
            assert await client.bool_variation(USER, "bool", False) is True
            await asyncio.sleep(1.0)

            assert client.statistics().total.delivered == 3


def test_the_environment_lacks_a_tag_that_remote_evaluation_needs() -> None:
    with pytest.raises(ConfigurationError, match="not set in the environment: BUCKETEER_TAG"):
        Client.from_env({"BUCKETEER_API_ENDPOINT": "api.example.com", "BUCKETEER_API_KEY": "key"})


def test_the_environment_lacks_everything() -> None:
    with pytest.raises(ConfigurationError, match="not set in the environment: BUCKETEER_API_ENDPOINT, BUCKETEER"):
        Client.from_env({})


@pytest.mark.parametrize("make", [Client.disabled, lambda: Client.from_env({"BUCKETEER_DISABLED": "1"})])
async def test_a_disabled_client_answers_defaults_and_sends_nothing(
    make: Callable[[], Client], caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        await client.wait_ready()
        details = await client.json_variation_details(USER, "object", {"a": 1})
        receipts = [await client.track(USER, "purchase"), client.track_nowait(USER, "visit", value=1)]

        assert details == EvaluationDetails(
            feature_id="object", value={"a": 1}, reason=Reason(ReasonType.CLIENT), user_id=USER.id
        )
        for receipt in receipts:
            outcome = await receipt.settled()
            assert not receipt.accepted
            assert (outcome.fate, outcome.reason) == (Fate.REFUSED, RefusedReason.DISABLED)
        assert await client.flush()
        statistics = client.statistics()
        assert statistics.goal.refused_by[RefusedReason.DISABLED] == 2
        assert statistics.evaluation.refused_by[RefusedReason.DISABLED] == 1
        assert statistics.total.accepted == 0
    assert await client.aclose() == DrainReport()
    assert not caplog.records


async def test_json_of_the_gateway_is_typed_by_its_default() -> None:
    async with world() as here:
        wrong = await here.client.json_variation_details(USER, "list", {"a": 1})

    assert wrong.value == {"a": 1}
    assert wrong.reason.type is ReasonType.ERROR_WRONG_TYPE
    assert json.loads(VALUES["list"]) == [1, 2]
