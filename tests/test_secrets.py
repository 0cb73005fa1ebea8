"""What error trackers see: no repr, and no variable of a traceback, shows the key, a user's id or an attribute.

An error tracker keeps the variables of each frame of a traceback: the texts, what is in lists, tuples and mappings, and
the repr of everything else. The frames of this file, which is the application, are not looked at.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import itertools
import json
import pkgutil
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import bucketeer_async
from bucketeer_async import (
    ApiClient,
    ApiError,
    Client,
    ConfigurationError,
    Evaluation,
    EvaluationDetails,
    EventKind,
    LocalEvaluation,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    RequestTimeoutError,
    RetryPolicy,
    User,
    WrongLoopError,
)
from bucketeer_async._evaluation import EvaluationError, Snapshot, compile_flag, compile_segment
from bucketeer_async._evaluation._clauses import ClauseContext
from bucketeer_async._evaluation._explain import explain
from bucketeer_async._events._encoder import EVENT_ID, EventFactory
from bucketeer_async._events._spool_rows import SpooledEvent
from bucketeer_async._flags._definitions import SegmentDefinition
from bucketeer_async._flags._remote import RemoteEvaluator
from bucketeer_async._flags._snapshot_file import SavedSnapshot
from bucketeer_async._transport._http import Answer, Request
from bucketeer_async.gateway import LocalGateway
from tests.clock import VirtualLoop
from tests.flag_server import FakeMetrics, FlagServer, local

PACKAGE = Path(bucketeer_async.__file__).parent
TESTS = Path(__file__).parent
KEY, ID, VALUE = "key-of-mine", "id-of-the-user", "value-of-an-attribute"
USER = User(ID, {"plan": VALUE})
EVALUATION = {"featureId": "flag", "variationId": "on", "variationValue": "true", "userId": ID}


def assert_secret(*shown: str) -> None:
    for text in shown:
        assert not [secret for secret in (KEY, ID, VALUE) if secret in text], text


# Reprs


def values() -> Iterator[object]:
    """The values of this package that have users, or the key, in them."""
    evaluation = Evaluation(feature_id="f", variation_id="v", reason=Reason(ReasonType.DEFAULT), user_id=ID)
    segment = compile_segment(
        {
            "segmentId": "s",
            "users": [
                {"segmentId": each, "userId": ID, "state": "INCLUDED"} for each in ("s", "another segment of the list")
            ],
        }
    )
    event = EventFactory(tag="", source_id=0, sdk_version="1").goal(USER, "goal", 1.0)
    yield from (USER, evaluation, segment)
    yield EvaluationDetails(feature_id="f", value=1, reason=Reason(ReasonType.DEFAULT), user_id=ID)
    yield Request(method="POST", url="https://a.test", headers={"authorization": KEY}, body=ID.encode(), limit=1)
    yield Answer(ID.encode(), None)
    yield SpooledEvent(1, EventKind.GOAL, event[EVENT_ID].decode(), 0.0, event)
    yield ClauseContext(ID, {"plan": VALUE}, {}, lambda _: False)
    yield compile_flag({"id": "f", "targets": [{"variation": "v", "users": [ID]}]})
    yield compile_flag({"id": "f", "rules": [{"clauses": [{"attribute": "id", "values": [ID]}]}]}).parts
    yield SegmentDefinition(segment, rules=f'["{ID}"]')
    yield SavedSnapshot(tag="", environment=True, saved_at=0.0, features=[ID], segments=[{"users": [ID]}])
    yield LocalEvaluation(bootstrap=ID.encode())
    yield ApiClient(endpoint="a.test", api_key=KEY)


@pytest.mark.parametrize("value", list(values()), ids=lambda value: type(value).__name__)
def test_a_repr_shows_neither_key_nor_user(value: object) -> None:
    assert_secret(repr(value), str(value))


def test_the_repr_of_an_explanation_shows_no_user() -> None:
    clauses = [{"attribute": each, "operator": "IN", "values": [ID, VALUE]} for each in ("id", "plan")]
    rules = [{"clauses": [*clauses, {"attribute": "id", "operator": "SEGMENT", "values": ["s"]}]}]
    flag = {"id": "f", "rules": rules, "targets": [{"variation": "v", "users": [ID]}]}
    segment = compile_segment({"segmentId": "s", "rules": [{"clauses": clauses}]})
    for fields in (flag, flag | {"targets": []}):
        explanation = explain(Snapshot({"f": compile_flag(fields)}, {"s": segment}), USER, "f")

        assert ID in str(explanation)
        assert_secret(repr(explanation))


def test_the_repr_of_a_user_says_that_it_is_one() -> None:
    assert repr(User("u", {"a": "b", "c": "d"})) == "<User with 2 attributes>"


def test_a_user_that_could_not_be_made_has_a_repr() -> None:
    with pytest.raises(TypeError) as caught:
        User(ID, 5)  # type: ignore[arg-type]

    traceback.TracebackException.from_exception(caught.value, capture_locals=True)


def classes() -> Iterator[type]:
    """All classes of the package that have a generated repr. The users and keys of the local gateway are made up."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "bucketeer_async."):
        if module.name.split(".")[1] not in {"gateway", "_proto"}:
            for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if dataclasses.is_dataclass(each) or hasattr(each, "_fields"):
                    yield each


