"""ClientThread: runs the event loop of a client in a thread, for programs that have none; in a forked child anew.

What the client does is left to `Client`.

anyio's blocking portal does the same in one process. In a forked child, leaving a portal that the parent has entered
waits for a thread that the child does not have, even when the garbage collector does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from types import EllipsisType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from bucketeer_async._background import PerProcess, start_thread
from bucketeer_async._client import Client
from bucketeer_async._errors import ClosedError, WrongLoopError
from bucketeer_async._lifecycle import NO_COPY
from bucketeer_async._options import check_kind, check_seconds, check_timeout
from bucketeer_async._results import DrainReport

_T = TypeVar("_T")

_CLOSED: Final = "the client thread is closed"


class ClientThread:
    """Runs a client in a thread, for programs that have no event loop.

    Use it as a context manager, or call `start` and `close`. All methods can be called from any thread. Inside, the
    client's methods that end in ``_nowait`` can be called as they are; for all others there is `run`.

    In a forked child the client thread is new, and has to be started there, also if the parent has started it. `close`
    does nothing in a child in which it was not started.

    Args:
        client: The client, which has not been started.
        ready_timeout: Seconds that `start` waits for flags to arrive, with local evaluation. After that, and until they
            arrive, flags have their defaults.

    Raises:
        ConfigurationError: If an argument is wrong.
    """

    def __init__(self, client: Client, *, ready_timeout: float = 5.0) -> None:
        check_seconds("ClientThread.ready_timeout", ready_timeout, zero=True)
        self._client = check_kind("ClientThread.client", client, Client)
        self._ready_timeout = ready_timeout
        self._life = PerProcess(self._new_life)

    def _new_life(self) -> _Life:
        return _Life(self._client, self._ready_timeout)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} {NO_COPY}")

    def start(self) -> None:
        """Start the client, and wait until flags can be evaluated, or until ``ready_timeout``; no effect while running.

        Raises:
            ClosedError: If the client was closed, or the process is ending.
            ConfigurationError: As `Client.start`.
            WrongLoopError: If the client was started on another event loop.
        """
        self._life.get().start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the client's event loop, such as ``client.flush()``, and return its result.

        Raises:
            ClosedError: If the client thread does not run.
            WrongLoopError: If called on the client's event loop, which would wait for itself.
            Exception: What the coroutine raises.
        """
        return self._life.get().run(coroutine)

    def close(self, timeout: float | EllipsisType | None = ...) -> DrainReport:
        """Close the client as `Client.aclose` does, and end the thread; an empty report if it was never started.

        Args:
            timeout: As in `Client.aclose`.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            WrongLoopError: If called on the client's event loop, which would wait for itself.
        """
        return self._life.get().close(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Life:
    """The thread of one process, and its event loop."""

    def __init__(self, client: Client, ready_timeout: float) -> None:
        self._client = client
        self._ready_timeout = ready_timeout
        self._lock = threading.RLock()  # reentrant: a signal handler may close while the lock is held
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = Future[None]()
        self._closing = asyncio.Event()
        self._closers: list[asyncio.Task[DrainReport]] = []
        self._has_ended = False  # from then on the loop takes nothing
        self._error: BaseException | None = None
        self._report = DrainReport()

    def start(self) -> None:
        """As `ClientThread.start`."""
        with self._lock:
            if self._has_ended:
                raise ClosedError("the client thread is closed; make a new one, with a new client")
            if self._thread is None:
                # A daemon: the thread of a client that is never closed must not keep the process from ending.
                thread = threading.Thread(target=self._main, name="bucketeer-client", daemon=True)
                loop = asyncio.new_event_loop()
                try:
                    self._loop = loop
                    start_thread(thread)
                except BaseException:
                    self._loop = None
                    loop.close()
                    raise
                self._thread = thread
        self._started.result()

    def call(self, function: Callable[[asyncio.AbstractEventLoop], _T]) -> _T:
        """Have the loop take something from any other thread.

        Raises:
            ClosedError: If the loop takes nothing.
            WrongLoopError: If called on the loop.
        """
        with self._lock:
            if self._thread is threading.current_thread():
                raise WrongLoopError("a client thread cannot wait for itself: await the client's own methods instead")
            if self._loop is None:
                raise ClosedError("the client thread is not started in this process")
            if self._has_ended:
                raise ClosedError(_CLOSED)
            return function(self._loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """As `ClientThread.run`."""
        try:
            future = self.call(lambda loop: asyncio.run_coroutine_threadsafe(coroutine, loop))
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            if self._has_ended:
                raise ClosedError(_CLOSED) from None
            raise
        finally:
            future.cancel()  # the wait may have been interrupted by Ctrl-C

    def close(self, timeout: float | EllipsisType | None) -> DrainReport:
        """As `ClientThread.close`."""
        limit = timeout if isinstance(timeout, EllipsisType) else check_timeout(timeout)
        with contextlib.suppress(ClosedError):
            self.call(lambda loop: loop.call_soon_threadsafe(self._begin_closing, limit))
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._report

    def _begin_closing(self, timeout: float | EllipsisType | None) -> None:
        self._closers.append(asyncio.get_running_loop().create_task(self._client.aclose(timeout)))
        self._closing.set()

    def _main(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 - made by `start`
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._run())
        except BaseException as error:  # noqa: BLE001 - raised to the caller of `start` or of `close`
            if self._started.done():
                self._error = error
            else:
                self._started.set_exception(error)

    async def _run(self) -> None:
        try:
            await self._client.start()
            with contextlib.suppress(TimeoutError, ClosedError):  # closed while it was starting
                async with asyncio.timeout(self._ready_timeout):
                    await self._client.wait_ready()
            self._started.set_result(None)
            await self._closing.wait()
            for closer in self._closers:  # there may be more meanwhile
                self._report = await closer
        finally:
            with self._lock:
                self._has_ended = True
            await asyncio.sleep(0)  # what the loop has taken before becomes tasks, which are cancelled
