"""Takes whatever is posted, says yes, and counts the events in it: ``python -m tests.benchmarks.sink``, in a process of its own.

It understands just enough HTTP not to be the bottleneck: requests with a Content-Length, one after the other.
``GET /figures`` tells what it has counted, and how busy it was itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_YES: Final = b'{"errors":{}}'


def response(status: bytes, body: bytes) -> bytes:
    """Return an HTTP response."""
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@dataclass
class Counted:
    """What arrived.

    Attributes:
        pattern: Matches once in each event; its group tells events apart.
        delay: Seconds before each answer.
        outage_after: Seconds after the first post.
        outage_for: Seconds for which posts are then answered 503.
        canned: Bodies that are answered instead, by path.
        ids: The events that were taken.
        events: How many events, one that came twice twice.
        posts: Posts, refused ones included.
        body_bytes: Of the posts that were taken.
    """

    pattern: re.Pattern[bytes]
    delay: float = 0.0
    outage_after: float = 0.0
    outage_for: float = 0.0
    canned: dict[bytes, bytes] = field(default_factory=dict)
    ids: set[bytes] = field(default_factory=set)
    events: int = 0
    posts: int = 0
    body_bytes: int = 0
    first_at: float | None = None

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Take a request in, and return the response."""
        method, target, _ = head.split(b" ", 2)
        if method == b"GET":
            return response(b"200 OK", json.dumps(self.figures()).encode())
        if target in self.canned:
            return response(b"200 OK", self.canned[target])
        now = time.monotonic()
        self.first_at = now if self.first_at is None else self.first_at
        self.posts += 1
        if 0 <= now - self.first_at - self.outage_after < self.outage_for:
            return response(b"503 Service Unavailable", b"{}")
        found = self.pattern.findall(body)
        self.ids.update(found)
        self.events += len(found)
        self.body_bytes += len(body)
        return response(b"200 OK", _YES)

    def figures(self) -> dict[str, float]:
        """Return what was counted."""
        return {
            "posts": self.posts,
            "events": self.events,
            "unique": len(self.ids),
            "body_bytes": self.body_bytes,
            "sink_cpu": time.process_time(),
        }


class Connection(asyncio.Protocol):
    """Reads the requests of one connection and has them answered."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._received: list[bytes] = []
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._head:
            self._missing -= len(data)
        else:
            self._read_head()
        if self._head and self._missing <= 0:
            head, body = self._head, b"".join(self._received)
            self._head, self._received = b"", []
            answer = self._counted.answer(head, body)
            if self._counted.delay:
                asyncio.get_running_loop().call_later(self._counted.delay, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _read_head(self) -> None:
        head, end, rest = b"".join(self._received).partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        self._head, self._received = head, [rest]
        self._missing = (int(length[1]) if length else 0) - len(rest)


async def serve(counted: Counted) -> None:
    """Listen on a free port of loopback, print it, and serve until the end of standard input."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counted), sock=listener)
    print(listener.getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", default="(?!)")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--outage-after", type=float, default=0.0)
    parser.add_argument("--outage-for", type=float, default=0.0)
    parser.add_argument("--canned", nargs=2, action="append", default=[], metavar=("PATH", "FILE"))
    options = parser.parse_args()
    canned = {path.encode(): Path(file).read_bytes() for path, file in options.canned}
    pattern = re.compile(options.pattern.encode())
    asyncio.run(serve(Counted(pattern, options.delay, options.outage_after, options.outage_for, canned)))


if __name__ == "__main__":
    main()
