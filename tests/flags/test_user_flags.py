"""All flags of a user by the two evaluators: work per turn of the loop, shared requests, responses that are odd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from bucketeer_async import (
    ApiId,
    DecodeError,
    Evaluation,
    GetEvaluationsResponse,
    Reason,
    ReasonType,
    StatusError,
    User,
)
from bucketeer_async._evaluation import EvaluationError
from bucketeer_async._flags._remote import RemoteEvaluator
from bucketeer_async._flags._user_flags import failed
from bucketeer_async._transport._http import Deadline
from tests.clock import VirtualLoop
from tests.flag_server import FakeMetrics, FlagServer, local, polls

USER = User("user")
NOTHING = failed(RuntimeError("nothing was evaluated"))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


# Local


async def test_a_turn_of_the_loop_has_at_most_a_thousand_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FlagServer()
    for number in range(3000):
        server.put_flag(f"flag-{number}")
    evaluator = local(server, work_clock=lambda: 0.0)  # the work takes no time
    await evaluator.start()
    await evaluator.wait_ready()
    turns: list[int] = []
    evaluated = 0

    original = Evaluation.__init__  # called once for each flag, for the first user

    def count(self: Evaluation, **fields: Any) -> None:
        nonlocal evaluated
        evaluated += 1
        original(self, **fields)

    monkeypatch.setattr(Evaluation, "__init__", count)

    async def watch() -> None:
        while True:
            turns.append(evaluated)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    flags = await evaluator.evaluate_all(USER, None, NOTHING)
    watching.cancel()
    await evaluator.aclose()

    assert len(flags.evaluations) == evaluated == 3000
    assert max(later - before for before, later in pairwise([0, *turns, evaluated])) <= 1000


async def test_callers_that_never_wait_leave_the_loop_its_turns() -> None:
    server = FlagServer()
    for number in range(50):
        server.put_flag(f"flag-{number}")
    evaluator = local(server, work_clock=lambda: 0.0)
    await evaluator.start()
    await evaluator.wait_ready()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    for _ in range(4):
        await evaluator.evaluate_all(USER, None, NOTHING)

    other.cancel()
    await evaluator.aclose()

    assert turns >= 1


async def test_a_malformed_flag_spoils_no_other() -> None:
    server = FlagServer()
    server.put_flag("good")
    server.put_flag("bad", variations="none")
    evaluator = local(server)
    await evaluator.start()
    await polls()
    flags = await evaluator.evaluate_all(USER, None, NOTHING)
    await evaluator.aclose()

    assert flags.evaluations.keys() == {"good"}
    with pytest.raises(EvaluationError, match="'bad': MALFORMED"):
        flags.evaluate_other("bad")


# Remote


def response(*values: tuple[str, str], version: str = "1") -> GetEvaluationsResponse:
    evaluations = [
        Evaluation(feature_id=each, variation_id="v", variation_value=value, reason=Reason(ReasonType.DEFAULT))
        for each, value in values
    ]
    return GetEvaluationsResponse(
        evaluations=evaluations,
        archived_feature_ids=[],
        user_evaluations_id=version,
        created_at=1,
        force_update=True,
        size_byte=321,
    )


class FakeApi:
    """Responds to each request by the next reply, and records what was sent."""

    def __init__(self, *replies: GetEvaluationsResponse | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[User, str]] = []

    async def request_evaluations(
        self,
        user: User,
        *,
        tag: str,
        user_evaluations_id: str,
        deadline: Deadline,
        on_connection: Callable[[], None],
    ) -> GetEvaluationsResponse:
        self.requests.append((user, user_evaluations_id))
        on_connection()
        await asyncio.sleep(1.0)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    request_evaluation: Callable[..., Awaitable[Any]]


def remote(*replies: GetEvaluationsResponse | Exception) -> tuple[RemoteEvaluator, FakeApi, FakeMetrics]:
    api, metrics = FakeApi(*replies), FakeMetrics()
    return RemoteEvaluator(api, tag="shop", timeout=5.0, metrics=metrics), api, metrics


async def test_callers_at_the_same_time_share_one_request() -> None:
    evaluator, api, metrics = remote(response(("a", "x"), ("b", "y")))
    everything, some = await asyncio.gather(
        evaluator.evaluate_all(USER, None, NOTHING), evaluator.evaluate_all(USER, frozenset("b"), NOTHING)
    )

    assert everything.evaluations.keys() == {"a", "b"}
    assert some.evaluations.keys() == {"b"}
    assert api.requests == [(USER, "")]
    assert metrics.events == [(ApiId.GET_EVALUATIONS, 321)]


async def test_the_version_is_sent_and_may_be_confirmed() -> None:
    evaluator, api, _ = remote(response(("a", "x")), response(), response(("b", "y"), version="2"))
    first = await evaluator.evaluate_all(USER, None, NOTHING)
    second = await evaluator.evaluate_all(USER, None, first)
    third = await evaluator.evaluate_all(USER, None, second)

    assert second is first
    assert third.evaluations.keys() == {"b"}
    assert [version for _, version in api.requests] == ["", "1", "1"]


async def test_a_request_that_fails_is_sent_once_more() -> None:
    evaluator, api, metrics = remote(StatusError(503), response(("a", "x")))
    flags = await evaluator.evaluate_all(USER, None, NOTHING)

    assert flags.evaluations.keys() == {"a"}
    assert len(api.requests) == 2
    assert metrics.events == [(ApiId.GET_EVALUATIONS, 321)]
    assert evaluator.statistics().second_tries == 1


async def test_closing_waits_for_the_request() -> None:
    evaluator, _, metrics = remote(response(("a", "x")))
    waiting = asyncio.create_task(evaluator.evaluate_all(USER, None, NOTHING))
    await asyncio.sleep(0.5)
    waiting.cancel()
    await evaluator.aclose()

    assert asyncio.get_running_loop().time() == 1.0
    assert metrics.events == [(ApiId.GET_EVALUATIONS, 321)]


async def test_an_empty_value_is_none() -> None:
    evaluator, _, _ = remote(response(("a", ""), ("b", "y")))
    flags = await evaluator.evaluate_all(USER, None, NOTHING)

    assert flags.evaluations.keys() == {"b"}
    with pytest.raises(DecodeError, match="empty value"):
        flags.evaluate_other("a")


async def test_versions_of_an_evaluator_without_versions_are_not_sent() -> None:
    evaluator, api, _ = remote(response())
    await evaluator.evaluate_all(USER, None, NOTHING)

    assert api.requests == [(USER, "")]
