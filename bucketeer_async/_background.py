"""Hosts work beside the application: one task, started by anybody, awaited by many.

A task group must be left by the task that entered it; ``start()`` and ``aclose()`` are called from any task. So the
group lives in a task of its own. What the work is, and how it is told to end, is left to its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from importlib import import_module
from itertools import islice
from typing import Any, Final

from bucketeer_async._errors import WrongLoopError

_ANYIO: Final = "anyio._backends._asyncio"  # the name by which anyio itself loads it


async def load_anyio() -> None:
    """Load what anyio would load at the first scope, for which it would hold the loop for tens of milliseconds."""
    if _ANYIO not in sys.modules:
        with contextlib.suppress(ImportError):  # under another name it is loaded when it is needed
            await asyncio.to_thread(import_module, _ANYIO)


def require_loop(loop: asyncio.AbstractEventLoop, owner: str) -> None:
    """Do nothing on ``loop``.

    Raises:
        WrongLoopError: If another event loop runs here.
    """
    if asyncio.get_running_loop() is not loop:
        raise WrongLoopError(
            f"this {owner} belongs to another event loop: create and start one per loop, or call it from its own"
        )


class BackgroundTask:
    """A running task that outlives the task that made it.

    Args:
        work: Called with a function that it calls once when it is ready.
        name: Name of the task.
        owner: What a `WrongLoopError` calls the object that it belongs to.
    """

    def __init__(
        self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], *, name: str, owner: str
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._owner = owner
        self._ready: asyncio.Future[None] = self.loop.create_future()
        # An empty context: nothing of the request that happened to start it is kept alive or inherited. Not made by
        # the loop, whose factory may make eager tasks: the work must not begin before its owner has this object.
        self._task = asyncio.Task(self._run(work), loop=self.loop, name=name, context=Context())

    async def _run(self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        try:
            await work(self._set_ready)
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
            self._ready.exception()  # marks it as seen: the one who waits may be gone
        self._set_ready()

    def _set_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    async def ready(self) -> None:
        """Wait until the work is ready, or raise what it raised before that; a cancelled caller only stops waiting."""
        require_loop(self.loop, self._owner)
        await asyncio.shield(self._ready)

    async def join(self) -> None:
        """Wait for the end of the work; a cancelled caller only stops waiting.

        Raises:
            WrongLoopError: If awaited on another event loop.
        """
        require_loop(self.loop, self._owner)
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()


class Progress:
    """Wakes those who wait, first come first served, each time something has moved on."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}  # in the order of their coming

    def notify(self, count: int | None = None) -> None:
        """Wake those who wait now, or the first ``count`` of them; those that were woken and did not run yet count."""
        for waiter in islice(self._waiters, count):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for a `notify`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            del self._waiters[waiter]