PRIVATE = {
    "actual",
    "api_key",
    "attributes",
    "body",
    "bodies",
    "headers",
    "members",
    "targets",
    "user_id",
    "users",
    "values",
}


def test_fields_with_users_are_in_no_generated_repr() -> None:
    found = set(classes())
    private = {
        (each.__name__, field.name)
        for each in found
        if dataclasses.is_dataclass(each) and each.__repr__.__qualname__ != "object.__repr__"
        for field in dataclasses.fields(each)
        if field.repr and field.name in PRIVATE and each is not User
    }
    tuples = {
        (each.__name__, name)
        for each in found
        if hasattr(each, "_fields") and "__repr__" not in vars(each)
        for name in each._fields
        if name in PRIVATE
    }

    assert len(found) > 30
    assert not private
    assert not {name for name in tuples if name[0] != "SpooledEvent"}


# Tracebacks


def shown_by_a_tracker(value: object, depth: int = 0) -> str:
    """Return what an error tracker shows of a variable."""
    if depth > 5:
        return ""
    match value:
        case str():
            return value
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode("utf-8", "replace")
        case Mapping():
            return " ".join(shown_by_a_tracker(each, depth + 1) for pair in value.items() for each in pair)
        case list() | tuple() | AbstractSet():
            return " ".join(shown_by_a_tracker(each, depth + 1) for each in value)
    return repr(value)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error with the causes that its traceback shows."""
    yield error
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from chain(before)
    for each in getattr(error, "exceptions", ()):
        yield from chain(each)


def assert_no_secret(error: BaseException) -> None:
    """Assert that no frame has a secret, by what the standard library captures and by what trackers show."""
    ours = 0
    for each in chain(error):
        assert_secret(str(each), repr(each))
        captured = traceback.TracebackException.from_exception(each, capture_locals=True)
        for summary in captured.stack:
            if not Path(summary.filename).is_relative_to(TESTS):
                assert_secret(*(summary.locals or {}).values())
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not Path(frame.f_code.co_filename).is_relative_to(TESTS):
                assert_secret(shown_by_a_tracker(frame.f_locals))
                ours += Path(frame.f_code.co_filename).is_relative_to(PACKAGE)
    assert ours > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ApiClient(endpoint="api.example.com/path", api_key=KEY),
        lambda: Client(endpoint="api.example.com", api_key=KEY, tag="shop", max_connections=0),
        lambda: Client(endpoint="api.example.com", api_key=KEY, tag=" "),
        lambda: Client.from_env({"BUCKETEER_API_ENDPOINT": "a/b", "BUCKETEER_API_KEY": KEY, "BUCKETEER_TAG": "shop"}),
    ],
    ids=["API client", "client", "tag", "environment"],
)
def test_the_traceback_of_a_wrong_option_has_no_secret(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert_no_secret(caught.value)


def event_of_mine() -> bytes:
    return EventFactory(tag="shop", source_id=0, sdk_version="1").goal(USER, "goal", 1.0)


class Leaseholder:
    """A processor, as the connections see it."""

    def begin_closing(self) -> None:
        raise AssertionError


async def post_over_a_lease(api: ApiClient) -> None:
    holder = Leaseholder()
    await api.start()
    lease = api.lease(holder.begin_closing)
    try:
        await lease.register_events([event_of_mine()], timeout=5.0)
    finally:
        lease.release()


CALLS: dict[str, Callable[[ApiClient], Any]] = {
    "get_evaluation": lambda api: api.get_evaluation(USER, "flag", tag="shop"),
    "get_evaluations": lambda api: api.get_evaluations(USER, tag="shop"),
    "register_events": lambda api: api.register_events([event_of_mine()]),
    "lease": post_over_a_lease,
}

RESPONSES: dict[str, Callable[[], httpx.Response]] = {
    "500": lambda: httpx.Response(500),
    "401": lambda: httpx.Response(401, json={"code": 16, "message": "gateway: invalid API key"}),
    "503": lambda: httpx.Response(503, headers={"retry-after": "1"}, content=ID),
    "repeats the request": lambda: httpx.Response(400, json={"code": 3, "message": f"gateway: {KEY} {ID}: {VALUE}"}),
    "not JSON": lambda: httpx.Response(200, content=f"<html>{ID} {VALUE}"),
    "not an object": lambda: httpx.Response(200, json=[ID, VALUE]),
    "compressed": lambda: httpx.Response(200, headers={"content-encoding": "br"}, content=ID),
    "no evaluation": lambda: httpx.Response(200, json={"evaluation": [ID], "evaluations": [ID], "errors": [ID]}),
    "unusable": lambda: httpx.Response(
        200,
        json={
            "evaluation": EVALUATION | {"featureVersion": "x"},
            "evaluations": {"evaluations": [EVALUATION | {"variationId": ""}]},
            "errors": {"1": ID},
        },
    ),
    "long": lambda: httpx.Response(200, json={"evaluation": EVALUATION | {"featureId": 1}, "x": [ID] * 30_000}),
}


#: Responses that are fine for some calls: without evaluations, and without errors.
FINE = {("get_evaluations", "long"), ("register_events", "long"), ("lease", "long")}


@pytest.mark.parametrize(("call", "response"), sorted(set(itertools.product(CALLS, RESPONSES)) - FINE))
async def test_the_traceback_of_a_failing_request_has_no_secret(call: str, response: str) -> None:
    transport = httpx.MockTransport(lambda _: RESPONSES[response]())
    async with (
        httpx.AsyncClient(transport=transport) as http,
        ApiClient(endpoint="gateway.test", api_key=KEY, http=http) as api,
    ):
        with pytest.raises(ApiError) as caught:
            await CALLS[call](api)

    assert_no_secret(caught.value)


@pytest.mark.parametrize("call", CALLS)
async def test_the_traceback_of_a_refused_connection_has_no_secret(call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    async with ApiClient(endpoint=f"http://127.0.0.1:{port}", api_key=KEY) as api:
        with pytest.raises(ApiError) as caught:
            await CALLS[call](api)

    assert_no_secret(caught.value)


@pytest.mark.parametrize("call", ["get_evaluation", "get_evaluations", "register_events"])
async def test_the_traceback_of_a_request_without_an_answer_has_no_secret(call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        async with ApiClient(endpoint=endpoint, api_key=KEY, timeout=0.1, max_connections=1) as api:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):  # the second one waits for a connection
                    tasks.start_soon(assert_that_it_times_out, CALLS[call], api)


async def assert_that_it_times_out(call: Callable[[ApiClient], Any], api: ApiClient) -> None:
    with pytest.raises(RequestTimeoutError) as caught:
        await call(api)

    assert_no_secret(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{ID}",
        f"{KEY} {ID} {VALUE}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nx {KEY}'{ID}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{KEY}\r\n",
    ],
    ids=["breaks off", "no status line", "no header", "no chunk"],
)
@pytest.mark.parametrize("call", CALLS)
async def test_the_traceback_of_a_broken_answer_has_no_secret(call: str, answer: str) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, ApiClient(endpoint=endpoint, api_key=KEY) as api:
        with pytest.raises(ApiError) as caught:
            await CALLS[call](api)

    assert_no_secret(caught.value)


@pytest.mark.parametrize("response", ["repeats the request", "rejects every event"])
async def test_no_line_repeats_what_a_server_says_of_a_request(caplog: pytest.LogCaptureFixture, response: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if response == "repeats the request" or request.url.path != "/register_events":
            return RESPONSES["repeats the request"]()
        words = {"retriable": False, "message": f"gateway: {KEY} {ID}: {VALUE}"}
        return httpx.Response(
            200, json={"errors": {each["id"]: words for each in json.loads(request.content)["events"]}}
        )

    caplog.set_level("INFO")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        for local_evaluation in (None, LocalEvaluation()):
            async with Client(
                endpoint="gateway.test",
                api_key=KEY,
                tag="shop",
                http=http,
                events=ProcessorConfig(drain_timeout=0.2),
                local_evaluation=local_evaluation,
            ) as client:
                details = await client.bool_variation_details(USER, "flag", default=False)
                await client.track(USER, "goal")
                await client.flush(timeout=0.2)

            assert_secret(details.error, *caplog.messages)
    assert len(caplog.messages) >= 6


@pytest.mark.parametrize("response", ["500", "not JSON", "unusable", "no evaluation"])
async def test_the_traceback_of_a_remote_evaluation_has_no_secret(response: str) -> None:
    transport = httpx.MockTransport(lambda _: RESPONSES[response]())
    async with (
        httpx.AsyncClient(transport=transport) as http,
        ApiClient(endpoint="gateway.test", api_key=KEY, http=http) as api,
    ):
        evaluator = RemoteEvaluator(api, tag="shop", timeout=5.0, metrics=FakeMetrics())  # type: ignore[arg-type]
        with pytest.raises(ApiError) as caught:
            await evaluator.evaluate(USER, "flag")

    assert_no_secret(caught.value)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual-time"])
@pytest.mark.parametrize(
    "change",
    [
        {"archived": True},
        {"tags": ["other"]},
        {"defaultStrategy": None},
        {"defaultStrategy": {"type": "FIXED", "fixedStrategy": {"variation": "C"}}},
        {"defaultStrategy": {"type": "MAGIC"}},
        {"defaultStrategy": {"type": "ROLLOUT", "rolloutStrategy": {"variations": []}}},
        {"targets": [{"variation": "C", "users": [ID]}]},
        {"variations": [{"id": "", "value": "x"}], "targets": [{"variation": "", "users": [ID]}]},
        {"variations": 5},
        {"prerequisites": [{"featureId": "flag", "variationId": "A"}]},
        {"rules": [{"id": "r", "clauses": [{"attribute": "plan", "operator": "IN", "values": [VALUE]}]}]},
    ],
    ids=str,
)
async def test_the_traceback_of_a_local_evaluation_has_no_secret(change: dict[str, Any]) -> None:
    server = FlagServer()
    server.put_flag("other")
    server.put_flag("flag", **change)
    server.loaded = lambda _tag: list(server.flags.values())  # type: ignore[method-assign]
    server.live = lambda _tag: server.flags  # type: ignore[method-assign]
    evaluator = local(server)
    await evaluator.start()
    await evaluator.wait_ready()

    with pytest.raises(EvaluationError) as caught:
        await evaluator.evaluate(USER, "flag")

    assert_no_secret(caught.value)
    await evaluator.aclose()


PUSHES: dict[str, Callable[[Processor], Any]] = {
    "no goal": lambda processor: processor.push_goal_event(USER, ""),
    "no number": lambda processor: processor.push_goal_event(USER, "goal", float("nan")),
    "no evaluation": lambda processor: processor.push_evaluation_event(USER, USER),  # type: ignore[arg-type]
    "no reason": lambda processor: processor.push_default_evaluation_event(USER, "flag", ReasonType.RULE),
    "too large": lambda processor: processor.push_goal_event(USER, "goal" * 1000),
}


@pytest.mark.parametrize("push", PUSHES)
async def test_the_traceback_of_a_strict_push_has_no_secret(push: str) -> None:
    api = ApiClient(endpoint="gateway.test", api_key=KEY)
    processor = Processor(api, ProcessorConfig(strict=True, flush_max_bytes=1024))

    with pytest.raises((TypeError, ValueError)) as caught:
        await PUSHES[push](processor)

    assert_no_secret(caught.value)


async def test_the_logged_traceback_of_a_bug_in_the_delivery_has_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    def fail_once(_request: httpx.Request) -> httpx.Response:
        if caplog.records:
            return httpx.Response(200)
        raise ZeroDivisionError

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(fail_once)) as http,
        ApiClient(endpoint="gateway.test", api_key=KEY, http=http) as api,
        Processor(api, ProcessorConfig(retry=RetryPolicy(initial=0.01))) as processor,
    ):
        await processor.push_goal_event(USER, "goal")
        assert await processor.flush()

    (record, *_) = [each for each in caplog.records if each.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert_no_secret(record.exc_info[1])


async def test_the_traceback_of_a_variation_has_no_secret(gateway: LocalGateway) -> None:
    async with Client(endpoint=gateway.url, api_key="client-key", tag="shop") as client:
        with pytest.raises(TypeError) as wrong_default:
            await client.bool_variation(USER, "flag", "no bool")  # type: ignore[arg-type]
        with pytest.raises(WrongLoopError) as wrong_loop:
            await asyncio.to_thread(asyncio.run, client.bool_variation(USER, "flag", default=False))

    assert_no_secret(wrong_default.value)
    assert_no_secret(wrong_loop.value)
