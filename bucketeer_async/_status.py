"""Status: the state of a client as `on_status` tells it, computed from what its parts note.

The parts note facts, and know nothing of the state: the life of the client, the outcome of each poll and of each
evaluation by the gateway, whether the delivery of events is held back, and whether the flags are stale. After each fact
the state is computed anew, and the callbacks are called if it is another one.

The first row that holds is the state:

====================================================================  ===========
the client is closed                                                  `CLOSED`
the client is closing                                                 as before
flags are evaluated, and no poll succeeded for three intervals        `STALE`
events are held back, or three polls or evaluations in a row failed   `FAILING`
no flags have arrived yet                                             `STARTING`
the client was `READY`, and `STALE` or `FAILING` after that           `RECOVERED`
otherwise                                                             `READY`
====================================================================  ===========

::

    --start--> STARTING ---> READY ---> STALE, FAILING <---> RECOVERED
                  ^            ^            ^     ^
                  '-> FAILING -'            '-----'
                      before the first flags

    any state ---> CLOSED

Invariants:

- Before the start there is no state, and no callback is called.
- Each call is about another state than the one before. The reason is that of the moment in which the state began.
- All facts are noted on the event loop of the client, so that the calls are in order.
- The status belongs to one process: a forked child begins without a state, with the callbacks of its parent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial, update_wrapper
from threading import get_ident

from bucketeer_async._background import PerProcess
from bucketeer_async._hooks import Hook, Subscription
from bucketeer_async._lifecycle import State
from bucketeer_async._log import GuardedLogger
from bucketeer_async._notices import ClientState, ClientStatus


class Part(Enum):
    """A part of a client that may fail; the value is how many failures in a row count as failing, and how it is described."""

    EVENTS = (1, "events cannot be delivered")
    POLLS = (3, "flags cannot be polled")
    EVALUATIONS = (3, "flags cannot be evaluated by the gateway")


class _Facts:
    """What is known of the client in one process."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.life = State.NEW
        self.failures = dict.fromkeys(Part, 0)  # in a row
        self.errors = dict.fromkeys(Part, "")  # the latest
        self.stale = ""  # why the flags are stale
        self.was_ready = False
        self.status: ClientStatus | None = None
        self.untold: deque[ClientStatus] = deque()
        self.is_telling = False


class _OncePerStatus:
    """A callback that is not called with the status of the call before: a late subscriber may come during a change."""

    def __init__(self, callback: Callable[[ClientStatus], object]) -> None:
        update_wrapper(self, callback, assigned=["__qualname__"], updated=())
        self._callback = callback
        self._last: ClientStatus | None = None

    def __call__(self, status: ClientStatus) -> None:
        if status is not self._last:
            self._last = status
            self._callback(status)


class Status:
    """The status of a client, and the callbacks of `on_status`.

    Args:
        logger: Where exceptions of callbacks are logged.

    Attributes:
        is_ready: Returns whether flags can be evaluated; set once the evaluator is made.
        hook: The callbacks.
    """

    def __init__(self, logger: GuardedLogger) -> None:
        self.is_ready: Callable[[], bool] = lambda: True
        self.hook: Hook[ClientStatus] = Hook("on_status", logger)
        self._facts = PerProcess(_Facts)

    def on_status(self, callback: Callable[[ClientStatus], object]) -> Subscription:
        """Register a callback; it is called with the present status at once, or soon if this is another thread.

        Raises:
            TypeError: If it is not callable, or a coroutine function.
        """
        self.hook.check(callback)
        subscription, facts = self.hook.register(_OncePerStatus(callback)), self._facts.get()
        loop = facts.loop
        if loop is None or facts.thread == get_ident() or not loop.is_running():
            self._tell(subscription)
        else:
            loop.call_soon_threadsafe(self._tell, subscription)
        return subscription

    def _tell(self, subscription: Subscription) -> None:
        status = self._facts.get().status
        if status is not None:
            self.hook.call_one(subscription, status)

    # Facts

    def note_life(self, state: State) -> None:
        """Note that the life of the client has reached a state."""
        facts = self._facts.get()
        if facts.loop is None:
            facts.loop, facts.thread = asyncio.get_running_loop(), get_ident()
        facts.life = state
        self._update(facts)

    def outcomes_of(self, part: Part) -> Callable[[str], None]:
        """Return a function that notes an outcome of a part: its error in words, "" for a success."""
        return partial(self._note_outcome, part)

    def _note_outcome(self, part: Part, error: str) -> None:
        facts = self._facts.get()
        facts.failures[part] = facts.failures[part] + 1 if error else 0
        facts.errors[part] = error
        self._update(facts)

    def note_stale(self, reason: str) -> None:
        """Note why the flags are stale; "" if they are not."""
        facts = self._facts.get()
        facts.stale = reason
        self._update(facts)

    # The state

    def _update(self, facts: _Facts) -> None:
        """Compute the status, and call the callbacks if the state is another one."""
        status = _status_of(facts, self.is_ready)
        if status is None or (facts.status is not None and status.state is facts.status.state):
            return
        facts.status = status
        facts.was_ready = facts.was_ready or status.state is ClientState.READY
        facts.untold.append(status)
        if facts.is_telling:  # a callback has caused this
            return
        facts.is_telling = True
        while facts.untold:
            self.hook.call(facts.untold.popleft())
        facts.is_telling = False


def _status_of(facts: _Facts, is_ready: Callable[[], bool]) -> ClientStatus | None:
    """Return the status by the table above; None if there is none yet."""
    match facts.life:
        case State.CLOSED:
            return ClientStatus(state=ClientState.CLOSED)
        case State.NEW | State.CLOSING:
            return facts.status
    if facts.stale:
        return ClientStatus(state=ClientState.STALE, reason=facts.stale)
    failing = next((part for part in Part if facts.failures[part] >= part.value[0]), None)
    if failing is not None:
        return ClientStatus(state=ClientState.FAILING, reason=f"{failing.value[1]}: {facts.errors[failing]}")
    if facts.life is State.STARTING or not is_ready():
        return ClientStatus(state=ClientState.STARTING)
    was_in_trouble = facts.status is not None and facts.status.state is not ClientState.READY
    return ClientStatus(state=ClientState.RECOVERED if facts.was_ready and was_in_trouble else ClientState.READY)
