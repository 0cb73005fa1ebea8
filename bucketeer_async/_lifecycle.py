"""The states of an object that is started and closed: one state machine for all of them.

Processor, client, connections and local evaluator have one each. The work of such an object runs in a background task,
the host, so that any task may start the object, and any other may close it. `Lifecycle` decides when the host may go on;
the owner gives the work as four functions.

::

    NEW --start--> STARTING --prepared--> RUNNING --begin_closing--> CLOSING --finished--> CLOSED
     |                 '---- begin_closing, an error, or every caller of start cancelled ----^       ^
     '---------------------------------- begin_closing ----------------------------------------------'

Invariants:

- A state is only ever left for one further to the right.
- ``prepare`` runs while STARTING, ``run`` while RUNNING and CLOSING, ``finish`` last, whatever happened before.
- Code that ends a loop may cancel all of its tasks, and more than once. The first time ends ``run``. After that, the host
  only ends with ``finish``, which is called again each time that it is cancelled, ten times at most.
- ``on_closing`` is called once, in the same step as the change to CLOSING.
- The start belongs to all of its callers: a cancelled one only stops waiting, and the last one undoes the start.
- A lifecycle belongs to one event loop of one process. In a forked child the copy of the host does nothing any more.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Final

from bucketeer_async._background import BackgroundTask
from bucketeer_async._errors import ClosedError

#: The advice for an object that has a life, if it is to be copied or pickled.
NO_COPY: Final = "cannot be copied or pickled: use the same object, or make another one in the other process"

_MOST_CANCELLATIONS: Final = 10  # of the host's last work, which goes on after each


class State(Enum):
    """The states of a `Lifecycle`, in their order."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


async def _nothing() -> None:
    return


