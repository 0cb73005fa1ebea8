"""The parts of a disabled client: no flag is evaluated, nothing is sent, and every push is counted as refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

from bucketeer_async._errors import NotReadyError
from bucketeer_async._events._bounds import Bounds
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._flags._reasons import DisabledError
from bucketeer_async._hooks import Hook, Subscription
from bucketeer_async._log import GuardedLogger
from bucketeer_async._models import EventKind, User, check_user
from bucketeer_async._results import DrainReport, FlagChanges, RefusedReason, Statistics


class DisabledEvaluator:
    """Evaluates no flag.

    Attributes:
        callback_errors: 0, because no callback is ever called.
    """

    callback_errors = 0

    def __init__(self, logger: GuardedLogger) -> None:
        self._on_change: Hook[FlagChanges] = Hook("on_change", logger)

    async def start(self) -> None:
        """Do nothing."""

    async def wait_ready(self) -> None:
        """Do nothing."""

    def try_evaluate(self, *_arguments: object, **_named: object) -> None:
        """Return None: `evaluate` says why."""

    async def evaluate(self, *_arguments: object, **_named: object) -> NoReturn:
        """Raise `DisabledError`."""
        self.evaluate_timed()

    def evaluate_timed(self, *_arguments: object, **_named: object) -> NoReturn:
        """Raise `DisabledError`."""
        raise DisabledError("the client is disabled")

    async def evaluate_all(self, *_arguments: object, **_named: object) -> NoReturn:
        """Raise `DisabledError`."""
        raise DisabledError("the client is disabled")

    async def aclose(self) -> None:
        """Do nothing."""

    def statistics(self) -> None:
        """Return None, because there are no flags."""

    def on_change(self, callback: Callable[[FlagChanges], object]) -> Subscription:
        """Check the callback, and never call it, because no flag ever changes."""
        return self._on_change.register(callback)

    def export_snapshot(self) -> NoReturn:
        """Raise `NotReadyError`."""
        raise NotReadyError("the client is disabled: there are no flags")

    def explain(self, *_arguments: object, **_named: object) -> NoReturn:
        """Raise `NotReadyError`."""
        raise NotReadyError("the client is disabled: all flags have their defaults")


class DisabledProcessor:
    """Refuses every push.

    Args:
        logger: Where the start is logged.
        strict: Whether a goal of what is no `User` raises.
    """

    def __init__(self, logger: GuardedLogger, *, strict: bool = False) -> None:
        self._logger = logger
        self._strict = strict
        self._ledger = Ledger(
            Bounds(0, 0, "drop_newest"),
            lifetime=math.inf,
            on_lost=lambda _record: None,
            on_due=lambda: None,
            on_settled=lambda _records: None,
        )

    async def start(self) -> None:
        """Log that nothing will be sent."""
        self._logger.info("the client has started; it is disabled: all flags have their defaults, and nothing is sent")

    async def flush(self, *_timeout: object, **_named: object) -> bool:
        """Return True, because nothing waits."""
        return True

    async def aclose(self, *_timeout: object, **_named: object) -> DrainReport:
        """Return an empty report."""
        return DrainReport()

    def _notice_lost_loop(self) -> None:
        """Do nothing, because nothing is lost with a loop."""

    def _limit_drain(self, _timeout: object) -> None:
        """Do nothing, because nothing is drained."""

    def statistics(self) -> Statistics:
        """Return the counts of refused pushes."""
        return self._ledger.statistics()

    def push_evaluation_event_nowait(self, *_event: object, **_named: object) -> Receipt:
        """Refuse the push."""
        return self._refuse(EventKind.EVALUATION)

    def push_default_evaluation_event_nowait(self, *_event: object, **_named: object) -> Receipt:
        """Refuse the push."""
        return self._refuse(EventKind.EVALUATION)

    def _record_latency(self, _duration: object) -> None:
        """Refuse the push."""
        self._refuse(EventKind.METRICS)

    def _record_local_evaluation(self, *_event: object, **_named: object) -> None:
        """Refuse both pushes."""
        self._refuse(EventKind.METRICS)
        self._refuse(EventKind.EVALUATION)

    async def push_goal_event(self, user: User, *_goal: object, **_named: object) -> Receipt:
        """Refuse the push."""
        return self.push_goal_event_nowait(user)

    def push_goal_event_nowait(self, user: User, *_goal: object, **_named: object) -> Receipt:
        """Refuse the push; that of a goal without a user as `INVALID`.

        Raises:
            TypeError: If ``user`` is no `User`, and the client is strict.
        """
        try:
            check_user(user)
        except TypeError as error:
            if self._strict:
                raise
            return self._refuse(EventKind.GOAL, RefusedReason.INVALID, str(error))
        return self._refuse(EventKind.GOAL)

    def _refuse(self, kind: EventKind, reason: RefusedReason = RefusedReason.DISABLED, message: str = "") -> Receipt:
        return self._ledger.intake.refuse(kind, reason, message)
