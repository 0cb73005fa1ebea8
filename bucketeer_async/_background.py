"""Tools for work beside the application: a background task, threads, values of one process, wake-ups, work in steps.

A task group must be left by the task that entered it, but ``start()`` and ``aclose()`` are called from any task: so a
task group lives in a background task. What the work is, and how it ends, is left to its owner.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - or else asyncio loads it on the loop, for the first thread
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context
from importlib import import_module
from itertools import islice
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

from bucketeer_async._errors import ClosedError, WrongLoopError
from bucketeer_async._process_id import known, learn

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_ANYIO: Final = "anyio._backends._asyncio"  # the name by which anyio itself loads it
_TURN: Final = 0.002  # seconds of work between two turns of the loop


async def in_thread(function: Callable[[*_Args], _T], *args: *_Args) -> _T:
    """Call a function in a thread of the loop's, and return its result.

    Raises:
        ClosedError: If no thread can be started, as when the process ends and calls the functions of ``atexit``.
    """
    with _starting_a_thread():
        call = asyncio.get_running_loop().run_in_executor(None, function, *args)
    return await call


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        ClosedError: As `in_thread`.
    """
    with _starting_a_thread():
        thread.start()


@contextlib.contextmanager
def _starting_a_thread() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ClosedError(f"a thread is needed and cannot be started ({error}): the process may be ending") from error


async def load_anyio() -> None:
    """Load anyio's backend in a thread: loaded at the first scope, it would hold the loop for tens of milliseconds."""
    if _ANYIO not in sys.modules:
        with contextlib.suppress(ImportError):  # under another name it is loaded when it is needed
            await in_thread(import_module, _ANYIO)


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return ``loop.time``, or what is called by it, if that is asyncio's own: each push asks for the time."""
    is_own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
    return time.monotonic if is_own else loop.time


def require_loop(loop: asyncio.AbstractEventLoop, owner: str) -> None:
    """Do nothing on ``loop``.

    Raises:
        WrongLoopError: On another event loop.
    """
    if asyncio.get_running_loop() is not loop:
        raise WrongLoopError(
            f"this {owner} belongs to another event loop: create and start one per loop, or call it from its own"
        )


class PerProcess(Generic[_T]):
    """A value that belongs to one process: made when it is first needed, and made anew in a forked child.

    A fork is noticed by the process id, so that a fork by a C library counts, too. The parent's value is kept in the
    child, untouched: its tasks, sockets and threads are the parent's, and a finalizer would act on them.

    Args:
        make: Makes the value; called once in each process, or more often if threads race for the first call.

    Attributes:
        values: The values by process id. ``values.get(known[0]) or get()`` is `get`, without a call in most cases.
    """

    __slots__ = ("_make", "values")

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self.values: dict[int, _T] = {}

    def get(self) -> _T:
        """Return this process's value; all threads get the same one."""
        pid = known[0] or learn()
        value = self.values.get(pid)
        return self.values.setdefault(pid, self._make()) if value is None else value

    def made(self) -> _T | None:
        """Return this process's value if it was made before."""
        return self.values.get(known[0] or learn())

    def inherited(self) -> list[_T]:
        """Return the values of the processes from which this one was forked; only to be looked at."""
        pid = known[0] or learn()
        return [value for made_in, value in self.values.items() if made_in != pid]


class BackgroundTask:
    """A running task that outlives the task that made it.

    Args:
        work: Called with a function that it calls once when it is ready.
        name: Name of the task.
        owner: What a `WrongLoopError` calls the object that the task belongs to.
    """

    def __init__(
        self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], *, name: str, owner: str
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._owner = owner
        self._ready: asyncio.Future[None] = self.loop.create_future()
        # An empty context: nothing of the request that happened to start it is kept alive or inherited. The loop's
        # task factory is not used, because it may make eager tasks: the work must not begin before its owner has
        # this object.
        self._task = asyncio.Task(self._run(work), loop=self.loop, name=name, context=Context())

    async def _run(self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        try:
            await work(self._set_ready)
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
            self._ready.exception()  # marks the exception as retrieved: every waiting caller may be gone
        self._set_ready()

    def _set_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def require_loop(self) -> None:
        """Do nothing on the loop of the task.

        Raises:
            WrongLoopError: On another event loop.
        """
        require_loop(self.loop, self._owner)

    def cancel(self) -> None:
        """Cancel the work."""
        self._task.cancel()

    async def ready(self) -> None:
        """Wait until the work is ready, or raise what it raised before; a cancelled caller only stops waiting."""
        self.require_loop()
        # Not a shield, which reports a failure that nobody waits for any more to the loop, from Python 3.14 on.
        await asyncio.wait([self._ready])
        self._ready.result()

    async def join(self) -> None:
        """Wait for the end of the work; a cancelled caller only stops waiting.

        Raises:
            WrongLoopError: If awaited on another event loop.
        """
        self.require_loop()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()


class Progress:
    """Wakes waiting callers, in the order of their coming, each time something has moved on.

    Attributes:
        waiters: The waiting callers; for reading whether there are any.
    """

    def __init__(self) -> None:
        self.waiters: dict[asyncio.Future[None], None] = {}  # in the order of their coming

    def notify(self, count: int | None = None) -> None:
        """Wake all waiting callers, or the first ``count``, including those that were woken and have not run yet."""
        for waiter in islice(self.waiters, count):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for a `notify`."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters[waiter] = None
        try:
            await waiter
        finally:
            del self.waiters[waiter]


async def in_turns(steps: Generator[None, None, _T], work_clock: Callable[[], float]) -> _T:
    """Take all steps of long work, with a turn of the loop after every 2 ms of it; return the result.

    Args:
        steps: The work, cut into short steps.
        work_clock: Monotonic seconds, fine enough for milliseconds.
    """
    turn_ends = work_clock() + _TURN
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        if work_clock() >= turn_ends:
            await asyncio.sleep(0)
            turn_ends = work_clock() + _TURN