class Lifecycle:
    """The life of one object.

    Args:
        owner: What error messages call the object.
        task_name: Name of the host task.
        prepare: What has to be done before the object runs; interrupted when closing begins.
        run: The work itself, which ends some time after closing began. By default it ends at once then.
        finish: What has to be done in the end. It is called again if it was cancelled, and goes on from where it was.
        conclude: Called once after ``finish``, also if ``finish`` has raised, or was cancelled too often.
        on_closing: Called when closing begins.
        inherited: The lives of the same object in the processes from which this one was forked.

    Attributes:
        state: The state; for reading.
        loop: The event loop that the object was started on; None before.
        thread: Id of the thread that the loop runs in, while the object is RUNNING; 0 before and afterwards.
        is_loop_running: ``loop.is_running``. With ``thread`` this tells quickly that most callers are on the loop of a
            running object: asyncio's own ``get_running_loop`` makes a system call on Python 3.11. For the others there
            are `require_loop` and `require_running`.
    """

    def __init__(
        self,
        owner: str,
        *,
        task_name: str,
        prepare: Callable[[], Awaitable[None]] = _nothing,
        run: Callable[[], Awaitable[None]] | None = None,
        finish: Callable[[], Awaitable[None]] = _nothing,
        conclude: Callable[[], None] = lambda: None,
        on_closing: Callable[[], None] = lambda: None,
        inherited: Iterable[Lifecycle] = (),
    ) -> None:
        self.state: State = State.NEW
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: int = 0
        self.is_loop_running: Callable[[], bool] = bool
        self._owner = owner
        self._task_name = task_name
        self._prepare = prepare
        self._run = run
        self._finish = finish
        self._conclude = conclude
        self._on_closing = on_closing
        self._was_started_before_fork = any(each.state is not State.NEW for each in inherited)
        self._pid = os.getpid()
        self._host: BackgroundTask | None = None
        self._starters = 0
        self._is_wanted = False  # whether a caller of `start` has seen the object run
        self._is_preparing = False  # then closing may interrupt the host; before its first step it could not clean up
        self._closing = asyncio.Event()

    def require_loop(self) -> None:
        """Do nothing on the loop that started the object, or before the start.

        Raises:
            WrongLoopError: On another loop.
        """
        if self._host is not None:
            self._host.require_loop()

    def require_running(self) -> None:
        """Do nothing while the object runs, on its loop.

        Raises:
            ClosedError: Before the start has succeeded, and once closing has begun.
            WrongLoopError: On another loop.
        """
        self.require_running_on_any_loop()
        self.require_loop()

    def require_running_on_any_loop(self) -> None:
        """Do nothing while the object runs; from any thread.

        Raises:
            ClosedError: Before the start has succeeded, and once closing has begun.
        """
        if self.state is not State.RUNNING:
            self.require_started()
            raise ClosedError(f"the {self._owner} is closed")

    def require_started(self) -> None:
        """Do nothing once the start has succeeded, also after the end.

        Raises:
            ClosedError: Before the start has succeeded.
        """
        if self.state in {State.NEW, State.STARTING}:
            raise ClosedError(f"the {self._owner} is {self.not_started}")

    @property
    def not_started(self) -> str:
        """What is said of the object before the start."""
        return "not started" + (" in this process (it was forked)" if self._was_started_before_fork else "")

    def begin(self) -> None:
        """Begin the start, without waiting for it; no effect while starting or running.

        Raises:
            ClosedError: If the object is closing or closed.
            WrongLoopError: If it was started on another event loop.
        """
        if self.state in {State.CLOSING, State.CLOSED}:
            raise ClosedError(f"the {self._owner} is closed; make a new one")
        if self.state is State.NEW:
            self.state = State.STARTING
            self.loop = asyncio.get_running_loop()
            self.is_loop_running = self.loop.is_running
            self._host = BackgroundTask(self._live, name=self._task_name, owner=self._owner)
        self.require_loop()

    async def start(self) -> None:
        """Start the object, or join a start under way; no effect while it runs.

        Raises:
            ClosedError: If the object is closing or closed, or is closed before it runs.
            WrongLoopError: If it was started on another event loop.
            Exception: What ``prepare`` raised.
        """
        self.begin()
        if self.state is State.STARTING:
            await self._started()
        self._is_wanted = True

    async def _started(self) -> None:
        """Wait until the object runs; the last of the waiting callers that is cancelled undoes the start."""
        assert self._host is not None  # noqa: S101 - made by the first caller of `start`
        self._starters += 1
        try:
            await self._host.ready()
        except asyncio.CancelledError:
            if self._starters == 1 and not self._is_wanted:  # also if the object runs by now: no caller knows
                self.begin_closing()
            raise
        finally:
            self._starters -= 1
        if self.state is not State.RUNNING:
            raise ClosedError(f"the {self._owner} was closed while it was starting")

    def begin_closing(self) -> None:
        """Have the work end, in its own time; no effect while closing or closed."""
        match self.state:
            case State.NEW:
                self.state = State.CLOSED
            case State.STARTING | State.RUNNING:
                self.state = State.CLOSING
                self.thread = 0
                self._on_closing()
                self._closing.set()
                if self._is_preparing and self._host is not None:
                    self._host.cancel()

    async def until_closing(self) -> None:
        """Wait until closing begins."""
        await self._closing.wait()

    async def closed(self) -> None:
        """Wait for the end of the work; a cancelled caller only stops waiting.

        Raises:
            WrongLoopError: If awaited on another event loop.
            Exception: What ``run`` or ``finish`` raised.
        """
        if self._host is not None:
            await self._host.join()

    def is_under_way(self) -> bool:
        """Whether the object was started in this process, and is not closed."""
        return self._pid == os.getpid() and self.state not in {State.NEW, State.CLOSED}

    def abandon(self) -> None:
        """Take the object for closed, because its loop is gone."""
        self.state = State.CLOSED
        self.thread = 0

    async def _live(self, ready: Callable[[], None]) -> None:
        """Do the work of the host task."""
        try:
            if await self._prepared():
                self.state = State.RUNNING
                self.thread = threading.get_ident()
                ready()
                await (self._run or self.until_closing)()
        finally:
            # The copy of the host in a forked child is cancelled when the child ends: nothing of it is the child's. And
            # nothing can be done once the loop is closed: the garbage collector ends the host then.
            if os.getpid() == self._pid and self.loop is not None and not self.loop.is_closed():
                try:
                    self.begin_closing()  # an error, or the end of the loop, comes here while starting or running
                    await self._finished()
                finally:
                    self._end()

    async def _finished(self) -> None:
        """Finish; a cancellation of the host only begins it again."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is the host
        before = task.cancelling()
        for _ in range(_MOST_CANCELLATIONS):
            try:
                await self._finish()
            except asyncio.CancelledError:
                if task.cancelling() <= before:
                    raise  # not of the host: of something that it waited for
                task.uncancel()
            else:
                return
        await self._finish()

    def _end(self) -> None:
        try:
            self._conclude()
        finally:
            self.state = State.CLOSED

    async def _prepared(self) -> bool:
        """Prepare; return False if closing began before that was done."""
        self._is_preparing = self.state is State.STARTING
        try:
            if self._is_preparing:
                await self._prepare()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.state is State.STARTING or task is None:
                raise  # the loop ends
            task.uncancel()
        finally:
            self._is_preparing = False
        return self.state is State.STARTING
