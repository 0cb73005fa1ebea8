"""Who answers a question: the gateway, or an evaluator beside the application, which is measured here.

What becomes of an answer is left to `_client.py`; metrics about getting it are pushed here, exactly once per request.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from bucketeer_async._errors import ApiError, ConfigurationError, DecodeError, RequestTimeoutError
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._models import ApiId, Evaluation, User
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._responses import GetEvaluationResponse

_EVALUATIONS_PER_TURN: Final = 100  # answered without waiting for anything, between two turns of the loop

_Key = tuple[User, str]


class RemoteEvaluator:
    """Asks the gateway: one request per question, and one for identical questions asked at the same moment.

    A request runs in a task of its own. A cancelled caller stops waiting; the request ends by itself.

    Args:
        api: Asks.
        tag: The tag of the flags.
        timeout: Seconds that a request may take, from the question to the last byte of the answer.
        metrics: Told latency and size of every answer, and every failure.

    Raises:
        ConfigurationError: If the tag is empty.
    """

    def __init__(self, api: ApiClient, *, tag: str, timeout: float, metrics: OwnMetrics) -> None:
        if not tag:
            raise ConfigurationError(
                "Client.tag must not be empty: the gateway evaluates the flags of one tag, and refuses to evaluate "
                "without one ('gateway: tag is required')"
            )
        self._api = api
        self._tag = tag
        self._timeout = timeout
        self._metrics = metrics
        self._under_way: dict[_Key, asyncio.Task[Evaluation]] = {}

    async def start(self) -> None:
        """Do nothing: connections are made when the first question is asked."""

    async def wait_ready(self) -> None:
        """Do nothing: a gateway can always be asked."""

    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        """Return the gateway's answer.

        Raises:
            ApiError: If there was none, or it is none to this question.
            ClosedError: If the API client is closed.
        """
        key = (user, feature_id)
        task = self._under_way.get(key) or self._begin(key)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for the answers that are under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way.values()))

    def _begin(self, key: _Key) -> asyncio.Task[Evaluation]:
        task = asyncio.get_running_loop().create_task(self._request(*key), name="bucketeer-evaluation")
        self._under_way[key] = task
        task.add_done_callback(partial(self._forget, key))
        return task

    def _forget(self, key: _Key, task: asyncio.Task[Evaluation]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # marks it as seen: every caller may be gone

    async def _request(self, user: User, feature_id: str) -> Evaluation:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            response = await self._response(user, feature_id)
            self._metrics.completed(ApiId.GET_EVALUATION, clock() - began, response.size_byte)
            return _evaluation_of(feature_id, response)
        except ApiError as error:
            self._metrics.failed(ApiId.GET_EVALUATION, error)
            raise

    async def _response(self, user: User, feature_id: str) -> GetEvaluationResponse:
        """Bound the whole: waiting for a connection, and a second try on a fresh one, take time too."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._api.get_evaluation(user, feature_id, tag=self._tag, timeout=self._timeout)
        except TimeoutError as error:
            raise RequestTimeoutError(f"the gateway did not answer within {self._timeout:g} s") from error


def _evaluation_of(feature_id: str, response: GetEvaluationResponse) -> Evaluation:
    """Return the evaluation, if it answers the question.

    Raises:
        DecodeError: If there is none, it is another flag's, or its value is empty; the Go SDK takes none of these.
    """
    evaluation = response.evaluation
    if evaluation is None:
        raise DecodeError("the gateway answered without an evaluation")
    if evaluation.feature_id != feature_id:
        raise DecodeError("the gateway answered about another flag")
    if not evaluation.variation_value:
        raise DecodeError("the gateway answered with an empty value")
    return evaluation
