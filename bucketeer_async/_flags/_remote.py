"""RemoteEvaluator: has the gateway evaluate one flag or all, one request each, and a second one if the first fails.

The value or the default, and its event, are left to `_evaluations.py`, the request itself to `_transport`, and which
failure is worth a second try to `_retry.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from bucketeer_async._background import PerProcess
from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import ApiError, ConfigurationError, DecodeError, StatusError
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._user_flags import UserFlags, received
from bucketeer_async._models import ApiId, Evaluation, User
from bucketeer_async._results import RemoteEvaluationStatistics
from bucketeer_async._retry import SecondTries, refuses_key
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._http import Deadline
from bucketeer_async._transport._responses import GetEvaluationResponse, GetEvaluationsResponse

_T = TypeVar("_T")
_R = TypeVar("_R", GetEvaluationResponse, GetEvaluationsResponse)
_R_co = TypeVar("_R_co", GetEvaluationResponse, GetEvaluationsResponse, covariant=True)


class _Send(Protocol[_R_co]):
    """Sends a request, and returns the response."""

    async def __call__(self, *, deadline: Deadline, on_connection: Callable[[], None]) -> _R_co: ...


class _Operation(NamedTuple, Generic[_R, _T]):
    """What the gateway is asked for.

    Attributes:
        api_id: The operation, for metrics events.
        send: Sends the request.
        read: Returns the result in a response, or raises a `DecodeError`.
    """

    api_id: ApiId
    send: _Send[_R]
    read: Callable[[_R], _T]


@dataclass(slots=True, eq=False)
class _Shared(Generic[_T]):
    """An evaluation under way, shared by all callers that ask for the same.

    Attributes:
        task: Makes the requests; set when the evaluation begins.
        callers: Those who wait for it.
        is_waiting: Whether no request is on the wire: the evaluation waits for a connection, or for its second try.
    """

    task: asyncio.Task[_T] = field(init=False)
    callers: int = 0
    is_waiting: bool = True

    def note_connection(self) -> None:
        """Note that a request is about to leave."""
        self.is_waiting = False


class _UnderWay:
    """The evaluations of one process."""

    def __init__(self, rng: random.Random) -> None:
        self.evaluations: dict[Hashable, _Shared[Any]] = {}
        self.throttle = SecondTries(rng)
        self.second_tries = 0
        self.given_up = 0


class RemoteEvaluator:
    """Has the gateway evaluate flags: one request per evaluation, and one for identical evaluations at the same time.

    An evaluation runs in a task of its own and belongs to its callers. When the last of them is cancelled, it is given
    up if no request is on the wire: nobody needs the answer, and others need the connection. A request on the wire ends
    by itself.

    Args:
        api: Sends the requests.
        tag: The tag of the flags.
        timeout: Seconds that an evaluation may take, from the call to the last byte of the response.
        metrics: Called with the outcome of every evaluation that is not given up.
        on_outcome: Called with the error of each of these evaluations, in words; "" if the gateway has responded.

    Raises:
        ConfigurationError: If the tag is empty.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        tag: str,
        timeout: float,
        metrics: OwnMetrics,
        on_outcome: Callable[[str], None] = lambda _: None,
        _new_rng: Callable[[], random.Random] = random.Random,
    ) -> None:
        if not tag:
            raise ConfigurationError(
                "Client.tag must not be empty: the gateway evaluates the flags of one tag, and refuses to evaluate "
                "without one ('gateway: tag is required')"
            )
        self._api = api
        self._tag = tag
        self._timeout = timeout
        self._metrics = metrics
        self._on_outcome = on_outcome
        self._under_way = PerProcess(lambda: _UnderWay(_new_rng()))

    async def start(self) -> None:
        """Do nothing: connections are made by the first request."""

    async def wait_ready(self) -> None:
        """Do nothing: the gateway is always ready."""

    def statistics(self) -> RemoteEvaluationStatistics:
        """Return the counters of evaluations in this process; from any thread."""
        under_way = self._under_way.get()
        return RemoteEvaluationStatistics(second_tries=under_way.second_tries, given_up=under_way.given_up)

    def try_evaluate(self, _user: User, _feature_id: str) -> None:
        """Return None: the gateway has to be waited for."""

    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        """Return the gateway's evaluation.

        Raises:
            ApiError: If the request failed, or the response has no evaluation of this flag.
            ClosedError: If the API client is closed.
        """
        send = partial(self._api.request_evaluation, user, feature_id, tag=self._tag)
        operation = _Operation(ApiId.GET_EVALUATION, send, partial(_evaluation_of, feature_id))
        return await self._result((user, feature_id), operation)

    async def evaluate_all(self, user: User, only: frozenset[str] | None, before: UserFlags) -> UserFlags:
        """Return the gateway's evaluations of all flags of the tag.

        Args:
            user: The user.
            only: The flags to keep of the response; None for all.
            before: Returned if the gateway says that its evaluations are up to date.

        Raises:
            ApiError: If the request failed.
            ClosedError: If the API client is closed.
        """
        version = before.version if isinstance(before.version, str) else ""
        # Without the time of the last response, the gateway sends either nothing new or everything. The changes since
        # then would leave out flags that were deleted, disabled, or have lost the tag.
        send = partial(self._api.request_evaluations, user, tag=self._tag, user_evaluations_id=version)
        operation = _Operation(ApiId.GET_EVALUATIONS, send, lambda response: response)
        response = await self._result((user, version, ApiId.GET_EVALUATIONS), operation)
        return before if version and response.user_evaluations_id == version else received(response, only)

    async def _result(self, key: Hashable, operation: _Operation[_R, _T]) -> _T:
        """Return the result of an operation; callers with the same key at the same time share it."""
        under_way = self._under_way.get()
        shared: _Shared[_T] = under_way.evaluations.get(key) or self._begin(under_way, key, operation)
        shared.callers += 1
        try:
            # Not a shield, which reports a failure that nobody waits for any more to the loop, from Python 3.14 on.
            await asyncio.wait([shared.task])
            return shared.task.result()
        finally:
            shared.callers -= 1
            if not shared.callers and shared.is_waiting and not shared.task.done():
                # Forgotten at once: a caller that comes now begins another one.
                _forget(under_way, key, shared)
                shared.task.cancel()
                under_way.given_up += 1

    async def aclose(self) -> None:
        """Wait for the evaluations that are under way."""
        while evaluations := self._under_way.get().evaluations:
            await asyncio.wait([shared.task for shared in evaluations.values()])

    def _begin(self, under_way: _UnderWay, key: Hashable, operation: _Operation[_R, _T]) -> _Shared[_T]:
        shared = _Shared[_T]()
        evaluation = self._evaluate(operation, shared, under_way)
        shared.task = asyncio.get_running_loop().create_task(evaluation, name="bucketeer-evaluation")
        under_way.evaluations[key] = shared
        shared.task.add_done_callback(partial(_forget, under_way, key, shared))
        return shared

    async def _evaluate(self, operation: _Operation[_R, _T], shared: _Shared[_T], under_way: _UnderWay) -> _T:
        clock = asyncio.get_running_loop().time
        began = clock()
        deadline = Deadline(began + self._timeout, self._timeout)
        try:
            response = await self._response(operation, deadline, shared, under_way)
            self._metrics.completed(operation.api_id, clock() - began, response.size_byte)
            return operation.read(response)
        except ApiError as error:
            self._metrics.failed(operation.api_id, error)
            raise

    async def _response(
        self, operation: _Operation[_R, _T], deadline: Deadline, shared: _Shared[_T], under_way: _UnderWay
    ) -> _R:
        """Return the response to the first try or the second, and note whether there is one."""
        try:
            response = await self._tries(operation, deadline, shared, under_way)
        except ApiError as error:
            self._on_outcome("" if _is_about_the_flag(error) else _why(error))
            raise
        self._on_outcome("")
        return response

    async def _tries(
        self, operation: _Operation[_R, _T], deadline: Deadline, shared: _Shared[_T], under_way: _UnderWay
    ) -> _R:
        try:
            return await self._try(operation, deadline, shared, under_way.throttle)
        except ApiError as error:
            pause = under_way.throttle.pause_after(error, deadline.at - asyncio.get_running_loop().time())
            if pause is None or not shared.callers:
                raise
        shared.is_waiting = True
        await asyncio.sleep(pause)
        under_way.second_tries += 1
        return await self._try(operation, deadline, shared, under_way.throttle)

    async def _try(
        self, operation: _Operation[_R, _T], deadline: Deadline, shared: _Shared[_T], throttle: SecondTries
    ) -> _R:
        try:
            response = await operation.send(deadline=deadline, on_connection=shared.note_connection)
        except ApiError as error:
            if not shared.is_waiting:  # otherwise the gateway had no part in the failure
                throttle.note_failure(error)
            raise
        throttle.note_answer()
        return response


def _forget(under_way: _UnderWay, key: Hashable, shared: _Shared[Any], task: asyncio.Task[Any] | None = None) -> None:
    if under_way.evaluations.get(key) is shared:
        del under_way.evaluations[key]
    if task is not None and not task.cancelled():
        task.exception()  # marks the exception as retrieved: every caller may be gone


def _is_about_the_flag(error: ApiError) -> bool:
    """Whether the gateway is well, and does not know the flag."""
    return isinstance(error, StatusError) and error.status_code == 404 and error.code is not None


def _why(error: ApiError) -> str:
    return f"{error}" + ("; evaluation by the gateway needs a client key" if refuses_key(error) else "")


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
