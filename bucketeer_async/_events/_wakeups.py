"""Wakeups: wake the event loop that delivers events, from the threads that push them.

A push may come from any thread, from a signal handler, and from a finalizer: also while the loop sleeps in ``select``,
and in the middle of `asyncio.Event.wait`, which would miss an event that is set then, and all later ones. So each request
is a callback of the loop, by ``call_soon_threadsafe``, which ends that sleep. Requests before the loop's next turn are one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from bucketeer_async._background import Progress


class Wakeups:
    """Wakes the collector, the callers that wait for progress, and the pushes that wait for room.

    Args:
        room: Returns how many waiting pushes there is room for; None wakes all of them, in the end, to be refused.

    Attributes:
        collector: Set when the collector has to look again.
        progress: Notified when records were settled.
        due: Call it from any thread when accepted records are due: the collector looks again. A push makes no room.
        changed: Call it from any thread when records were settled: the collector and all waiting callers look again.
    """

    def __init__(self, room: Callable[[], int | None]) -> None:
        self.collector = asyncio.Event()
        self.progress = Progress()
        self._count_room = room
        self._room = Progress()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.due = partial(self._request, self.collector.set)
        self.changed = partial(self._request, self.notify)
        self._requested: set[Callable[[], None]] = set()  # until the loop's next turn

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake on this loop from now on."""
        self._loop = loop

    # From any thread

    def _request(self, wake: Callable[[], None]) -> None:
        if self._loop is None or wake in self._requested:
            return
        self._requested.add(wake)
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left on it
            self._loop.call_soon_threadsafe(self._wake, wake)

    # On the loop

    def _wake(self, wake: Callable[[], None]) -> None:
        self._requested.discard(wake)
        wake()

    def notify(self) -> None:
        """Wake the collector and the waiting callers at once."""
        self.collector.set()
        if self.progress.waiters:
            self.progress.notify()
        if self._room.waiters:
            self._room.notify(self._count_room())

    async def wait_for_room(self) -> None:
        """Wait until there may be room for one more record, first come first served."""
        try:
            await self._room.wait()
        except asyncio.CancelledError:
            self.leave_room()
            raise

    def leave_room(self) -> None:
        """Wake the next callers, because one may have been woken for room that it does not take."""
        self._room.notify(self._count_room())
