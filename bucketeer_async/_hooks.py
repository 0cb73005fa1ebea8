"""Hooks: the callbacks that an application has registered, called one after the other.

What a callback raises, and how long it takes, is logged and counted, and ends nothing. What the callbacks are called
with, and when, is left to the owner of a hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any, Final, Generic, TypeVar

from bucketeer_async._background import PerProcess
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._models import shown
from bucketeer_async._options import is_callback

_T = TypeVar("_T")

_SLOW: Final = 0.05  # seconds; a callback that takes longer is logged


class Subscription:
    """A registered callback."""

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[Subscription, Any]) -> None:
        self._entries = entries

    def cancel(self) -> None:
        """Have the callback not be called any more; no effect the second time. May be called from any thread."""
        self._entries.pop(self, None)


class _Entry(Generic[_T]):
    """A callback, and whether it was logged as slow."""

    __slots__ = ("callback", "is_slow")

    def __init__(self, callback: Callable[[_T], object]) -> None:
        self.callback = callback
        self.is_slow = False


class _Errors:
    """The number of exceptions in one process."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


class Hook(Generic[_T]):
    """The callbacks of one hook.

    Args:
        name: The method that registers a callback, as log lines call it.
        logger: Where exceptions and slow callbacks are logged.
        clock: Monotonic seconds, fine enough for milliseconds.
    """

    def __init__(self, name: str, logger: GuardedLogger, clock: Callable[[], float] = time.perf_counter) -> None:
        self._name = name
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._clock = clock
        # Each change, and each copy for an iteration, is one step of the interpreter: no lock is needed.
        self._entries: dict[Subscription, _Entry[_T]] = {}
        self._callers: set[int] = set()  # threads that are calling the callbacks
        self._errors = PerProcess(_Errors)

    @property
    def errors(self) -> int:
        """Exceptions that callbacks have raised in this process."""
        return self._errors.get().count

    @property
    def is_used(self) -> bool:
        """Whether there are callbacks."""
        return bool(self._entries)

    def check(self, callback: object) -> None:
        """Do nothing if an object can be registered.

        Raises:
            TypeError: If it is not callable, or a coroutine function.
        """
        if not is_callback(callback):
            raise TypeError(f"{self._name} takes a function that is not a coroutine, not {shown(callback)}")

    def register(self, callback: Callable[[_T], object]) -> Subscription:
        """Register a callback; from any thread.

        Raises:
            TypeError: If it is not callable, or a coroutine function.
        """
        self.check(callback)
        subscription = Subscription(self._entries)
        self._entries[subscription] = _Entry(callback)
        return subscription

    def call(self, value: _T) -> None:
        """Call all callbacks, in the order of their registration; not for what a callback has caused itself."""
        thread = get_ident()
        if thread in self._callers:
            return
        self._callers.add(thread)
        try:
            for subscription in list(self._entries):
                self.call_one(subscription, value)
        finally:
            self._callers.discard(thread)

    def call_one(self, subscription: Subscription, value: _T) -> None:
        """Call one callback, unless it was cancelled."""
        entry = self._entries.get(subscription)
        if entry is None:
            return
        began = self._clock()
        try:
            entry.callback(value)
        # Not a cancellation of this task, which would be raised by an await: a callback that called a future's result()
        # raises the CancelledError of another task, and sys.exit() in it would end a task of ours.
        except BaseException:  # noqa: BLE001 - logged with its traceback
            self._errors.get().add()
            self._log.report_exception(self._name, "a callback of %s raised an exception", self._name)
        self._notice_slow(entry, self._clock() - began)

    def _notice_slow(self, entry: _Entry[_T], seconds: float) -> None:
        if seconds <= _SLOW or entry.is_slow:
            return
        entry.is_slow = True
        self._logger.warning(
            "a callback of %s took %.0f ms, and the caller waits for it: leave long work to a task or a thread (%s)",
            self._name,
            seconds * 1000,
            _name_of(entry.callback),
        )


def _name_of(callback: Callable[..., object]) -> str:
    """Return the name of a callback for a line; not its repr, which may hold data of the application's."""
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))
