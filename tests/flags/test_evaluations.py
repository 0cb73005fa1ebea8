"""What becomes of an evaluation that fails unexpectedly; all others are tested in `test_client.py`."""

from __future__ import annotations

import logging

import pytest

from bucketeer_async import Evaluation, ReasonType, User, WrongLoopError
from bucketeer_async._disabled import DisabledProcessor
from bucketeer_async._flags._conversion import to_bool
from bucketeer_async._flags._evaluations import Evaluations
from bucketeer_async._log import RateLimitedLog

USER = User("user-of-the-test")


class Raising:
    """An evaluator that raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def start(self) -> None: ...
    async def wait_ready(self) -> None: ...
    async def aclose(self) -> None: ...
    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        raise self._error


def evaluations(error: Exception, events: DisabledProcessor) -> Evaluations:
    return Evaluations(lambda: Raising(error), events, RateLimitedLog(logging.getLogger("bucketeer_async")))


async def test_a_bug_of_ours_results_in_the_default_too(caplog: pytest.LogCaptureFixture) -> None:
    events = DisabledProcessor()

    result = await evaluations(KeyError("user-of-the-test"), events).evaluate(USER, "bool", False, to_bool)

    assert result.details().reason.type is ReasonType.ERROR_EXCEPTION
    assert events.statistics().evaluation.pushed == 1
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.ERROR,
            "a bug in bucketeer_async: the evaluation of flag 'bool' returned the default because of a KeyError",
        )
    ]


async def test_another_loop_is_an_error_of_the_program() -> None:
    events = DisabledProcessor()

    with pytest.raises(WrongLoopError):
        await evaluations(WrongLoopError("elsewhere"), events).evaluate(USER, "bool", False, to_bool)
    assert events.statistics().total.pushed == 0
