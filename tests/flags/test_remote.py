"""The remote evaluator over a scripted API client, in virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bucketeer_async import (
    ApiError,
    ApiId,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    Evaluation,
    GetEvaluationResponse,
    Reason,
    ReasonType,
    RequestTimeoutError,
    StatusError,
    User,
)
from bucketeer_async._flags._remote import RemoteEvaluator
from tests.clock import VirtualLoop

USER = User("user-1", {"plan": "pro"})


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def evaluation(feature_id: str = "flag", value: str = "on") -> Evaluation:
    return Evaluation(feature_id=feature_id, variation_id="v", variation_value=value, reason=Reason(ReasonType.DEFAULT))


def response(feature_id: str = "flag", value: str = "on") -> GetEvaluationResponse:
    return GetEvaluationResponse(evaluation=evaluation(feature_id, value), size_byte=321)


class FakeMetrics:
    """Records the metrics of every operation."""

    def __init__(self) -> None:
        self.pushed: list[tuple[Any, ...]] = []

    def completed(self, api_id: ApiId, duration: float, size_byte: int | None = None) -> None:
        self.pushed.append(("completed", api_id, duration, size_byte))

    def failed(self, api_id: ApiId, error: BaseException) -> None:
        self.pushed.append(("failed", api_id, type(error)))


Script = Callable[[User, str], Awaitable[GetEvaluationResponse]]


class FakeApi:
    """Responds by a script, and records the requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[User, str, str]] = []

    async def get_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        timeout: float | None,
    ) -> GetEvaluationResponse:
        self.requests.append((user, feature_id, tag))
        return await self.script(user, feature_id)


def after(seconds: float, reply: GetEvaluationResponse | Exception) -> Script:
    async def script(_user: User, _feature_id: str) -> GetEvaluationResponse:
        await asyncio.sleep(seconds)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return script


class Remote:
    """A remote evaluator with fakes of its parts."""

    def __init__(self, script: Script) -> None:
        self.api = FakeApi(script)
        self.metrics = FakeMetrics()
        self.evaluator = RemoteEvaluator(self.api, tag="shop", timeout=5.0, metrics=self.metrics)

    async def evaluate(self, user: User = USER, feature_id: str = "flag") -> Evaluation:
        return await self.evaluator.evaluate(user, feature_id)


# Remote


def test_an_empty_tag_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"Client\.tag must not be empty: .*'gateway: tag is required'"):
        RemoteEvaluator(FakeApi(after(0, response())), tag="", timeout=5.0, metrics=FakeMetrics())


async def test_an_evaluation_has_a_latency_and_a_size() -> None:
    remote = Remote(after(0.25, response()))

    assert await remote.evaluate() == evaluation()
    assert remote.api.requests == [(USER, "flag", "shop")]
    assert remote.metrics.pushed == [("completed", ApiId.GET_EVALUATION, 0.25, 321)]


@pytest.mark.parametrize(
    "error", [StatusError(404), StatusError(503), ConnectionFailedError("refused"), DecodeError("HTML")]
)
async def test_a_failure_has_one_error(error: ApiError) -> None:
    remote = Remote(after(0.25, error))

    with pytest.raises(type(error)):
        await remote.evaluate()
    assert remote.metrics.pushed == [("failed", ApiId.GET_EVALUATION, type(error))]


@pytest.mark.parametrize(
    "reply",
    [GetEvaluationResponse(evaluation=None, size_byte=321), response("another"), response(value="")],
    ids=["none", "another flag's", "empty"],
)
async def test_a_response_without_the_evaluation_has_a_latency_a_size_and_an_error(
    reply: GetEvaluationResponse,
) -> None:
    remote = Remote(after(0.25, reply))

    with pytest.raises(DecodeError, match="the gateway answered"):
        await remote.evaluate()
    assert [name for name, *_ in remote.metrics.pushed] == ["completed", "failed"]


