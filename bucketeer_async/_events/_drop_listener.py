"""DropListener: calls the application's ``on_drop`` on a thread of its own, one call at a time.

The pipeline does not wait for a call, and an exception of a call is only logged. Which events are reported is left to
`_losses.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from bucketeer_async._log import GuardedLogger
from bucketeer_async._results import Drop

_MOST_WAITING: Final = 100_000  # drops that wait for the callback; further ones are only counted


class DropListener:
    """Calls a callback with every drop; usable from any thread, never blocks.

    Args:
        callback: The application's function. What it raises is logged.
        logger: Where exceptions of the callback are logged.
    """

    def __init__(self, callback: Callable[[Drop], None], logger: GuardedLogger) -> None:
        self._callback = callback
        self._logger = logger
        self._drops: SimpleQueue[Drop | Callable[[], None]] = SimpleQueue()
        self._lock = threading.RLock()  # the garbage collector may run a push inside
        self._thread: threading.Thread | None = None
        self._closed = False
        self._skipped = 0

    def put(self, drop: Drop) -> None:
        """Have the callback called soon; not after `close`, and not for a drop that the callback itself has caused."""
        if self._closed or threading.current_thread() is self._thread:
            return  # counted all the same: a callback that pushes into a full queue would go on for ever
        if self._drops.qsize() >= _MOST_WAITING:
            self._skipped += 1
            return
        self._drops.put(drop)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon: a callback that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._call_back, name="bucketeer-on-drop", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter ends: the next drop tries again
                    self._thread = None
                    self._logger.warning("on_drop cannot be called now: %s", error)

    def _call_back(self) -> None:
        while True:
            item = self._drops.get()
            if not isinstance(item, Drop):
                item()
                return
            try:
                self._callback(item)
            except BaseException:  # sys.exit() in the callback, too, would end the thread, and with it all later calls
                self._logger.exception("on_drop raised an exception")

    def close(self, done: Callable[[], None] = lambda: None) -> bool:
        """End the thread after the last drop, and call ``done`` on it then; return False if there is no thread."""
        if self._skipped:
            self._logger.warning(
                "on_drop was too slow: it was not called for %d events; the statistics count them", self._skipped
            )
        with self._lock:
            self._closed = True
            if self._thread is None:
                return False
            self._drops.put(done)
        return True

    async def aclose(self, timeout: float) -> None:
        """End the thread, and wait at most ``timeout`` seconds for its end."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        if self.close(lambda: _call_soon(loop, ended.set)):
            try:
                async with asyncio.timeout(timeout):
                    await ended.wait()
            except TimeoutError:
                self._logger.warning("on_drop is still busy; the remaining calls go on in the background")


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop is closed: no caller waits any more
        return
