"""A client with local evaluation, in virtual time: the same values as remote evaluation, other metrics events."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    Client,
    ConfigurationError,
    DecisiveStep,
    FlagChanges,
    LocalEvaluation,
    NotReadyError,
    ProcessorConfig,
    ReasonType,
    User,
)
from tests.clock import VirtualLoop
from tests.fakes import failing_logger
from tests.flag_server import flags_response, segments_response

USER = User("user-1")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def flag(feature_id: str, value: str, kind: str) -> dict[str, Any]:
    return {
        "id": feature_id,
        "enabled": True,
        "tags": ["shop"],
        "version": 3,
        "updatedAt": "1",
        "variationType": kind,
        "variations": [{"id": "v", "name": "name", "value": value}],
        "defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "v"}},
    }


class Server(httpx.AsyncBaseTransport):
    """Responds to polls with its flags, and counts the events by name."""

    def __init__(self) -> None:
        self.flags = [
            flag("bool", "true", "BOOLEAN"),
            flag("yaml", "sizes: [1, 2]", "YAML"),
            flag("empty", "", "STRING"),
        ]
        self.down = False
        self.bodies: dict[str, bytes] = {}  # sent instead of the response, by path
        self.events: Counter[tuple[str, int]] = Counter()
        self.paths: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        self.paths.add(request.url.path)
        if request.url.path == "/register_events":
            self.events.update(name_of(each["event"]) for each in body["events"])
            return httpx.Response(200, json={})
        if self.down:
            return httpx.Response(503)
        if request.url.path in self.bodies:
            return httpx.Response(200, content=self.bodies[request.url.path])
        if request.url.path == "/get_feature_flags":
            return httpx.Response(200, json=flags_response(self.flags))
        return httpx.Response(200, json=segments_response())

    def client(self, **options: Any) -> Client:
        given = {"endpoint": "127.0.0.1", "api_key": "key", "tag": "shop", "local_evaluation": LocalEvaluation()}
        return Client(**given | options, http=httpx.AsyncClient(transport=self))


def name_of(event: dict[str, Any]) -> tuple[str, int]:
    message = event.get("event", event)
    return message["@type"].rpartition(".")[2], message.get("apiId", 0)


POLLED = {(name, api_id): 1 for name in ("LatencyMetricsEvent", "SizeMetricsEvent") for api_id in (4, 5)}


async def test_flags_are_evaluated_here_with_a_latency_and_an_event_each() -> None:
    server = Server()
    async with server.client() as client:
        await client.wait_ready()

        details = await client.bool_variation_details(USER, "bool", False)
        assert await client.json_variation(USER, "yaml", {"sizes": [0]}) == {"sizes": [1, 2]}
        assert await client.string_variation(USER, "empty", "default") == ""

    assert (details.value, details.feature_version, details.variation_id) == (True, 3, "v")
    assert (details.variation_name, details.user_id, details.reason.type) == ("name", "user-1", ReasonType.DEFAULT)
    assert server.events == {**POLLED, ("EvaluationEvent", 0): 3, ("LatencyMetricsEvent", 100): 3}
    assert "/get_evaluation" not in server.paths


async def test_without_metrics_only_evaluation_events_are_sent() -> None:
    server = Server()
    async with server.client(events=ProcessorConfig(metrics=False)) as client:
        await client.wait_ready()
        for _ in range(101):  # one of them gives the loop its turn
            assert await client.bool_variation(USER, "bool", False)
        assert await client.int_variation(USER, "bool", 7) == 7
        assert await client.bool_variation(USER, "missing", True)

    assert server.events == {("EvaluationEvent", 0): 103}
    assert client.statistics().metrics.pushed == 0


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_a_log_filter_that_raises_ends_no_poll(error: type[BaseException]) -> None:
    server = Server()
    server.down = True
    async with server.client(events=ProcessorConfig(logger=failing_logger(error))) as client:
        client.on_change(lambda _: {}["a bug of the application's"])
        await asyncio.sleep(300)  # each failed poll is logged, or would be
        server.down = False
        await client.wait_ready()

        assert await client.bool_variation(USER, "bool", False) is True
        assert await client.bool_variation(USER, "unknown", False) is False


async def test_an_unknown_flag_is_an_error_of_the_evaluation() -> None:
    server = Server()
    async with server.client() as client:
        await client.wait_ready()

        details = await client.bool_variation_details(USER, "unknown", True)

    assert details.reason.type is ReasonType.ERROR_FLAG_NOT_FOUND
    assert server.events == {**POLLED, ("EvaluationEvent", 0): 1, ("InternalSdkErrorMetricsEvent", 100): 1}


async def test_before_flags_have_arrived_defaults_are_served_without_metrics() -> None:
    server = Server()
    server.down = True
    async with server.client() as client:
        details = await client.bool_variation_details(USER, "bool", True)
        statistics = client.statistics().local_evaluation
        with pytest.raises(NotReadyError):
            client.export_snapshot()

        assert statistics is not None
        assert not statistics.ready
    assert details.reason.type is ReasonType.ERROR_CACHE_NOT_FOUND
    assert server.events[("EvaluationEvent", 0)] == 1
    assert not [api_id for _, api_id in server.events if api_id == 100]


async def test_changes_and_snapshots_go_through_the_client() -> None:
    server = Server()
    heard: list[FlagChanges] = []
    async with server.client() as client:
        client.on_change(heard.append)
        await client.wait_ready()
        saved = client.export_snapshot()
        statistics = client.statistics().local_evaluation
    server.down = True
    async with server.client(local_evaluation=LocalEvaluation(bootstrap=saved)) as client:
        await client.wait_ready()
        assert await client.bool_variation(USER, "bool", False) is True

    assert statistics is not None
    assert statistics.flags == 3
    assert heard == [FlagChanges(added=frozenset({"bool", "yaml", "empty"}))]


@pytest.mark.parametrize("path", ["/get_feature_flags", "/get_segment_users"])
@pytest.mark.parametrize("body", [b"{}", b'{"forceUpdate":true}', b"<html>", b"[]", b""], ids=repr)
async def test_a_body_that_is_no_response_to_a_poll_changes_nothing(path: str, body: bytes) -> None:
    server = Server()
    heard: list[FlagChanges] = []
    async with server.client() as client:
        await client.wait_ready()
        client.on_change(heard.append)
        server.bodies[path] = body
        await asyncio.sleep(70)
        statistics = client.statistics().local_evaluation
        assert statistics is not None
        assert (statistics.flags, statistics.failed_polls > 0, statistics.last_error != "") == (3, True, True)
        assert await client.bool_variation(USER, "bool", False) is True

        server.bodies.clear()
        server.flags = server.flags[:1]
        await asyncio.sleep(70)
        statistics = client.statistics().local_evaluation
        assert statistics is not None
        assert (statistics.flags, statistics.last_error) == (1, "")
    assert heard == [FlagChanges(removed=frozenset({"yaml", "empty"}))]


@pytest.mark.parametrize("feature_id", ["bool", "yaml", "unknown"])
async def test_an_explanation_has_the_answer_of_the_variation(feature_id: str) -> None:
    server = Server()
    async with server.client() as client:
        await client.wait_ready()
        details = await client.json_variation_details(USER, feature_id, None)

        explanation = client.explain(USER, feature_id)

    assert explanation.reason == details.reason
    assert explanation.feature_version == details.feature_version
    assert (explanation.variation_id, explanation.variation_name) == (details.variation_id, details.variation_name)
    assert explanation.feature_id == feature_id
    assert (explanation.user_id, explanation.tag) == ("user-1", "shop")
    assert bool(explanation.error) == (feature_id == "unknown")


async def test_an_explanation_makes_no_event_and_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    async with server.client() as client:
        await client.wait_ready()
        caplog.clear()
        before = client.statistics().total

        assert client.explain(USER, "bool").variation_value == "true"
        assert str(client.explain(USER, "unknown")).endswith("\n  no such flag with the tag 'shop': the default")

        assert client.statistics().total == before
        assert not caplog.records


async def test_an_explanation_is_of_the_flags_of_the_moment() -> None:
    server = Server()
    server.down = True
    client = server.client()
    with pytest.raises(NotReadyError, match=r"no flags have arrived yet: await wait_ready\(\) first"):
        client.explain(USER, "bool")
    async with client:
        with pytest.raises(NotReadyError):
            client.explain(USER, "bool")
        server.down = False
        await client.wait_ready()
        assert client.explain(USER, "bool").decided_by is DecisiveStep.DEFAULT
        server.flags[0] |= {"enabled": False, "offVariation": "v", "updatedAt": "2"}
        await asyncio.sleep(70)
        assert client.explain(USER, "bool").decided_by is DecisiveStep.OFF

    assert client.explain(USER, "bool").decided_by is DecisiveStep.OFF  # closed, with the flags that have arrived


@pytest.mark.parametrize(
    ("user", "feature_id", "error", "words"),
    [
        ("user-1", "bool", TypeError, "user must be a User, not str"),
        (USER, 5, TypeError, "feature_id must be a str, not int"),
        (USER, "", ValueError, "feature_id must not be empty"),
        (USER, "\ud800", ValueError, "feature_id has a lone surrogate"),
    ],
)
async def test_an_explanation_needs_a_user_and_a_flag(user: Any, feature_id: Any, error: Any, words: str) -> None:
    async with Server().client() as client:
        await client.wait_ready()
        with pytest.raises(error, match=words):
            client.explain(user, feature_id)


async def test_a_tight_loop_of_questions_lets_events_flow() -> None:
    server = Server()
    async with server.client() as client:
        await client.wait_ready()
        for _ in range(5000):
            await client.bool_variation(USER, "bool", False)

        assert client.statistics().total.delivered > 0


def test_local_evaluation_needs_no_tag() -> None:
    assert repr(Server().client(tag="")) == "<Client new>"


def test_something_else_than_local_evaluation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Client\.local_evaluation must be a LocalEvaluation, not True"):
        Server().client(local_evaluation=True)


async def test_a_client_of_the_gateway_has_no_flags_to_export_or_watch() -> None:
    client = Server().client(local_evaluation=None)

    assert client.statistics().local_evaluation is None
    with pytest.raises(ConfigurationError, match="local_evaluation is not set"):
        client.export_snapshot()
    with pytest.raises(ConfigurationError, match="local_evaluation is not set"):
        client.on_change(print)
    with pytest.raises(ConfigurationError, match="local_evaluation is not set: the gateway evaluates the flags"):
        client.explain(USER, "bool")


async def test_a_callback_of_changes_can_be_cancelled_and_its_errors_are_counted() -> None:
    server, seen = Server(), list[FlagChanges]()
    async with server.client() as client:
        subscription = client.on_change(seen.append)
        failing = client.on_change(lambda _: {}["a bug of the application's"])
        await client.wait_ready()
        subscription.cancel()
        failing.cancel()
        server.flags = server.flags[:1]
        await asyncio.sleep(100)

        assert client.statistics().local_evaluation.flags == 1  # type: ignore[union-attr]
        assert client.statistics().callback_errors == 1
    assert [len(changes.added) for changes in seen] == [3]


async def test_a_disabled_client_has_no_flags_and_hears_of_no_change() -> None:
    client = Client.disabled()

    client.on_change(print).cancel()
    with pytest.raises(TypeError, match="on_change takes a function"):
        client.on_change(None)  # type: ignore[arg-type]
    assert client.statistics().callback_errors == 0
    assert client.statistics().local_evaluation is None
    with pytest.raises(NotReadyError, match="the client is disabled"):
        client.export_snapshot()
    with pytest.raises(NotReadyError, match="the client is disabled"):
        client.explain(USER, "bool")


def test_the_environment_may_ask_for_local_evaluation() -> None:
    environ = {"BUCKETEER_API_ENDPOINT": "127.0.0.1", "BUCKETEER_API_KEY": "key", "BUCKETEER_LOCAL_EVALUATION": "1"}

    assert Client.from_env(environ).statistics().local_evaluation is not None


def test_a_start_that_fails_for_the_bootstrap_leaves_nothing_behind() -> None:
    client = Server().client(local_evaluation=LocalEvaluation(bootstrap=b"no snapshot"))

    async def story() -> None:
        with pytest.raises(ConfigurationError):
            await client.start()
        assert repr(client) == "<Client closed>"
        assert (await client.aclose()).complete
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
