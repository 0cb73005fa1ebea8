"""The SDK's own metrics events: latency, size and errors of its evaluations and polls.

When an operation begins and ends is left to the files that carry it out: `_remote.py`, `_local.py` and `_poller.py`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Protocol

from bucketeer_async._background import PerProcess
from bucketeer_async._models import ApiId
from bucketeer_async._retry import refuses_key


class PushedEvent(Protocol):
    """The part of a `Receipt` that is needed to see whether its event is settled."""

    @property
    def outcome(self) -> object | None: ...


class MetricsEvents(Protocol):
    """The pushes of a `Processor` that are used here."""

    def push_latency_metrics_event_nowait(self, duration: float, api_id: ApiId) -> object: ...
    def push_size_metrics_event_nowait(self, size_byte: int, api_id: ApiId) -> object: ...
    def push_error_metrics_event_nowait(self, error: BaseException, api_id: ApiId) -> PushedEvent: ...


class OwnMetrics:
    """Pushes the metrics events of an operation; from any thread.

    While the gateway is down, every operation fails, and no event is delivered. Error events must not crowd out all
    others, so at most ``max_errors`` of them wait at once, and further ones are not pushed. A failed delivery of events
    makes no event.

    Args:
        events: The processor; None for no metrics events.
        max_errors: Error events that may wait for delivery; and one more for each thread that meets an error at the
            same moment.
    """

    def __init__(self, events: MetricsEvents | None, *, max_errors: int) -> None:
        self._events = events
        self._max_errors = max_errors
        # Events that wait in the parent are never settled in a forked child.
        self._waiting_errors = PerProcess[deque[PushedEvent]](deque)

    def completed(self, api_id: ApiId, duration: float, size_byte: int | None = None) -> None:
        """Push the latency of an operation, and the size of its response.

        Args:
            api_id: The operation.
            duration: Seconds.
            size_byte: Bytes received; None for an operation without a response.
        """
        if self._events is None:
            return
        self._events.push_latency_metrics_event_nowait(duration, api_id)
        if size_byte is not None:
            self._events.push_size_metrics_event_nowait(size_byte, api_id)

    def failed(self, api_id: ApiId, error: BaseException) -> None:
        """Push the error of an operation, unless too many errors wait already, or no event reports it."""
        if self._events is None or refuses_key(error):
            return
        waiting = self._waiting_errors.get()
        # An event is taken out before its outcome is read: any other thread, or a signal handler, may do the same.
        with contextlib.suppress(IndexError):
            while (oldest := waiting.popleft()).outcome is not None:
                pass
            waiting.appendleft(oldest)
        if len(waiting) < self._max_errors:
            waiting.append(self._events.push_error_metrics_event_nowait(error, api_id))
