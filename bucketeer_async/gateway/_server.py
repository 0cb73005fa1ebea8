"""Puts a real port before the gateway, for demos and for tests that are about sockets."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from types import TracebackType
from typing import Any, Self

import uvicorn

from bucketeer_async._background import BackgroundTask
from bucketeer_async._errors import ConfigurationError
from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._flag_file import FlagFile
from bucketeer_async.gateway._state import DEFAULT_KEYS, Fault, GatewayKey, GatewayState, RecordedEvent


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; 0 is a free port.

    It names its protocol, because asyncio sends small answers at once only over sockets that do; the others wait
    for the peer's delayed acknowledgement, 40 ms each.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class LocalGateway:
    """A gateway on a free loopback port, for as long as an ``async with`` lasts.

    Args:
        keys: The API keys that exist; by default ``"client-key"`` and ``"server-key"``.
        flags: The flags, as for `GatewayState`.
        segments: The segments, likewise.
        flags_file: Instead of both, a JSON or YAML file of them (``{"flags": [...], "segments": [...]}``), which is
            read again when it changes; entering raises a ConfigurationError if it cannot be used.
        port: The port; 0 for a free one.

    Raises:
        ConfigurationError: If a flag or segment cannot be one; the text names it and the field.
        ValueError: If there are both definitions and a file of them.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, GatewayKey] = DEFAULT_KEYS,
        flags: Sequence[Mapping[str, Any]] = (),
        segments: Sequence[Mapping[str, Any]] = (),
        flags_file: str | PathLike[str] | None = None,
        port: int = 0,
    ) -> None:
        if flags_file is not None and (flags or segments):
            raise ValueError("flags_file stands for all flags and segments: give either these or the file")
        self.state: GatewayState = GatewayState(keys=keys, flags=flags, segments=segments)
        self._file = None if flags_file is None else FlagFile(flags_file, self.state)
        self._port = port
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: BackgroundTask | None = None

    @property
    def url(self) -> str:
        """Where it listens; to be given to ``ApiClient(endpoint=...)``."""
        if self._socket is None:
            raise RuntimeError("the gateway listens only inside its async with")
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def events(self) -> list[RecordedEvent]:
        """The accepted events, oldest first."""
        return self.state.events

    def fail(self, fault: Fault) -> None:
        """Misbehave from now on."""
        self.state.fail(fault)

    async def __aenter__(self) -> Self:
        self._socket = listen("127.0.0.1", self._port)
        config = uvicorn.Config(create_app(self.state), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = _Server(config)
        self._task = BackgroundTask(self._serve, name="local-gateway", owner="gateway")
        try:
            await self._task.ready()
        except ConfigurationError:
            self._close()
            raise
        return self

    async def _serve(self, ready: object) -> None:
        assert self._server is not None  # noqa: S101 - made just before
        assert self._socket is not None  # noqa: S101
        assert callable(ready)  # noqa: S101
        self._server.on_started = ready
        async with self._file.followed() if self._file is not None else nullcontext():
            await self._server.serve(sockets=[self._socket])

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101 - entered before
        assert self._task is not None  # noqa: S101
        self._server.should_exit = True
        await self._task.join()
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Server(uvicorn.Server):
    """uvicorn, as a guest in somebody else's loop: it says when it listens, and leaves signals alone."""

    on_started: object = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if callable(self.on_started):
            self.on_started()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)