async def test_the_whole_evaluation_takes_at_most_its_timeout() -> None:
    remote = Remote(after(60.0, response()))

    with pytest.raises(RequestTimeoutError, match="within 5 s"):
        await remote.evaluate()
    assert now() == 5.0
    assert remote.metrics.pushed == [("failed", ApiId.GET_EVALUATION, RequestTimeoutError)]


async def test_a_closed_api_client_is_no_failure_of_the_gateway() -> None:
    remote = Remote(after(0, ClosedError("closed")))

    with pytest.raises(ClosedError):
        await remote.evaluate()
    assert not remote.metrics.pushed


async def test_identical_evaluations_share_one_request() -> None:
    remote = Remote(after(0.25, response()))

    results = await asyncio.gather(*(remote.evaluate(User("user-1", {"plan": "pro"})) for _ in range(10)))

    assert results == [evaluation()] * 10
    assert len(remote.api.requests) == 1
    assert len(remote.metrics.pushed) == 1


async def test_identical_evaluations_share_a_failure_that_has_one_error() -> None:
    remote = Remote(after(0.25, StatusError(503)))

    results = await asyncio.gather(*(remote.evaluate() for _ in range(10)), return_exceptions=True)

    assert [type(each) for each in results] == [StatusError] * 10
    assert len(remote.metrics.pushed) == 1


@pytest.mark.parametrize(
    ("user", "feature_id"),
    [(User("user-2", {"plan": "pro"}), "flag"), (User("user-1", {"plan": "free"}), "flag"), (USER, "other")],
    ids=["user", "attributes", "flag"],
)
async def test_different_evaluations_have_requests_of_their_own(user: User, feature_id: str) -> None:
    async def script(_user: User, feature_id: str) -> GetEvaluationResponse:
        await asyncio.sleep(0.25)
        return response(feature_id)

    remote = Remote(script)

    await asyncio.gather(remote.evaluate(), remote.evaluate(user, feature_id))

    assert len(remote.api.requests) == 2


async def test_a_later_evaluation_has_another_request() -> None:
    remote = Remote(after(0.25, response()))

    await remote.evaluate()
    await checkpoint()
    await remote.evaluate()

    assert len(remote.api.requests) == 2


async def test_a_cancelled_caller_stops_waiting_and_the_others_get_the_evaluation() -> None:
    remote = Remote(after(1.0, response()))

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.1) as scope:
            tasks.start_soon(remote.evaluate)
            await remote.evaluate()
        assert scope.cancelled_caught
        assert now() == 0.1

    assert now() == 1.0
    assert len(remote.api.requests) == 1
    assert [name for name, *_ in remote.metrics.pushed] == ["completed"]


async def test_a_failure_without_a_waiting_caller_is_no_error_of_the_loop() -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    remote = Remote(after(1.0, StatusError(503)))

    with anyio.move_on_after(0.1):
        await remote.evaluate()
    await remote.evaluator.aclose()
    await checkpoint()

    assert now() == 1.0
    assert remote.metrics.pushed == [("failed", ApiId.GET_EVALUATION, StatusError)]
    assert not unseen


async def test_closing_waits_for_the_evaluations_under_way() -> None:
    remote = Remote(after(1.0, response()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remote.evaluate)
        await anyio.wait_all_tasks_blocked()
        await remote.evaluator.aclose()

        assert now() == 1.0
        assert len(remote.metrics.pushed) == 1


async def test_a_forked_child_does_not_wait_for_the_evaluations_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(after(1.0, response()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remote.evaluate)
        await anyio.wait_all_tasks_blocked()
        forked_at = now()
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            await remote.evaluator.aclose()
            assert now() == forked_at
            await remote.evaluate()

    assert len(remote.api.requests) == 2


async def test_a_remote_evaluator_is_ready_at_once() -> None:
    remote = Remote(after(1.0, response()))

    await remote.evaluator.start()
    await remote.evaluator.wait_ready()
    await remote.evaluator.aclose()

    assert now() == 0
    assert not remote.api.requests
