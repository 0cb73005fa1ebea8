"""Receipt: the record of one pushed event, which has the outcome of the event once it is settled.

The outcome is decided in `_ledger.py`; a receipt only carries it.
"""

from __future__ import annotations

import asyncio
import contextlib

from bucketeer_async._background import require_loop
from bucketeer_async._events._encoder import EVENT_ID
from bucketeer_async._events._suspicion import Suspicion
from bucketeer_async._models import EventKind
from bucketeer_async._results import Outcome


class Receipt:
    """The receipt of one push.

    Attributes:
        kind: Class of the event.
        outcome: What became of the event; None until it is settled.
    """

    # A receipt is the queued record itself, so that it costs nothing unless it is awaited. Its private fields belong to
    # the folder `_events`, which alone makes receipts:
    #   _body          JSON of the event; cut off behind the id once the event is settled
    #   _pushed_at     monotonic seconds
    #   _epoch         see `Epochs`
    #   _suspicion     what is known of failed posts; None if none has failed
    #   _maybe_stored  whether the gateway may have stored the event though no answer said so
    #   _spool_row     row in the spool; 0 if the event is not in the spool
    __slots__ = (
        "_body",
        "_epoch",
        "_loop",
        "_maybe_stored",
        "_pushed_at",
        "_spool_row",
        "_suspicion",
        "_waiter",
        "kind",
        "outcome",
    )

    kind: EventKind
    outcome: Outcome | None

    def __init__(
        self, kind: EventKind, body: bytes, loop: asyncio.AbstractEventLoop | None, pushed_at: float, epoch: int
    ) -> None:
        self.kind = kind
        self.outcome = None
        self._body = body
        self._loop = loop
        self._pushed_at = pushed_at
        self._epoch = epoch
        self._maybe_stored = False
        self._spool_row = 0
        self._suspicion: Suspicion | None = None
        self._waiter: asyncio.Future[None] | None = None

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
            assert self._loop is not None  # noqa: S101 - only an accepted event has no outcome yet
            if asyncio.get_running_loop() is not self._loop:
                require_loop(self._loop, "receipt")
            if self._waiter is None:
                self._waiter = self._loop.create_future()
            # Read again once the waiter is in place: another thread may have displaced the event in between.
            if self.outcome is None:
                await asyncio.shield(self._waiter)
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
