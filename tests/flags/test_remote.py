"""The remote evaluator over a scripted API client, in virtual time."""

from __future__ import annotations

import asyncio
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
    RemoteEvaluationStatistics,
    RequestTimeoutError,
    StatusError,
    User,
)
from bucketeer_async._flags._remote import RemoteEvaluator
from bucketeer_async._transport._http import Deadline
from tests.clock import VirtualLoop
from tests.fakes import as_forked

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
        self.connection: Callable[[], Awaitable[object]] = checkpoint
        self.requests: list[tuple[User, str, str]] = []
        self.sent_at: list[float] = []

    async def request_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        deadline: Deadline,
        on_connection: Callable[[], None],
    ) -> GetEvaluationResponse:
        self.requests.append((user, feature_id, tag))
        with anyio.move_on_after(deadline.at - now()):
            await self.connection()
            on_connection()
            self.sent_at.append(now())
            return await self.script(user, feature_id)
        raise RequestTimeoutError(f"the request took longer than {deadline.seconds:g} s")


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

    async def evaluate_within(self, seconds: float) -> None:
        """Evaluate for a caller that is gone before the evaluation ends."""
        with anyio.move_on_after(seconds) as scope:
            await self.evaluate()
        assert scope.cancelled_caught


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

    with pytest.raises(RequestTimeoutError, match="longer than 5 s"):
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


# Given up


class NoConnection:
    """No connection is free for some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self) -> None:
        await asyncio.sleep(self.seconds)


async def test_an_evaluation_that_waits_for_a_connection_ends_with_its_last_caller() -> None:
    remote = Remote(after(1.0, response()))
    remote.api.connection = NoConnection(2.0)

    async with anyio.create_task_group() as tasks:
        for seconds in (0.1, 0.5):
            tasks.start_soon(remote.evaluate_within, seconds)
        await asyncio.sleep(0.2)
        assert remote.evaluator.statistics().given_up == 0
    await remote.evaluator.aclose()

    assert now() == 0.5
    assert not remote.api.sent_at
    assert not remote.metrics.pushed
    assert remote.evaluator.statistics().given_up == 1


async def test_an_evaluation_begins_anew_after_one_was_given_up() -> None:
    remote = Remote(after(1.0, response()))
    remote.api.connection = NoConnection(2.0)
    await remote.evaluate_within(0.5)

    assert await remote.evaluate() == evaluation()
    assert now() == 3.5
    assert remote.api.sent_at == [2.5]


async def test_an_evaluation_on_the_wire_ends_by_itself() -> None:
    remote = Remote(after(1.0, response()))

    await remote.evaluate_within(0.5)
    await remote.evaluator.aclose()

    assert now() == 1.0
    assert remote.metrics.pushed == [("completed", ApiId.GET_EVALUATION, 1.0, 321)]
    assert remote.evaluator.statistics().given_up == 0


# Second tries


class Replies:
    """Responds with each reply in turn, after a second each."""

    def __init__(self, *replies: GetEvaluationResponse | Exception) -> None:
        self.replies = list(replies)

    async def __call__(self, user: User, feature_id: str) -> GetEvaluationResponse:
        return await after(1.0, self.replies.pop(0))(user, feature_id)


async def test_a_failed_try_is_followed_by_one_more() -> None:
    remote = Remote(Replies(StatusError(503), response()))

    assert await remote.evaluate() == evaluation()
    assert 2.0 < now() <= 2.2
    assert remote.evaluator.statistics().second_tries == 1
    assert remote.metrics.pushed == [("completed", ApiId.GET_EVALUATION, now(), 321)]


async def test_two_failed_tries_are_one_failure() -> None:
    remote = Remote(Replies(StatusError(503), ConnectionFailedError("reset"), response()))

    with pytest.raises(ConnectionFailedError):
        await remote.evaluate()
    assert len(remote.api.sent_at) == 2
    assert remote.metrics.pushed == [("failed", ApiId.GET_EVALUATION, ConnectionFailedError)]


async def test_both_tries_share_the_timeout() -> None:
    async def script(user: User, feature_id: str) -> GetEvaluationResponse:
        return await after(3.0, StatusError(503))(user, feature_id)

    remote = Remote(script)

    with pytest.raises(RequestTimeoutError, match="longer than 5 s"):
        await remote.evaluate()
    assert now() == 5.0
    assert len(remote.api.sent_at) == 2


async def test_a_failed_try_that_nobody_waits_for_any_more_is_the_last() -> None:
    remote = Remote(Replies(StatusError(503), response()))

    await remote.evaluate_within(0.5)
    await remote.evaluator.aclose()

    assert now() == 1.0
    assert remote.metrics.pushed == [("failed", ApiId.GET_EVALUATION, StatusError)]
    assert remote.evaluator.statistics() == RemoteEvaluationStatistics(second_tries=0, given_up=0)


async def test_an_evaluation_between_two_tries_ends_with_its_last_caller() -> None:
    remote = Remote(Replies(StatusError(503, retry_after=2.0), response()))

    await remote.evaluate_within(1.5)
    await remote.evaluator.aclose()

    assert now() == 1.5
    assert not remote.metrics.pushed
    assert remote.evaluator.statistics() == RemoteEvaluationStatistics(second_tries=0, given_up=1)


async def test_a_gateway_that_fails_everything_gets_few_second_tries() -> None:
    remote = Remote(after(0.01, StatusError(503)))
    for _ in range(100):
        with pytest.raises(StatusError):
            await remote.evaluate()

    assert len(remote.api.sent_at) == 102


async def test_waiting_for_a_connection_is_no_failure_of_the_gateway() -> None:
    remote = Remote(Replies(StatusError(503), response()))
    remote.api.connection = NoConnection(60.0)
    for _ in range(10):
        with pytest.raises(RequestTimeoutError):
            await remote.evaluate()
    remote.api.connection = checkpoint

    assert await remote.evaluate() == evaluation()


async def test_forked_children_have_a_jitter_and_counters_of_their_own() -> None:
    remote = Remote(Replies(*[StatusError(503), response()] * 2))
    await remote.evaluate()
    ended_at = now()
    with as_forked():
        assert remote.evaluator.statistics().second_tries == 0
        await remote.evaluate()

        assert remote.evaluator.statistics().second_tries == 1
    assert now() - ended_at != pytest.approx(ended_at, abs=1e-9)


# The end


async def test_closing_waits_for_the_evaluations_under_way() -> None:
    remote = Remote(after(1.0, response()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remote.evaluate)
        await anyio.wait_all_tasks_blocked()
        await remote.evaluator.aclose()

        assert now() == 1.0
        assert len(remote.metrics.pushed) == 1


async def test_a_forked_child_does_not_wait_for_the_evaluations_of_its_parent() -> None:
    remote = Remote(after(1.0, response()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remote.evaluate)
        await anyio.wait_all_tasks_blocked()
        forked_at = now()
        with as_forked():
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
