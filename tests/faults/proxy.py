"""Proxies between a client and the gateway, on real sockets: connections that break, and one with a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, ParamSpec, Self

import anyio

_P = ParamSpec("_P")

_CHUNK: Final = 65_536
_WITHIN: Final = 30.0  # seconds; how long a test waits for a fact before it fails
_GONE: Final = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)


def _until_gone(work: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
    """End the work without an error when one of the two peers has gone."""

    @functools.wraps(work)
    async def until_gone(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with contextlib.suppress(*_GONE):
            await work(*args, **kwargs)

    return until_gone


class End(Enum):
    """How a connection ends."""

    RESET = "reset"
    CLOSED = "closed in order"
    SILENT = "silent: whatever comes is swallowed, and nothing is said about it"


@dataclass(slots=True)
class Conduct:
    """How a connection behaves; may be changed while the connection is open.

    Attributes:
        upload: Bytes that are still passed to the gateway; None for all.
        answer: Bytes that are still passed to the client; None for all.
        end: How the connection ends when more bytes arrive.
        delay: Seconds by which the gateway's bytes are delayed.
    """

    upload: int | None = None
    answer: int | None = None
    end: End = End.RESET
    delay: float = 0.0

    def pass_upload(self, data: bytes) -> bytes:
        """Return the bytes that are passed to the gateway."""
        if self.upload is not None:
            data = data[: self.upload]
            self.upload -= len(data)
        return data

    def pass_answer(self, data: bytes) -> bytes:
        """Return the bytes that are passed to the client."""
        if self.answer is not None:
            data = data[: self.answer]
            self.answer -= len(data)
        return data


class Line:
    """One connection of a client through the proxy to the gateway.

    Attributes:
        conduct: How the connection behaves.
        upload: The bytes from the client.
        answer: The bytes from the gateway, whether or not the client got them.
    """

    def __init__(self, conduct: Conduct, writer: asyncio.StreamWriter) -> None:
        self.conduct = conduct
        self.upload = bytearray()
        self.answer = bytearray()
        self._writer = writer

    @property
    def posts(self) -> list[list[str]]:
        """Return the event ids in every complete request of the client."""
        found, rest = [], bytes(self.upload)
        while True:
            head, _, body = rest.partition(b"\r\n\r\n")
            length = _content_length(head)
            if not length or len(body) < length:
                return found
            found.append([event["id"] for event in json.loads(body[:length])["events"]])
            rest = body[length:]

    async def end(self, how: End) -> None:
        """Break the connection now; when this returns, the client has been notified, unless the end is silent."""
        if how is End.SILENT:
            self.conduct = Conduct(upload=0, answer=0, end=how)
            return
        if how is End.RESET and not self._writer.is_closing():
            _reset(self._writer)
        self._writer.close()
        with contextlib.suppress(*_GONE):
            await self._writer.wait_closed()

    async def carry(self, reader: asyncio.StreamReader, target: tuple[str, int]) -> None:
        """Pass bytes between the client and the target until one of the two has gone."""
        behind, ahead = await asyncio.open_connection(*target)
        try:
            await self.carry_between(reader, behind, ahead)
        finally:
            ahead.close()

    async def carry_between(
        self, reader: asyncio.StreamReader, behind: asyncio.StreamReader, ahead: asyncio.StreamWriter
    ) -> None:
        """As `carry`, over an open connection to the target."""
        async with anyio.create_task_group() as ways:
            ways.start_soon(self._carry_answers, behind)
            await self._carry_upload(reader, ahead)
            ways.cancel_scope.cancel()

    @_until_gone
    async def _carry_upload(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            self.upload += data
            passed = self.conduct.pass_upload(data)
            writer.write(passed)
            await writer.drain()
            if len(passed) < len(data) and self.conduct.end is not End.SILENT:
                await self.end(self.conduct.end)

    @_until_gone
    async def _carry_answers(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            self.answer += data
            await asyncio.sleep(self.conduct.delay)
            passed = self.conduct.pass_answer(data)
            self._writer.write(passed)
            await self._writer.drain()
            if len(passed) < len(data) and self.conduct.end is not End.SILENT:
                await self.end(self.conduct.end)
        if self.conduct.end is not End.SILENT:
            await self.end(End.CLOSED)


class FaultProxy:
    """A listener on a loopback address, whose connections to the gateway have a given conduct.

    Args:
        target: URL of the gateway.
        host: The address.
        port: The port; 0 for a free one.
        tls: TLS for clients; may be changed between two `listen`.

    Attributes:
        conduct: Makes the conduct of every new connection.
        next_conducts: The conducts of the next connections, used first.
        lines: All connections so far.
    """

    def __init__(
        self, target: str, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.conduct: Callable[[], Conduct] = Conduct
        self.next_conducts: deque[Conduct] = deque()
        self.lines: list[Line] = []
        self.tls = tls
        self._host = host
        self._target = _address(target)
        self._listener = _Listener(self._serve, port)

    @property
    def port(self) -> int:
        """Return the port, which stays the same."""
        return self._listener.port

    @property
    def url(self) -> str:
        """Return the argument of ``ApiClient(endpoint=...)``."""
        return f"{'https' if self.tls else 'http'}://{self._host}:{self.port}"

    @property
    def posts(self) -> list[list[str]]:
        """Return the event ids in every complete request, by connection."""
        return [post for line in self.lines for post in line.posts]

    async def listen(self) -> None:
        """Accept connections."""
        await self._listener.listen(self._host, self.tls)

    async def refuse(self) -> None:
        """Accept no more connections; open connections go on."""
        await self._listener.refuse()

    async def end_lines(self, how: End) -> None:
        """Break all open connections."""
        for line in self.lines:
            await line.end(how)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._listener.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(self.next_conducts.popleft() if self.next_conducts else self.conduct(), writer)
        self.lines.append(line)
        await line.carry(reader, self._target)


class PasswordProxy:
    """An HTTP proxy that requires a name and a password, for ``http`` and, by CONNECT, for ``https``.

    Attributes:
        password: The right password.
        asked: The first line of every request.
        refused: Number of requests without the right password.
    """

    def __init__(self, name: str, password: str) -> None:
        self.password = password
        self.asked: list[str] = []
        self.refused = 0
        self._name = name
        self._listener = _Listener(self._serve)

    def url(self, password: str | None = None) -> str:
        """Return the argument ``proxy``, with the right password or another one."""
        return f"http://{self._name}:{password or self.password}@127.0.0.1:{self._listener.port}"

    async def __aenter__(self) -> Self:
        await self._listener.listen("127.0.0.1", None)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._listener.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, headers = head.decode("ascii").partition("\r\n")
        method, target, version = first.split()
        self.asked.append(first)
        token = base64.b64encode(f"{self._name}:{self.password}".encode()).decode()
        if f"\r\nproxy-authorization: basic {token}\r\n".lower() not in f"\r\n{headers}".lower():
            self.refused += 1
            await _read_body(reader, head)
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        behind, ahead = await asyncio.open_connection(*_address(target))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            path = "/" + target.split("/", 3)[3]
            ahead.write(f"{method} {path} {version}\r\nconnection: close\r\n{headers}".encode())
        try:
            await Line(Conduct(), writer).carry_between(reader, behind, ahead)
        finally:
            ahead.close()


class _Listener:
    """A port that may refuse connections for a while; all connections are closed at the end."""

    def __init__(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int = 0
    ) -> None:
        self.port = port
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def listen(self, host: str, tls: ssl.SSLContext | None) -> None:
        self._server = await asyncio.start_server(self._accept, host, self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def aclose(self) -> None:
        await self.refuse()
        for writer in self._open.values():
            writer.transport.abort()
        if self._open:
            await asyncio.wait(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            await _until_gone(self._serve)(reader, writer)
        finally:
            writer.close()
            del self._open[task]


async def until(fact: Callable[[], bool]) -> None:
    """Wait for a condition by polling it."""
    async with asyncio.timeout(_WITHIN):
        while not fact():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.002)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    """Read the remaining bytes, so that closing afterwards does not reset the connection."""
    await reader.readexactly(_content_length(head))


def _content_length(head: bytes) -> int:
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(length[1]) if length else 0


def _address(url: str) -> tuple[str, int]:
    """Return host and port of a URL, or of a ``host:port``."""
    host, _, port = url.partition("://")[2].partition("/")[0].rpartition(":") if "://" in url else url.rpartition(":")
    return host, int(port)
