"""Virtual time: an event loop whose clock jumps to the next deadline when nothing can run.

An hour passes in microseconds, and a deadlock is an error instead of a hang. Sockets and threads do not live in
virtual time: the work of a thread would seem to take no time.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from typing import Any


class DeadlockError(RuntimeError):
    """Nothing can run any more: no callback is ready and no timer is set."""


class _JumpingSelector:
    """A selector that moves the loop's clock to the next timer instead of waiting for it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)

    def select(self, timeout: float | None = None) -> list[Any]:
        events = self._selector.select(0)
        if timeout is None and not events:
            raise DeadlockError("every task waits for something that nobody will do")
        if timeout and not events:
            self._loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))  # type: ignore[arg-type] # it is one, by delegation
        if os.environ.get("BUCKETEER_TEST_LOOP") == "eager":
            self.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined] # newer than the oldest Python

    def time(self) -> float:
        return self.now
