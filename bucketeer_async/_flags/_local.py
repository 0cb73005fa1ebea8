"""LocalEvaluator: evaluates the flags that a source publishes; starts and ends the source.

How flags are fetched is left to the source (`_poller.py`), which of them are evaluated to `_published.py`, the value
of a flag to `_evaluation`, and the format of a bootstrap to `_snapshot_file.py`.

The source and the tasks belong to one process, and have to be started in each. A forked child keeps its parent's flags.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bucketeer_async._background import PerProcess, in_thread, in_turns
from bucketeer_async._errors import ClosedError, ConfigurationError, NotReadyError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError, Explanation, evaluate
from bucketeer_async._flags import _snapshot_file
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._published import Coverage, Published, PublishedFlags
from bucketeer_async._flags._user_flags import UserFlags
from bucketeer_async._hooks import Subscription
from bucketeer_async._lifecycle import Lifecycle, State
from bucketeer_async._log import GuardedLogger
from bucketeer_async._models import ApiId, Evaluation, User
from bucketeer_async._results import FlagChanges, LocalEvaluationStatistics, SnapshotSource

_EVALUATIONS_PER_TURN: Final = 100  # of those that never wait, between two turns of the loop
_ALL_PER_TURN: Final = 500  # likewise, of those of one `evaluate_all`
_PARSED_ON_THE_LOOP: Final = 256 * 1024  # bytes; a larger bootstrap is parsed in a thread


class FlagSource(Protocol):
    """Fetches flags in one process, and publishes them.

    Attributes:
        statistics: ``polls``, ``failed_polls`` and ``last_error``, for any thread to read: replaced, never changed.
    """

    statistics: LocalEvaluationStatistics

    async def run(self) -> None:
        """Go on from what is published already, until cancelled."""


class _Life(NamedTuple):
    """What belongs to one process."""

    source: FlagSource
    lifecycle: Lifecycle


class LocalEvaluator:
    """Evaluates flags in this process.

    Args:
        new_source: Makes a source of flags, from where to publish them and from a source of jitter; called once in
            each process.
        bootstrap: What ``export_snapshot()`` returned, or the path of a file of it; None for no bootstrap.
        tag: The tag of the flags; "" for all of the environment.
        metrics: Called with the outcome of every evaluation.
        logger: Where to log.
        new_rng: Makes the source of jitter of each process. Forked workers must not share its state, or all of them
            send their requests at the same moments.
        clock: Monotonic seconds.
        work_clock: Monotonic seconds, fine enough for milliseconds.
        latency_clock: Monotonic nanoseconds.
        wall: Unix time, in seconds.
    """

    def __init__(
        self,
        new_source: Callable[[PublishedFlags, random.Random], FlagSource],
        bootstrap: str | os.PathLike[str] | bytes | None = None,
        *,
        tag: str,
        metrics: OwnMetrics,
        logger: GuardedLogger,
        new_rng: Callable[[], random.Random] = random.Random,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.perf_counter,
        latency_clock: Callable[[], int] = time.perf_counter_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._new_source = new_source
        self._bootstrap = bootstrap
        self._tag = tag
        self._metrics = metrics
        self._logger = logger
        self._new_rng = new_rng
        self._clock = clock
        self._work_clock = work_clock
        self._latency_clock = latency_clock
        self._wall = wall
        self._evaluations = 0
        self._published = PublishedFlags(tag=tag, logger=logger, clock=clock)
        self._life = PerProcess(self._new_life)

    # Lifecycle

    def _new_life(self) -> _Life:
        lifecycle = Lifecycle(
            "local evaluator",
            task_name="bucketeer-polling",
            prepare=self._load_bootstrap,
            run=self._run_source,
            finish=self._wake_waiters,
        )
        return _Life(self._new_source(self._published, self._new_rng()), lifecycle)

    async def start(self) -> None:
        """Read the bootstrap, if there is one, and start the source of flags; no effect while running.

        Raises:
            ClosedError: If it is closed.
            ConfigurationError: If the bootstrap cannot be used; one that does not exist is only logged.
            WrongLoopError: If it was started on another event loop.
        """
        await self._life.get().lifecycle.start()

    async def _run_source(self) -> None:
        source, lifecycle = self._life.get()
        # Not in a task group of anyio's, which keeps the tasks of a closed loop for ever, and with them the connections.
        polling = asyncio.get_running_loop().create_task(source.run(), name="bucketeer-flag-source")
        polling.add_done_callback(lambda _: lifecycle.begin_closing())  # it has failed, or the loop ends
        try:
            await lifecycle.until_closing()
        except asyncio.CancelledError:
            polling.cancel()
            raise
        polling.cancel()
        await asyncio.wait([polling])
        if not polling.cancelled():
            polling.result()

    async def _wake_waiters(self) -> None:
        self._published.wake_waiters()

    async def aclose(self) -> None:
        """Stop the source of flags at once; flags that have arrived are still evaluated. Idempotent, from any task.

        Raises:
            WrongLoopError: If it was started on another event loop.
        """
        lifecycle = self._life.get().lifecycle
        lifecycle.require_loop()
        lifecycle.begin_closing()
        await lifecycle.closed()

    async def wait_ready(self) -> None:
        """Wait until flags can be evaluated, without a limit: bound it by ``asyncio.timeout()``.

        Raises:
            ClosedError: If it is not started, or closed before that.
            WrongLoopError: If it was started on another event loop.
        """
        lifecycle = self._life.get().lifecycle
        lifecycle.require_loop()
        while self._published.current is None:
            if lifecycle.state not in {State.STARTING, State.RUNNING}:
                raise ClosedError("the local evaluator is not running, and no flags have arrived")
            await self._published.wait()

    def is_ready(self) -> bool:
        """Return whether flags can be evaluated; from any thread."""
        return self._published.current is not None

    # The bootstrap

    async def _load_bootstrap(self) -> None:
        if self._bootstrap is None or self._published.current is not None:
            return
        data = self._bootstrap if isinstance(self._bootstrap, bytes) else await self._read(self._bootstrap)
        if data is None:
            return
        if len(data) <= _PARSED_ON_THE_LOOP:
            saved = _snapshot_file.load(data, self._tag)
        else:
            saved = await in_thread(_snapshot_file.load, data, self._tag)
        flags, segments = await in_turns(_snapshot_file.restore(saved), self._work_clock)
        age = max(0.0, self._wall() - saved.saved_at)
        self._published.publish(
            flags,
            segments,
            coverage=Coverage.ENVIRONMENT if saved.environment else Coverage.TAG,
            source=SnapshotSource.BOOTSTRAP,
            fresh_at=self._clock() - age,
        )
        self._logger.debug("beginning with %d flags that were saved %.0f s ago", len(flags.flags), age)

    async def _read(self, path: str | os.PathLike[str]) -> bytes | None:
        try:
            return await in_thread(Path(path).read_bytes)
        except FileNotFoundError:
            self._logger.warning("there is no bootstrap at %s; beginning without flags", os.fspath(path))
            return None
        except OSError as error:
            raise ConfigurationError(f"LocalEvaluation.bootstrap cannot be read: {error}") from error

    def export_snapshot(self) -> bytes:
        """Return the flags and segments, for the bootstrap of another process; with user ids, and without a key.

        From any thread. A large environment takes about a second, so call it in a thread.

        Raises:
            NotReadyError: If no flags have arrived yet.
        """
        current, age = self._published.current, self._published.age
        if current is None or age is None:
            raise NotReadyError("no flags have arrived yet: await wait_ready() first")
        return _snapshot_file.dump(
            current.flags,
            current.segments,
            tag=self._tag,
            environment=current.coverage is Coverage.ENVIRONMENT,
            saved_at=self._wall() - age,
        )

    # Evaluations

    def try_evaluate(self, user: User, feature_id: str) -> tuple[Evaluation, int] | None:
        """Return a flag's variation for a user, and the nanoseconds that the evaluation took; on the event loop only.

        None, after every hundred evaluations: they never wait, so the loop needs a turn, which `evaluate` gives it. A
        failed evaluation has its metrics event pushed.

        Raises:
            EvaluationError: As in `evaluate_nowait`.
        """
        self._evaluations += 1
        return None if self._evaluations >= _EVALUATIONS_PER_TURN else self.evaluate_timed(user, feature_id)

    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        """As `try_evaluate`, after a turn of the loop, and with the metrics event of a completed evaluation pushed."""
        self._evaluations = 0
        await asyncio.sleep(0)
        evaluation, nanoseconds = self.evaluate_timed(user, feature_id)
        self._metrics.completed(ApiId.SDK_GET_VARIATION, nanoseconds / 1e9)
        return evaluation

    def evaluate_timed(self, user: User, feature_id: str) -> tuple[Evaluation, int]:
        """As `try_evaluate`, from any thread, and never None."""
        began = self._latency_clock()
        try:
            evaluation = self._evaluate(self._published.current, user, feature_id)
        except Exception as error:
            if not (isinstance(error, EvaluationError) and error.cause is EvaluationCause.NOT_READY):
                self._metrics.failed(ApiId.SDK_GET_VARIATION, error)
            raise
        return evaluation, self._latency_clock() - began

    def evaluate_nowait(self, user: User, feature_id: str) -> Evaluation:
        """Return a flag's variation for a user; from any thread, without metrics events, and without the user's id.

        Raises:
            EvaluationError: If the flag has no variation for the user. The cause is ``NOT_READY`` before the first
                flags have arrived.
        """
        return self._evaluate(self._published.current, user, feature_id)

    def _evaluate(self, current: Published | None, user: User, feature_id: str) -> Evaluation:
        if current is None:
            raise EvaluationError(EvaluationCause.NOT_READY, feature_id, "no flags have arrived yet")
        try:
            return evaluate(current.snapshot, user, feature_id, self._tag).of_all()
        except EvaluationError as error:
            raise error.with_traceback(None) from None  # the frames of the evaluation have the user's id

    async def evaluate_all(self, user: User, only: frozenset[str] | None, before: UserFlags) -> UserFlags:
        """Return the variations of all flags for a user, by the flags of this moment; without metrics events.

        Args:
            user: The user.
            only: The flags to evaluate; None for all that have the tag.
            before: Returned if it was made of the same flags.
        """
        current = self._published.current
        if current is None:
            return UserFlags({}, partial(self._evaluate, None, user))
        if before.version is current.snapshot:
            return before
        feature_ids = list(only) if only is not None else self._tagged(current)
        evaluations: dict[str, Evaluation] = {}
        for start in range(0, len(feature_ids), _ALL_PER_TURN):
            if self._evaluations >= _EVALUATIONS_PER_TURN:
                self._evaluations = 0
                await asyncio.sleep(0)
            some = feature_ids[start : start + _ALL_PER_TURN]
            self._evaluations += len(some)
            await in_turns(self._evaluate_each(current, user, some, evaluations), self._work_clock)
        return UserFlags(evaluations, partial(self._evaluate, current, user), current.snapshot)

    def _tagged(self, current: Published) -> list[str]:
        return [each.id for each in current.flags.values() if not self._tag or self._tag in each.tags]

    def _evaluate_each(
        self, current: Published, user: User, feature_ids: Sequence[str], evaluations: dict[str, Evaluation]
    ) -> Generator[None, None, None]:
        snapshot, tag = current.snapshot, self._tag
        for feature_id in feature_ids:
            # Whatever an evaluation raises is raised again when the flag is asked for.
            with contextlib.suppress(Exception):
                evaluations[feature_id] = evaluate(snapshot, user, feature_id, tag).of_all()
            yield

    def explain(self, user: User, feature_id: str) -> Explanation:
        """Return why `evaluate_nowait` returns what it does; from any thread, without an event and without a log line.

        Raises:
            NotReadyError: If no flags have arrived yet.
        """
        from bucketeer_async._evaluation._explain import explain  # noqa: PLC0415 - few explain

        current = self._published.current
        if current is None:
            raise NotReadyError("no flags have arrived yet: await wait_ready() first")
        return explain(current.snapshot, user, feature_id, self._tag)

    # Watching

    def on_change(self, callback: Callable[[FlagChanges], object]) -> Subscription:
        """Register a callback that is called when flags have changed, the first ones included.

        It is called on the event loop, with the new flags in place, and must be short: the loop waits for it. Its
        exceptions are logged.

        Raises:
            TypeError: If it is not callable, or a coroutine function.
        """
        return self._published.on_change.register(callback)

    @property
    def callback_errors(self) -> int:
        """Exceptions that callbacks of `on_change` have raised in this process."""
        return self._published.on_change.errors

    def statistics(self) -> LocalEvaluationStatistics:
        """Return how fresh the flags are, and how many polls this process made; from any thread."""
        polled = self._life.get().source.statistics
        return replace(
            self._published.statistics(),
            polls=polled.polls,
            failed_polls=polled.failed_polls,
            last_error=polled.last_error,
        )
