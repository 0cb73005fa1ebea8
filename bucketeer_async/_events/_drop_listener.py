"""Calls the application's ``on_drop`` where it can harm nobody: on a thread of its own, one call at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from bucketeer_async._results import Drop

_MOST_WAITING: Final = 100_000  # drops not yet told; with a callback slower than that, further ones are only counted


class DropListener:
    """Tells drops to a callback; usable from any thread, never blocks.

    Args:
        callback: The application's function. What it raises is logged.
        logger: Where to log that.
    """

    def __init__(self, callback: Callable[[Drop], None], logger: logging.Logger) -> None:
        self._callback = callback
        self._logger = logger
        self._drops: SimpleQueue[Drop | Callable[[], None]] = SimpleQueue()
        self._lock = threading.RLock()  # the garbage collector may run a push inside
        self._thread: threading.Thread | None = None
        self._closed = False
        self._untold = 0

    def hear(self, drop: Drop) -> None:
        """Take a drop to be told soon; not after `close`, and not if the callback itself has caused it."""
        if self._closed or threading.current_thread() is self._thread:
            return  # counted all the same; told, a callback that pushes into a full queue would go on for ever
        if self._drops.qsize() >= _MOST_WAITING:
            self._untold += 1
            return
        self._drops.put(drop)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon: a callback that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._tell, name="bucketeer-on-drop", daemon=True)
                self._thread.start()

    def _tell(self) -> None:
        while True:
            item = self._drops.get()
            if not isinstance(item, Drop):
                item()
                return
            try:
                self._callback(item)
            except Exception:
                self._logger.exception("on_drop raised an exception")

    def close(self, done: Callable[[], None] = lambda: None) -> bool:
        """End the thread after everything was told, and call ``done`` on it; False if there is no thread."""
        if self._untold:
            self._logger.warning("on_drop was too slow to hear of %d events; the statistics have them", self._untold)
        with self._lock:
            self._closed = True
            if self._thread is None:
                return False
            self._drops.put(done)
        return True

    async def aclose(self, timeout: float) -> None:
        """End the thread, and wait at most ``timeout`` seconds until everything was told."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        if self.close(lambda: _call_soon(loop, told.set)):
            try:
                async with asyncio.timeout(timeout):
                    await told.wait()
            except TimeoutError:
                self._logger.warning("on_drop is still busy; the rest is told in the background")


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return
