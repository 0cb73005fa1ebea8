"""LocalEvaluator: answers questions from what is polled. How that is kept fresh is left to `_flags/_poller.py`."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from bucketeer_async._background import BackgroundTask, in_turns, require_loop
from bucketeer_async._errors import ClosedError, ConfigurationError, NotReadyError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError, evaluate
from bucketeer_async._flags import _snapshot_file
from bucketeer_async._flags._own_metrics import OwnMetrics
from bucketeer_async._flags._poller import FlagPoller
from bucketeer_async._models import Evaluation, User
from bucketeer_async._options import LocalEvaluation
from bucketeer_async._results import FlagChanges, LocalEvaluationStatistics
from bucketeer_async._transport._api import ApiClient

_OWNER: Final = "local evaluator"
_PARSED_HERE: Final = 256 * 1024  # bytes; more is parsed off the loop


class State(Enum):
    """The life of an evaluator."""

    NEW = "new"
    RUNNING = "running"
    CLOSED = "closed"


class LocalEvaluator:
    """Evaluates flags here.

    In a forked child it keeps the flags that it had, and has to be started there.

    Args:
        api: Sends the requests; never closed.
        options: When to poll, and what.
        tag: The tag of the flags; "" for all of the environment.
        metrics: Hears of every request.
        logger: Where to log.
        clock: Monotonic seconds.
        rng: Source of the jitter.
        wall: Unix time, in seconds.
    """

    def __init__(
        self,
        api: ApiClient,
        options: LocalEvaluation,
        *,
        tag: str,
        metrics: OwnMetrics,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._tag = tag
        self._logger = logger
        self._wall = wall
        self._poller = FlagPoller(
            api,
            options,
            tag=tag,
            metrics=metrics,
            logger=logger,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - jitter is no secret
        )
        self._begin_life()

    def _begin_life(self) -> None:
        self._pid = os.getpid()
        self._state = State.NEW
        self._scope: anyio.CancelScope | None = None
        self._host: BackgroundTask | None = None

    def _notice_fork(self) -> None:
        """In a forked child, poll only once it is started there: the parent's task is not ours."""
        if os.getpid() != self._pid:
            self._begin_life()

    # Lifecycle

    async def start(self) -> None:
        """Read the bootstrap, if there is one, and begin to poll; no effect while running.

        Raises:
            ClosedError: If it is closed.
            ConfigurationError: If the bootstrap cannot be used; one that does not exist is only logged.
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self._state is State.NEW:
            self._state = State.RUNNING
            self._scope = anyio.CancelScope()
            self._host = BackgroundTask(partial(self._run, self._scope), name="bucketeer-polling", owner=_OWNER)
        if self._host is None:
            raise ClosedError("the local evaluator is closed")
        await self._host.ready()
        if self._state is State.CLOSED:
            raise ClosedError("the local evaluator is closed")

    async def _run(self, scope: anyio.CancelScope, ready: Callable[[], None]) -> None:
        try:
            with scope:
                if self._options.bootstrap is not None and self._poller.published is None:
                    await self._begin_with_saved(self._options.bootstrap)
                ready()
                await self._poller.run()
        finally:
            self._state = State.CLOSED
            self._poller.progress.notify()

    async def aclose(self) -> None:
        """Stop polling at once; what has been polled is still evaluated. Idempotent, from any task.

        Raises:
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self._host is not None:
            require_loop(self._host.loop, _OWNER)
        self._state = State.CLOSED
        if self._host is not None and self._scope is not None:
            self._scope.cancel()
            await self._host.join()

    async def wait_ready(self) -> None:
        """Wait until flags can be evaluated, however long that takes: bound it by ``asyncio.timeout()``.

        Raises:
            ClosedError: If it is not started, or closed before that.
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self._host is not None:
            require_loop(self._host.loop, _OWNER)
        while self._poller.published is None:
            if self._state is not State.RUNNING:
                raise ClosedError("the local evaluator is not running, and no flags have arrived")
            await self._poller.progress.wait()

    # The bootstrap

    async def _begin_with_saved(self, bootstrap: str | os.PathLike[str] | bytes) -> None:
        data = bootstrap if isinstance(bootstrap, bytes) else await self._read(bootstrap)
        if data is None:
            return
        if len(data) <= _PARSED_HERE:
            saved = _snapshot_file.load(data, self._tag)
        else:
            saved = await asyncio.to_thread(_snapshot_file.load, data, self._tag)
        flags, segments = await in_turns(_snapshot_file.restore(saved), time.perf_counter)
        age = max(0.0, self._wall() - saved.saved_at)
        self._poller.begin_with(flags, segments, environment=saved.environment, age=age)
        self._logger.debug("beginning with %d flags that were saved %.0f s ago", len(flags.flags), age)

    async def _read(self, path: str | os.PathLike[str]) -> bytes | None:
        try:
            return await asyncio.to_thread(Path(path).read_bytes)
        except FileNotFoundError:
            self._logger.warning("there is no bootstrap at %s; beginning without flags", os.fspath(path))
            return None
        except OSError as error:
            raise ConfigurationError(f"LocalEvaluation.bootstrap cannot be read: {error}") from error

    def export_snapshot(self) -> bytes:
        """Return what is evaluated now, to begin with in another process; it holds user ids, and no key.

        From any thread: for a large environment it takes a second or so, so call it in one.

        Raises:
            NotReadyError: If no flags have arrived yet.
        """
        published, age = self._poller.published, self._poller.age
        if published is None or age is None:
            raise NotReadyError("no flags have arrived yet: await wait_ready() first")
        return _snapshot_file.dump(
            published.flags,
            published.segments,
            tag=self._tag,
            environment=self._poller.environment,
            saved_at=self._wall() - age,
        )

    # Questions

    def evaluate_nowait(self, user: User, feature_id: str) -> Evaluation:
        """Return what a flag gives to a user; from any thread.

        Raises:
            EvaluationError: If it gives nothing. The cause is ``NOT_READY`` while no flags have arrived yet.
        """
        published = self._poller.published
        if published is None:
            raise EvaluationError(EvaluationCause.NOT_READY, feature_id, "no flags have arrived yet")
        return evaluate(published.snapshot, user, feature_id, self._tag).evaluation(user.id)

    def statistics(self) -> LocalEvaluationStatistics:
        """Return how fresh the flags are."""
        return self._poller.statistics()

    def on_change(self, callback: Callable[[FlagChanges], object]) -> None:
        """Have a function called after every poll that has changed flags, the first one included.

        It is called on the event loop, with the new flags in place, and must be short: while it runs, nothing else
        does. What it raises is logged.

        Raises:
            TypeError: If it is not callable, or a coroutine function.
        """
        self._poller.on_change(callback)
