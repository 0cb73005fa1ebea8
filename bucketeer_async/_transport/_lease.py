"""Lease: one processor's use of the connections of an `ApiClient`.

The JSON of a post is left to `_codec.py`, and sending it to `_http.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bucketeer_async._errors import ConnectionFailedError, DecodeError
from bucketeer_async._transport._codec import decode_register_events
from bucketeer_async._transport._connections import Connections, Hold
from bucketeer_async._transport._http import Deadline, Request, send_request
from bucketeer_async._transport._responses import RegisterEventsResponse

_EventsRequest = Callable[[Sequence[bytes]], Request]


class Lease:
    """One processor's use of the connections, which stay open until the lease is released.

    Requests run in the calling task, so that cancelling the task cancels the request; the processor does so in one
    place, at the end of its drain.

    Args:
        events_request: Makes the request of a post, with the API key.
        connections: Sends it.
        begin_closing: A method that has the processor drain, called when the API client is closed. It is kept weakly.

    Attributes:
        slots: Room for requests. Take a slot before posting: ``async with lease.slots``.
    """

    def __init__(
        self, events_request: _EventsRequest, connections: Connections, begin_closing: Callable[[], None]
    ) -> None:
        self.slots: asyncio.Semaphore = connections.event_pools.slots
        hold = connections.hold(begin_closing)
        self._used: tuple[_EventsRequest, Connections, Hold] | None = (events_request, connections, hold)

    async def register_events(self, events: Sequence[bytes], *, timeout: float) -> RegisterEventsResponse:
        """Post the JSON of events, within ``timeout`` seconds; as `ApiClient.register_events`.

        Raises:
            ApiError: If there was no usable answer.
        """
        if self._used is None:
            raise ConnectionFailedError("the lease is released", maybe_sent=False)
        events_request, connections, _ = self._used
        request = events_request(events)
        del events
        deadline = Deadline(asyncio.get_running_loop().time() + timeout, timeout)
        with connections.event_pools.client() as http:
            answer = await send_request(http, request, deadline)
        try:
            return decode_register_events(answer.body, answer.server_time)
        except DecodeError as error:
            raise error.with_traceback(None) from None  # the frames of the decoder have the body

    def release(self) -> None:
        """Give the connections up, and forget them."""
        if self._used is not None:
            _, _, hold = self._used
            self._used = None
            hold.release()
