"""Pools: HTTP clients with few connections each, and a slot for every request under way.

httpcore's pool walks over all of its connections whenever a request begins or ends, some of it once more for each
connection. A client with 100 connections costs ten times the CPU of twenty clients with 5 each. Waiting for a slot
happens here and never inside httpx: a request that is cancelled while it waits in httpx's pool may cost a connection.

What is sent over a client is left to `_http.py`, and when the clients are made and closed to `_connections.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from bucketeer_async._errors import ConnectionFailedError
from bucketeer_async._transport._http import KEEPALIVE_EXPIRY, HttpClient

_CONNECTIONS_PER_CLIENT: Final = 5  # the fewest CPU seconds of 1, 2, 5, 10, 20 and 100, at 10 and at 100 requests


class _Pool:
    """One HTTP client.

    Attributes:
        http: The client.
        used: Requests under way.
        unused_since: The loop's clock when the last of its requests ended.
    """

    __slots__ = ("http", "unused_since", "used")

    def __init__(self, http: HttpClient) -> None:
        self.http: HttpClient = http
        self.used: int = 0
        self.unused_since: float = 0.0

    @property
    def is_worn(self) -> bool:
        """Whether the client may have lost a connection for good; only one of this package's own says so."""
        return getattr(self.http, "is_worn", False) is True


class Pools:
    """HTTP clients for at most ``limit`` requests at once; more are made when the load needs them.

    A request takes the first client that has a free connection, so a small load stays on few connections. A client
    that is no longer needed is closed by a later request, and one that may have lost a connection after its last one.

    Args:
        new_client: Makes an HTTP client with at most so many connections; the first call is slow.
        limit: Requests under way at once.
        borrowed: A client of the application's, used instead and never closed.

    Attributes:
        slots: Room for requests. Hold a slot while using a client: ``async with pools.slots``.
    """

    def __init__(self, new_client: Callable[[int], HttpClient], limit: int, borrowed: HttpClient | None) -> None:
        self.slots: asyncio.Semaphore = asyncio.Semaphore(limit)
        self._new_client = new_client
        self._is_borrowed = borrowed is not None
        self._size = limit if borrowed is not None else min(limit, _CONNECTIONS_PER_CLIENT)
        self._pools = [_Pool(borrowed)] if borrowed is not None else []
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no client yet."""
        return not self._pools

    def add(self) -> _Pool:
        """Make a client, and return its pool. The first one is slow: make it off the loop.

        Raises:
            ConfigurationError: If a proxy is wrong.
            OSError: If the certificates cannot be read; likewise ValueError and ImportError.
        """
        self._pools.append(_Pool(self._new_client(self._size)))
        return self._pools[-1]

    @contextmanager
    def client(self) -> Iterator[HttpClient]:
        """Lend a client for one request, whose caller holds a slot.

        Raises:
            ConnectionFailedError: If the pools are closed.
        """
        if self._is_closed:
            raise ConnectionFailedError("the API client is closed", maybe_sent=False)
        clock = asyncio.get_running_loop().time
        pools = self._pools
        if len(pools) > 1 and not pools[-1].used and clock() - pools[-1].unused_since > KEEPALIVE_EXPIRY:
            self._close(pools.pop().http)
        pool = next((each for each in pools if each.used < self._size and not each.is_worn), None) or self.add()
        pool.used += 1
        try:
            yield pool.http
        finally:
            pool.used -= 1
            if not pool.used:
                pool.unused_since = clock()
                if pool.is_worn and not self._is_closed:
                    pools.remove(pool)
                    self._close(pool.http)

    def _close(self, http: HttpClient) -> None:
        closing = asyncio.get_running_loop().create_task(http.aclose(), name="bucketeer-pool-close", context=Context())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close the clients, once no request is under way."""
        self._is_closed = True
        pools, self._pools = self._pools, []
        own = [] if self._is_borrowed else [pool.http.aclose() for pool in pools]
        await asyncio.gather(*self._closing, *own)
