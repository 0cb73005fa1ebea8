"""Evaluations that fail unexpectedly; all others are tested in `tests/test_client.py`."""

from __future__ import annotations

import logging
from typing import Any
from unittest.mock import MagicMock, Mock, create_autospec

import pytest

from bucketeer_async import Evaluation, EvaluationDetails, Reason, ReasonType, User, WrongLoopError
from bucketeer_async._disabled import DisabledProcessor
from bucketeer_async._flags._conversion import BOOL
from bucketeer_async._flags._evaluations import Evaluations, details
from bucketeer_async._log import GuardedLogger, RateLimitedLog

USER = User("user-of-the-test")


class FakeEvaluator:
    """An evaluator that raises an error, or has the same variation of every flag."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def start(self) -> None: ...
    async def wait_ready(self) -> None: ...
    async def aclose(self) -> None: ...
    def try_evaluate(self, _user: User, _feature_id: str) -> None: ...
    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        if self._error is not None:
            raise self._error
        return Evaluation(
            feature_id=feature_id, variation_id="v", variation_value="true", reason=Reason(ReasonType.DEFAULT)
        )


def evaluations(error: Exception | None, events: DisabledProcessor) -> Evaluations:
    log = RateLimitedLog(GuardedLogger(None))
    return Evaluations(lambda: FakeEvaluator(error), events, log, tag="shop", strict=False)


async def evaluated(subject: Evaluations, user: User, feature_id: str) -> EvaluationDetails[bool]:
    """Evaluate a flag whose default is False, as the client does."""
    result = subject.try_evaluate(user, feature_id, False, BOOL) or await subject.evaluate(
        user, feature_id, False, BOOL
    )
    return details(user, feature_id, result)


async def test_a_bug_of_ours_results_in_the_default_too(caplog: pytest.LogCaptureFixture) -> None:
    events = DisabledProcessor(GuardedLogger(None))

    found = await evaluated(evaluations(KeyError("user-of-the-test"), events), USER, "bool")

    assert found.reason.type is ReasonType.ERROR_EXCEPTION
    assert events.statistics().evaluation.pushed == 1
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.ERROR,
            "the evaluation of flag 'bool' returned the default: a bug in bucketeer_async: KeyError",
        )
    ]


async def test_another_loop_is_an_error_of_the_program() -> None:
    events = DisabledProcessor(GuardedLogger(None))

    with pytest.raises(WrongLoopError):
        await evaluated(evaluations(WrongLoopError("elsewhere"), events), USER, "bool")
    assert events.statistics().total.pushed == 0


@pytest.mark.parametrize("feature_id", ["bool", "größe", "旗"])
async def test_an_id_may_be_any_text(feature_id: str) -> None:
    events = DisabledProcessor(GuardedLogger(None))

    found = await evaluated(evaluations(None, events), USER, feature_id)

    assert found.value is True
    assert found.feature_id == feature_id
    assert events.statistics().evaluation.pushed == 1


@pytest.mark.parametrize("feature_id", ["", "\ud800", None, 5])
async def test_anything_but_an_id_results_in_the_default_and_no_event(feature_id: Any) -> None:
    events = DisabledProcessor(GuardedLogger(None))

    found = await evaluated(evaluations(None, events), USER, feature_id)

    assert found.value is False
    assert found.reason.type is ReasonType.ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED
    assert events.statistics().total.pushed == 0


class Customer(User):
    """A user of an application's own class, whose attributes cannot be relied on any more once it is made."""

    def __hash__(self) -> int:
        raise RuntimeError("a customer has no hash")


@pytest.mark.parametrize("user", [Mock(spec=User), MagicMock(spec=User), create_autospec(User)])
async def test_a_mock_is_no_user(user: Any) -> None:
    events = DisabledProcessor(GuardedLogger(None))

    found = await evaluated(evaluations(None, events), user, "bool")

    assert (found.value, found.user_id) == (False, "")
    assert found.reason.type is ReasonType.ERROR_USER_ID_NOT_SPECIFIED
    assert found.error.startswith("user must be a User, not ")
    assert events.statistics().total.pushed == 0


async def test_a_user_of_a_subclass_is_evaluated_as_a_user_with_its_fields() -> None:
    evaluator = FakeEvaluator()
    log = RateLimitedLog(GuardedLogger(None))
    seen = []

    async def evaluate(user: User, feature_id: str) -> Evaluation:
        seen.append(user)
        return await FakeEvaluator.evaluate(evaluator, user, feature_id)

    evaluator.evaluate = evaluate  # type: ignore[method-assign]
    subject = Evaluations(lambda: evaluator, DisabledProcessor(GuardedLogger(None)), log, tag="shop", strict=False)
    found = await evaluated(subject, Customer("id", {"plan": "pro"}), "bool")

    assert (found.value, found.user_id) == (True, "id")
    assert seen == [User("id", {"plan": "pro"})]
    assert type(seen[0]) is User
