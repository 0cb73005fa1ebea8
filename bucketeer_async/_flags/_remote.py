"""RemoteEvaluator: has the gateway evaluate flags, one request per evaluation.

The value or the default, and its event, are left to `_evaluations.py`, the request itself to `_transport`.
"""

from __future__ import annotations

import asyncio
from functools import partial

from bucketeer_async._background import PerProcess
from bucketeer_async._errors import ApiError, ConfigurationError, DecodeError, RequestTimeoutError
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._models import ApiId, Evaluation, User
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._responses import GetEvaluationResponse

_Key = tuple[User, str]
_UnderWay = dict[_Key, asyncio.Task[Evaluation]]


class RemoteEvaluator:
    """Has the gateway evaluate flags: one request per evaluation, and one for identical evaluations at the same time.

    A request runs in a task of its own. A cancelled caller stops waiting; the request ends by itself.

    Args:
        api: Sends the requests.
        tag: The tag of the flags.
        timeout: Seconds that an evaluation may take, from the call to the last byte of the response.
        metrics: Called with the outcome of every request.

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
        self._under_way = PerProcess[_UnderWay](dict)

    async def start(self) -> None:
        """Do nothing: connections are made by the first request."""

    async def wait_ready(self) -> None:
        """Do nothing: the gateway is always ready."""

    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        """Return the gateway's evaluation.

        Raises:
            ApiError: If the request failed, or the response has no evaluation of this flag.
            ClosedError: If the API client is closed.
        """
        key = (user, feature_id)
        under_way = self._under_way.get()
        task = under_way.get(key) or self._begin(under_way, key)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for the evaluations that are under way."""
        while under_way := self._under_way.get():
            await asyncio.wait(list(under_way.values()))

    def _begin(self, under_way: _UnderWay, key: _Key) -> asyncio.Task[Evaluation]:
        task = asyncio.get_running_loop().create_task(self._request(*key), name="bucketeer-evaluation")
        under_way[key] = task
        task.add_done_callback(partial(_forget, under_way, key))
        return task

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
        """Return the response, with one limit for all of it: for the connection, and for a repetition on a fresh one."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._api.get_evaluation(user, feature_id, tag=self._tag, timeout=self._timeout)
        except TimeoutError as error:
            raise RequestTimeoutError(f"the gateway did not answer within {self._timeout:g} s") from error


def _forget(under_way: _UnderWay, key: _Key, task: asyncio.Task[Evaluation]) -> None:
    del under_way[key]
    if not task.cancelled():
        task.exception()  # marks the exception as retrieved: every caller may be gone


def _evaluation_of(feature_id: str, response: GetEvaluationResponse) -> Evaluation:
    """Return the evaluation in a response.

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
