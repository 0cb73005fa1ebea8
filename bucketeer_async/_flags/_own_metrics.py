"""Tells the gateway how the SDK's own operations went; keeps the errors from crowding out everything else."""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

from bucketeer_async._events._receipt import Receipt
from bucketeer_async._models import ApiId


class MetricsEvents(Protocol):
    """The pushes of a `Processor` that are used here."""

    def push_latency_metrics_event_nowait(self, duration: float, api_id: ApiId) -> Receipt: ...
    def push_size_metrics_event_nowait(self, size_byte: int, api_id: ApiId) -> Receipt: ...
    def push_error_metrics_event_nowait(self, error: BaseException, api_id: ApiId) -> Receipt: ...


class OwnMetrics:
    """Pushes metrics events; on the event loop only.

    A gateway that is down makes an error of every question, and delivers none of them. So no more than ``max_errors``
    wait at once, and further ones are not pushed. No failed delivery of events is ever told as an event.

    Args:
        events: Takes the events.
        max_errors: Error events that may wait for delivery.
    """

    def __init__(self, events: MetricsEvents, *, max_errors: int) -> None:
        self._events = events
        self._max_errors = max_errors
        self._begin_life()

    def _begin_life(self) -> None:
        self._pid = os.getpid()
        self._errors: deque[Receipt] = deque()

    def latency(self, duration: float, api_id: ApiId) -> None:
        """Tell that an operation took ``duration`` seconds."""
        self._events.push_latency_metrics_event_nowait(duration, api_id)

    def size(self, size_byte: int, api_id: ApiId) -> None:
        """Tell that its answer had so many bytes."""
        self._events.push_size_metrics_event_nowait(size_byte, api_id)

    def error(self, error: BaseException, api_id: ApiId) -> None:
        """Tell that it failed."""
        if os.getpid() != self._pid:
            self._begin_life()  # in a forked child nobody settles what the parent has pushed
        while self._errors and self._errors[0].outcome is not None:
            self._errors.popleft()
        if len(self._errors) < self._max_errors:
            self._errors.append(self._events.push_error_metrics_event_nowait(error, api_id))

    def polled(self, api_id: ApiId, duration: float, size_byte: int) -> None:
        """Tell that a request of a poller was answered."""
        self.latency(duration, api_id)
        self.size(size_byte, api_id)

    def poll_failed(self, api_id: ApiId, error: Exception) -> None:
        """Tell that a request of a poller was not answered."""
        self.error(error, api_id)
