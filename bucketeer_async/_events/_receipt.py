"""Receipt: the record of one pushed event, which has the outcome of the event once it is settled.

The outcome is decided in `_ledger.py`; a receipt only carries it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Final

from bucketeer_async._background import require_loop
from bucketeer_async._events._encoder import EVENT_ID
from bucketeer_async._events._suspicion import Suspicion
from bucketeer_async._models import EventKind
from bucketeer_async._results import Outcome

# Two threads may have a reason at once: the loop's, and the one that writes the spool.
_making_history: Final = threading.RLock()


class Origin:
    """What all receipts of a kind have in common that were made within one millisecond and one epoch.

    Attributes:
        kind: Class of the events.
        loop: The loop that the receipts are awaited on; None if the pushes were refused.
        pushed_at: Monotonic seconds.
        epoch: See `Epochs`.
    """

    __slots__ = ("epoch", "kind", "loop", "pushed_at")

    def __init__(self, kind: EventKind, loop: asyncio.AbstractEventLoop | None, pushed_at: float, epoch: int) -> None:
        self.kind: EventKind = kind
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.pushed_at: float = pushed_at
        self.epoch: int = epoch


class _History:
    """What few receipts have: somebody who waits, a row in the spool, a post that failed."""

    __slots__ = ("maybe_stored", "spool_row", "suspicion", "waiter")

    def __init__(self) -> None:
        self.maybe_stored = False
        self.spool_row = 0
        self.suspicion: Suspicion | None = None
        self.waiter: asyncio.Future[None] | None = None


class Receipt:
    """The receipt of one push.

    Attributes:
        outcome: What became of the event; None until it is settled.
    """

    # A receipt is the queued record itself, so that it costs nothing unless it is awaited: 64 bytes beside its body. Its
    # private fields belong to the folder `_events`, which alone makes receipts; `_body` is the JSON of the event, cut
    # off behind the id once the event is settled.
    __slots__ = ("_body", "_history", "_origin", "outcome")

    outcome: Outcome | None

    def __init__(self, origin: Origin, body: bytes) -> None:
        self.outcome = None
        self._origin = origin
        self._body = body
        self._history: _History | None = None

    @property
    def kind(self) -> EventKind:
        """Class of the event."""
        return self._origin.kind

    @property
    def _pushed_at(self) -> float:
        return self._origin.pushed_at

    @property
    def _epoch(self) -> int:
        return self._origin.epoch

    # What few receipts have

    @property
    def _maybe_stored(self) -> bool:
        """Whether the gateway may have stored the event though no answer said so."""
        return self._history is not None and self._history.maybe_stored

    @_maybe_stored.setter
    def _maybe_stored(self, maybe_stored: bool) -> None:
        self._own_history().maybe_stored = maybe_stored

    @property
    def _spool_row(self) -> int:
        """Row in the spool; 0 if the event is not in the spool."""
        return 0 if self._history is None else self._history.spool_row

    @_spool_row.setter
    def _spool_row(self, row: int) -> None:
        self._own_history().spool_row = row

    @property
    def _suspicion(self) -> Suspicion | None:
        """What is known of failed posts; None if none has failed."""
        return None if self._history is None else self._history.suspicion

    @_suspicion.setter
    def _suspicion(self, suspicion: Suspicion) -> None:
        self._own_history().suspicion = suspicion

    def _own_history(self) -> _History:
        if self._history is None:
            with _making_history:
                if self._history is None:
                    self._history = _History()
        return self._history

    # For the application

    @property
    def event_id(self) -> str:
        """UUID v4 of the event; "" if the push was refused."""
        return self._body[EVENT_ID].decode()

    @property
    def accepted(self) -> bool:
        """False if the push was refused."""
        return self._body != b""

    async def settled(self) -> Outcome:
        """Wait until the event is settled, and return its outcome.

        Raises:
            WrongLoopError: If awaited on another event loop than the processor's.
        """
        if self.outcome is None:
            loop, history = self._origin.loop, self._own_history()
            assert loop is not None  # noqa: S101 - only an accepted event has no outcome yet
            if asyncio.get_running_loop() is not loop:
                require_loop(loop, "receipt")
            if history.waiter is None:
                history.waiter = loop.create_future()
            # Read again once the waiter is in place: another thread may have displaced the event in between.
            if self.outcome is None:
                await asyncio.shield(history.waiter)
        outcome: Outcome | None = self.outcome
        assert outcome is not None  # noqa: S101 - the waiter is resolved after the outcome is set
        return outcome

    def __repr__(self) -> str:
        return f"<Receipt {self.kind} {self.event_id or '-'} {self.outcome.fate if self.outcome else 'not settled'}>"


def wake_waiter(waiter: asyncio.Future[None]) -> None:
    """Wake the callers of `Receipt.settled`, from any thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and no caller is left on it
        waiter.get_loop().call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
