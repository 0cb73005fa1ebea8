"""Processor: the entry point of the event pipeline. A push is checked, encoded, and accepted or refused, at once.

This file has the pushes, and the part of the lifecycle that a caller sees. Delivering events is left to `_pipeline.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Container
from functools import partial
from threading import get_ident
from types import EllipsisType, TracebackType
from typing import Final, NoReturn, Self, SupportsFloat, TypeVarTuple

from bucketeer_async._background import PerProcess
from bucketeer_async._errors import ConfigurationError
from bucketeer_async._events._encoder import EventFactory, IdPool, TooLargeError, UnreportedError, checked_evaluation
from bucketeer_async._events._intake import Intake
from bucketeer_async._events._pipeline import Pipeline
from bucketeer_async._events._private import PrivateEventFactory
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._window import EvaluationWindow
from bucketeer_async._lifecycle import NO_COPY, State
from bucketeer_async._models import ApiId, Evaluation, EventKind, ReasonType, User, check_user, shown, words_of
from bucketeer_async._options import ProcessorConfig, check_kind, check_timeout
from bucketeer_async._process_id import known
from bucketeer_async._results import DrainReport, RefusedReason, Statistics
from bucketeer_async._transport._api import ApiClient

_Args = TypeVarTuple("_Args")

# Looking a member up in its class takes longer than reading a global.
_EVALUATION: Final = EventKind.EVALUATION
_GOAL: Final = EventKind.GOAL
_METRICS: Final = EventKind.METRICS

_PUSHES_PER_TURN: Final = 100  # an awaited push gives the loop a turn at least this often ...
_BYTES_PER_TURN: Final = 2**20  # ... and at least once in so many bytes
_BRAKE_PAUSE: Final = 0.05  # seconds; the longest that one push is slowed down while the queue is half full


class _Life:
    """The part of a processor that belongs to one process.

    Args:
        events: Encodes the events.
        pipeline: Delivers them.
        strict_kinds: The kinds of events whose pushes raise if they are invalid.
        is_plain: Whether a local evaluation always has both of its events.
    """

    __slots__ = (
        "_bounds",
        "_brake_at",
        "_brake_at_bytes",
        "_lifecycle",
        "_pushes",
        "_queue",
        "_strict_kinds",
        "_turn_at_bytes",
        "events",
        "intake",
        "is_plain",
        "pipeline",
        "window",
    )

    def __init__(
        self, events: EventFactory, pipeline: Pipeline, strict_kinds: Container[EventKind], *, is_plain: bool
    ) -> None:
        self.events = events
        self.is_plain = is_plain
        self.pipeline = pipeline
        self.intake: Intake = pipeline.ledger.intake
        self.window = pipeline.ledger.window
        self._lifecycle = pipeline.life
        self._bounds = pipeline.ledger.bounds
        self._queue = pipeline.ledger.queue
        self._strict_kinds = strict_kinds
        # An awaited push that exceeds one of these may have to wait. The first is a number of awaited pushes since the
        # last turn of the loop, the others of what was ever put into the queue.
        self._pushes = 0
        self._turn_at_bytes = _BYTES_PER_TURN
        self._brake_at = self._brake_at_bytes = 0.0

    def refuse(self, kind: EventKind, error: Exception) -> Receipt:
        """Refuse a push that cannot be encoded; called while the error is handled.

        Raises:
            Exception: The error, if the processor is strict.
        """
        if isinstance(error, UnreportedError):
            return self.intake.refuse(kind, RefusedReason.UNREPORTED, str(error))
        if kind in self._strict_kinds:
            raise error.with_traceback(None)  # the encoder's frames have the user in their variables
        if isinstance(error, TooLargeError):
            return self.intake.refuse(kind, RefusedReason.TOO_LARGE, str(error))
        return self.intake.refuse(kind, RefusedReason.INVALID, words_of(error, "an argument"))

    def try_push(self, kind: EventKind, body: bytes) -> Receipt | None:
        """Accept or refuse an awaited push; None if it has to wait first.

        Raises:
            WrongLoopError: On another event loop than the processor's.
        """
        lifecycle, queue = self._lifecycle, self._queue
        if get_ident() != lifecycle.thread or not lifecycle.is_loop_running():
            lifecycle.require_loop()
        self._pushes += 1
        if (
            self._pushes >= _PUSHES_PER_TURN
            or queue.appended >= self._brake_at
            or queue.appended_bytes >= self._brake_at_bytes
        ):
            return None
        return self.intake.try_admit(kind, body)

    async def push_after_waiting(
        self, kind: EventKind, body: bytes, said: tuple[User, Evaluation] | None = None
    ) -> Receipt:
        """Accept or refuse an awaited push once the loop had its turn, the delivery keeps up, and there is room.

        Args:
            kind: The class of the event.
            body: The event.
            said: What an evaluation event says, if there is a window.
        """
        bounds, queue, pipeline = self._bounds, self._queue, self.pipeline
        if self._pushes >= _PUSHES_PER_TURN or queue.appended_bytes >= self._turn_at_bytes:
            self._pushes, self._turn_at_bytes = 0, queue.appended_bytes + _BYTES_PER_TURN
            await asyncio.sleep(0)
        if bounds.is_half_full() and pipeline.is_behind():
            await pipeline.progress(_BRAKE_PAUSE)
        while (
            receipt := self.intake.try_admit_evaluation(*said, body) if said else self.intake.try_admit(kind, body)
        ) is None:
            await pipeline.wait_for_room()
        if not receipt.accepted:
            pipeline.leave_room()
        self._brake_at = bounds.settled + bounds.half_capacity
        self._brake_at_bytes = min(bounds.settled_bytes + bounds.half_max_bytes, self._turn_at_bytes)
        return receipt

    def try_refuse(self, window: EvaluationWindow, user: User, evaluation: Evaluation) -> Receipt | None:
        """Refuse an awaited evaluation event that repeats the last one; None if it does not, or has to wait first.

        Raises:
            WrongLoopError: On another event loop than the processor's.
        """
        lifecycle = self._lifecycle
        if get_ident() != lifecycle.thread or not lifecycle.is_loop_running():
            lifecycle.require_loop()
        self._pushes += 1
        return window.refuse(user, evaluation) if self._pushes < _PUSHES_PER_TURN else None

    async def push_within_window(self, user: User, evaluation: Evaluation) -> Receipt:
        """Accept or refuse an awaited evaluation event that `try_refuse` has not refused."""
        try:
            user, evaluation = check_user(user), checked_evaluation(evaluation)
            body = self.events.evaluation(user, evaluation)
        except Exception as error:
            return self.refuse(_EVALUATION, error)
        return await self.push_after_waiting(_EVALUATION, body, (user, evaluation))

    def push_within_window_nowait(self, user: User, evaluation: Evaluation) -> Receipt:
        """Accept or refuse an evaluation event that the window has not refused; from any thread."""
        try:
            user, evaluation = check_user(user), checked_evaluation(evaluation)
            body = self.events.evaluation(user, evaluation)
        except Exception as error:
            return self.refuse(_EVALUATION, error)
        receipt = self.intake.try_admit_evaluation(user, evaluation, body)
        return receipt or self.intake.refuse(_EVALUATION, RefusedReason.QUEUE_FULL)


def _factory_of(config: ProcessorConfig) -> Callable[..., EventFactory]:
    private = config.private_attributes
    return partial(PrivateEventFactory, private) if private else EventFactory


class Processor:
    """Takes evaluation, goal and metrics events, and delivers them in batches, in the background.

    A push never raises because of the gateway, and a ``push_*_nowait`` never waits: it may be called from any
    thread. Every accepted event is delivered, rejected by the gateway, or dropped for a reason that is counted.
    Delivery is at least once: an event keeps its id over all tries.

    Use it as an async context manager, or call `start` and `aclose`, from any task of one event loop. In a forked
    child it is new and empty, and has to be started there.

    Args:
        api_client: Posts the events. It is started if need be, never closed.
        config: The options; None for the defaults.

    Raises:
        ConfigurationError: If an argument has the wrong type.
    """

    # The private arguments are for tests: the wall clock (Unix seconds), a maker of event ids, a maker of the source of
    # jitter; in a forked child the makers are called again. The last three are for a client: the kinds of events
    # whose pushes may raise, how it evaluates flags, and what is called when the circuit opens or is closed again.
    def __init__(
        self,
        api_client: ApiClient,
        config: ProcessorConfig | None = None,
        *,
        _now: Callable[[], float] = time.time,
        _new_ids: Callable[[], Callable[[], str]] = IdPool,
        _new_rng: Callable[[], random.Random] = random.Random,
        _strict_kinds: Container[EventKind] = frozenset(EventKind),
        _mode: str = "",
        _on_circuit: Callable[[str], None] | None = None,
    ) -> None:
        if not hasattr(api_client, "lease"):  # not `isinstance`: a test may have a client of its own
            raise ConfigurationError(f"api_client must be an ApiClient, not {shown(api_client)}")
        # Made here: as a default argument it would be made at import, which takes 1 ms.
        config = check_kind("config", ProcessorConfig() if config is None else config, ProcessorConfig)
        self._api_client = api_client
        self._config = config
        self._now, self._new_ids, self._new_rng = _now, _new_ids, _new_rng
        self._strict_kinds: Container[EventKind] = _strict_kinds if config.strict else ()
        self._mode = _mode
        self._on_circuit = _on_circuit
        self._life = PerProcess(self._new_life)
        self._lives = self._life.values
        self._life.get()  # an error of the configuration is raised now

    def _new_life(self) -> _Life:
        api, config = self._api_client, self._config
        events = _factory_of(config)(
            tag=config.tag,
            source_id=api.source_id,
            sdk_version=api.sdk_version,
            max_bytes=config.flush_max_bytes,
            now=self._now,
            new_id=self._new_ids(),
        )
        inherited = [life.pipeline.life for life in self._life.inherited()]
        pipeline = Pipeline(api, config, self._new_rng(), self._mode, inherited, on_circuit=self._on_circuit)
        return _Life(events, pipeline, self._strict_kinds, is_plain=config.metrics and pipeline.ledger.window is None)

    @property
    def _pipeline(self) -> Pipeline:
        return self._life.get().pipeline

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} {NO_COPY}")

    def __del__(self) -> None:
        # The tasks of a closed loop may live for ever, and the pipeline with them: its own finalizer cannot be relied on.
        self._notice_lost_loop()

    def _notice_lost_loop(self) -> None:
        """Account for the events if the loop was closed before the processor."""
        per_process: PerProcess[_Life] | None = getattr(self, "_life", None)  # None if the constructor has raised
        if per_process is not None and (life := per_process.made()) is not None:
            life.pipeline.notice_lost_loop()

    # Lifecycle

    async def start(self) -> None:
        """Begin to accept and deliver events; no effect while running.

        Callers at the same time share one start, which is undone only if all of them are cancelled.

        Raises:
            ClosedError: If the processor is closing or closed, or is closed before it runs.
            ConfigurationError: If the certificates or the proxy of the API client cannot be used.
            WrongLoopError: If the processor was started on another event loop.
        """
        await self._pipeline.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def flush(self, timeout: float | None = None) -> bool:
        """Send what waits now, and wait until every event accepted before this call is settled.

        Args:
            timeout: Seconds to wait; None or infinity for as long as it takes.

        Returns:
            Whether all of them are settled; False when the time ran out first.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            ClosedError: If the processor was never started.
            WrongLoopError: If the processor was started on another event loop.
        """
        timeout = check_timeout(timeout)
        pipeline = self._pipeline
        pipeline.life.require_loop()
        match pipeline.life.state:
            case State.NEW | State.STARTING:
                pipeline.life.require_started()
            case State.CLOSED:
                return True
        return await pipeline.flush(timeout)

    async def aclose(self, timeout: float | EllipsisType | None = ...) -> DrainReport:
        """Refuse new events, deliver those that were accepted, and report what was left.

        The drain goes on when a caller is cancelled. Every caller waits for the same drain and gets the same report.

        Args:
            timeout: Seconds that the drain may still take, if that is less than ``drain_timeout``. Less than 0 counts
                as 0.

        Returns:
            What became of the events that were waiting.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            WrongLoopError: If the processor was started on another event loop.
        """
        limit = None if isinstance(timeout, EllipsisType) else check_timeout(timeout)
        pipeline = self._pipeline
        pipeline.life.require_loop()
        self._limit_drain(limit)
        pipeline.life.begin_closing()
        return await pipeline.closed()

    def _limit_drain(self, timeout: float | None) -> None:
        """Let the drain take at most ``timeout`` seconds from now on, whether it has begun or not."""
        self._pipeline.limit_drain(timeout)

    def statistics(self) -> Statistics:
        """Return all counters, exact to the event and consistent with each other; from any thread."""
        pipeline = self._pipeline
        pipeline.notice_lost_loop()
        spooler = pipeline.spooler
        return pipeline.ledger.statistics(pipeline.circuit.state, spooler.statistics if spooler else None)

    # Pushes

    async def push_evaluation_event(self, user: User, evaluation: Evaluation) -> Receipt:
        """Record that ``user`` got ``evaluation``."""
        life = self._lives.get(known[0]) or self._life.get()
        if (window := life.window) is not None:
            return life.try_refuse(window, user, evaluation) or await life.push_within_window(user, evaluation)
        try:
            body = life.events.evaluation(user, evaluation)
        except Exception as error:
            return life.refuse(_EVALUATION, error)
        return life.try_push(_EVALUATION, body) or await life.push_after_waiting(_EVALUATION, body)

    def push_evaluation_event_nowait(self, user: User, evaluation: Evaluation) -> Receipt:
        """As `push_evaluation_event`, from any thread."""
        life = self._lives.get(known[0]) or self._life.get()
        if (window := life.window) is not None:
            return window.refuse(user, evaluation) or life.push_within_window_nowait(user, evaluation)
        try:
            body = life.events.evaluation(user, evaluation)
        except Exception as error:
            return life.refuse(_EVALUATION, error)
        return life.intake.try_admit(_EVALUATION, body) or life.intake.refuse(_EVALUATION, RefusedReason.QUEUE_FULL)

    def _record_local_evaluation(self, user: User, evaluation: Evaluation, nanoseconds: int) -> None:
        """Push both events of a local evaluation: its latency, and the evaluation; from any thread."""
        life = self._lives.get(known[0]) or self._life.get()
        if not life.is_plain:
            self._record_latency(nanoseconds)
            self.push_evaluation_event_nowait(user, evaluation)
            return
        try:
            latency = life.events.local_latency(nanoseconds)
            body = life.events.evaluation(user, evaluation)
        except Exception:
            self.push_latency_metrics_event_nowait(nanoseconds / 1e9, ApiId.SDK_GET_VARIATION)
            self.push_evaluation_event_nowait(user, evaluation)
        else:
            life.intake.admit_both(_METRICS, latency, _EVALUATION, body)

    def _record_latency(self, nanoseconds: int) -> None:
        """Push the latency of a local evaluation, if metrics are wanted; from any thread."""
        if self._config.metrics:
            self.push_latency_metrics_event_nowait(nanoseconds / 1e9, ApiId.SDK_GET_VARIATION)

    async def push_default_evaluation_event(
        self, user: User, feature_id: str, reason: ReasonType = ReasonType.CLIENT
    ) -> Receipt:
        """Record that ``user`` got the caller's default.

        Args:
            user: The user.
            feature_id: The flag; not empty.
            reason: Why the default was served: ``CLIENT`` or one of ``ERROR_*``.
        """
        return await self._push(_EVALUATION, EventFactory.default_evaluation, user, feature_id, reason)

    def push_default_evaluation_event_nowait(
        self, user: User, feature_id: str, reason: ReasonType = ReasonType.CLIENT
    ) -> Receipt:
        """As `push_default_evaluation_event`, from any thread."""
        return self._push_nowait(_EVALUATION, EventFactory.default_evaluation, user, feature_id, reason)

    async def push_goal_event(self, user: User, goal_id: str, value: SupportsFloat = 0.0) -> Receipt:
        """Record that ``user`` reached a goal.

        Args:
            user: The user.
            goal_id: The goal; not empty.
            value: A finite real number, such as a float, an int or a ``Decimal``; the gateway stores it as a 32-bit
                float.
        """
        life = self._lives.get(known[0]) or self._life.get()
        try:
            body = life.events.goal(user, goal_id, value)
        except Exception as error:
            return life.refuse(_GOAL, error)
        return life.try_push(_GOAL, body) or await life.push_after_waiting(_GOAL, body)

    def push_goal_event_nowait(self, user: User, goal_id: str, value: SupportsFloat = 0.0) -> Receipt:
        """As `push_goal_event`, from any thread."""
        life = self._lives.get(known[0]) or self._life.get()
        try:
            body = life.events.goal(user, goal_id, value)
        except Exception as error:
            return life.refuse(_GOAL, error)
        return life.intake.try_admit(_GOAL, body) or life.intake.refuse(_GOAL, RefusedReason.QUEUE_FULL)

    async def push_get_evaluation_latency_metrics_event(self, duration: float) -> Receipt:
        """Record the ``duration`` of an evaluation request, in seconds, in the message of older SDKs."""
        return await self._push(_METRICS, EventFactory.get_evaluation_latency, duration)

    def push_get_evaluation_latency_metrics_event_nowait(self, duration: float) -> Receipt:
        """As `push_get_evaluation_latency_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.get_evaluation_latency, duration)

    async def push_get_evaluation_size_metrics_event(self, size_byte: int) -> Receipt:
        """Record the size of an evaluation answer, 0 to 2**31 - 1 bytes, in the message of older SDKs."""
        return await self._push(_METRICS, EventFactory.get_evaluation_size, size_byte)

    def push_get_evaluation_size_metrics_event_nowait(self, size_byte: int) -> Receipt:
        """As `push_get_evaluation_size_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.get_evaluation_size, size_byte)

    async def push_timeout_error_count_metrics_event(self) -> Receipt:
        """Count a timeout, in the message of older SDKs."""
        return await self._push(_METRICS, EventFactory.timeout_error_count)

    def push_timeout_error_count_metrics_event_nowait(self) -> Receipt:
        """As `push_timeout_error_count_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.timeout_error_count)

    async def push_internal_error_count_metrics_event(self) -> Receipt:
        """Count an internal error, in the message of older SDKs."""
        return await self._push(_METRICS, EventFactory.internal_error_count)

    def push_internal_error_count_metrics_event_nowait(self) -> Receipt:
        """As `push_internal_error_count_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.internal_error_count)

    async def push_latency_metrics_event(self, duration: float, api_id: ApiId) -> Receipt:
        """Record the ``duration`` of an operation, in seconds; 0 counts as a nanosecond, or the gateway discards it."""
        return await self._push(_METRICS, EventFactory.latency, duration, api_id)

    def push_latency_metrics_event_nowait(self, duration: float, api_id: ApiId) -> Receipt:
        """As `push_latency_metrics_event`, from any thread."""
        life = self._lives.get(known[0]) or self._life.get()
        try:
            body = life.events.latency(duration, api_id)
        except Exception as error:
            return life.refuse(_METRICS, error)
        return life.intake.try_admit(_METRICS, body) or life.intake.refuse(_METRICS, RefusedReason.QUEUE_FULL)

    async def push_size_metrics_event(self, size_byte: int, api_id: ApiId) -> Receipt:
        """Record the size of the answer to an operation, 0 to 2**31 - 1 bytes."""
        return await self._push(_METRICS, EventFactory.size, size_byte, api_id)

    def push_size_metrics_event_nowait(self, size_byte: int, api_id: ApiId) -> Receipt:
        """As `push_size_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.size, size_byte, api_id)

    async def push_error_metrics_event(self, error: BaseException, api_id: ApiId) -> Receipt:
        """Count a failed operation, in the message for its class of failure.

        A `StatusError` is classed by its status, timeouts and connection errors by their type; anything else is an
        internal error of the SDK. 401 and 403 have no message: they are refused as ``unreported``.
        """
        return await self._push(_METRICS, EventFactory.error, error, api_id)

    def push_error_metrics_event_nowait(self, error: BaseException, api_id: ApiId) -> Receipt:
        """As `push_error_metrics_event`, from any thread."""
        return self._push_nowait(_METRICS, EventFactory.error, error, api_id)

    # One way for the rarer pushes; those of every request are written out, because each layer costs time there

    async def _push(self, kind: EventKind, build: Callable[[EventFactory, *_Args], bytes], *args: *_Args) -> Receipt:
        life = self._lives.get(known[0]) or self._life.get()
        try:
            body = build(life.events, *args)
        except Exception as error:
            return life.refuse(kind, error)
        return life.try_push(kind, body) or await life.push_after_waiting(kind, body)

    def _push_nowait(self, kind: EventKind, build: Callable[[EventFactory, *_Args], bytes], *args: *_Args) -> Receipt:
        life = self._lives.get(known[0]) or self._life.get()
        try:
            body = build(life.events, *args)
        except Exception as error:
            return life.refuse(kind, error)
        return life.intake.try_admit(kind, body) or life.intake.refuse(kind, RefusedReason.QUEUE_FULL)
