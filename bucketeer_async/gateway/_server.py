"""Serves the gateway on a port, for demos and for tests that need sockets."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from types import TracebackType
from typing import Any, Self

import anyio
import uvicorn

from bucketeer_async._background import BackgroundTask
from bucketeer_async.gateway._app import create_app
from bucketeer_async.gateway._flag_file import FlagFile
from bucketeer_async.gateway._linker import Linking
from bucketeer_async.gateway._state import DEFAULT_KEYS, Fault, GatewayKey, GatewayState, RecordedEvent


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; the port 0 selects a free port.

    The protocol of the socket is given explicitly, because asyncio sets TCP_NODELAY only on such sockets. Without
    TCP_NODELAY, small responses wait 40 ms for the peer's delayed acknowledgement.
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
    """A gateway that listens on a loopback port, as an async context manager.

    Args:
        keys: The valid API keys. By default, ``"client-key"`` and ``"server-key"``.
        flags: Definitions of the flags, as for `GatewayState`.
        segments: Definitions of the segments, as for `GatewayState`.
        experiments: Definitions of the experiments, as for `GatewayState`.
        linking: How goals are linked to experiments.
        flags_file: Path of a JSON or YAML file ``{"flags": [...], "segments": [...], "experiments": [...]}``, instead
            of these three arguments. The file is loaded by ``async with``, which raises a `ConfigurationError` if the
            file is invalid, and reloaded when it changes.
        port: The port; 0 for a free port.

    Raises:
        ConfigurationError: If a definition is invalid; the message names the definition and the field.
        ValueError: If ``flags_file`` is combined with ``flags``, ``segments`` or ``experiments``.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, GatewayKey] = DEFAULT_KEYS,
        flags: Sequence[Mapping[str, Any]] = (),
        segments: Sequence[Mapping[str, Any]] = (),
        experiments: Sequence[Mapping[str, Any]] = (),
        linking: Linking = Linking(),
        flags_file: str | PathLike[str] | None = None,
        port: int = 0,
    ) -> None:
        if flags_file is not None and (flags or segments or experiments):
            raise ValueError("flags_file defines all flags, segments and experiments: give either these, or flags_file")
        self.state: GatewayState = GatewayState(
            keys=keys, flags=flags, segments=segments, experiments=experiments, linking=linking
        )
        self._file = None if flags_file is None else FlagFile(flags_file, self.state)
        self._port = port
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: BackgroundTask | None = None

    @property
    def url(self) -> str:
        """URL of the gateway, for ``ApiClient(endpoint=...)``.

        Raises:
            RuntimeError: Outside of ``async with``.
        """
        if self._socket is None:
            raise RuntimeError("the gateway listens only inside its async with block")
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def events(self) -> list[RecordedEvent]:
        """The newest accepted events, oldest first; older events are only counted."""
        return self.state.events

    def fail(self, fault: Fault) -> None:
        """Simulate a fault from now on."""
        self.state.fail(fault)

    async def __aenter__(self) -> Self:
        self._socket = listen("127.0.0.1", self._port)
        config = uvicorn.Config(create_app(self.state), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = _Server(config)
        self._task = BackgroundTask(self._serve, name="local-gateway", owner="gateway")
        try:
            await self._task.ready()
        except BaseException:  # a wrong flags file, or the caller was cancelled: leave no socket and no task behind
            await self._stop(self._server, self._task)
            raise
        return self

    async def _stop(self, server: _Server, task: BackgroundTask) -> None:
        """Have the server end, and wait for that.

        The task is not cancelled: asyncio would go on watching the file descriptor of a server that was cancelled while
        it started, and the next server with that descriptor would never answer.
        """
        server.should_exit = True
        try:
            with anyio.CancelScope(shield=True):
                await task.join()
        finally:
            self._close()

    async def _serve(self, ready: object) -> None:
        assert self._server is not None  # noqa: S101 - set by __aenter__
        assert self._socket is not None  # noqa: S101
        assert callable(ready)  # noqa: S101
        self._server.on_started = ready
        async with self._file.followed() if self._file is not None else nullcontext():
            await self._server.serve(sockets=[self._socket])

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101 - set by __aenter__
        assert self._task is not None  # noqa: S101
        await self._stop(self._server, self._task)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Server(uvicorn.Server):
    """A uvicorn server for an existing event loop: it calls `on_started`, and installs no signal handlers."""

    on_started: object = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if callable(self.on_started):
            self.on_started()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._serve(sockets)
        finally:
            for server in getattr(self, "servers", ()):  # left open by older versions if told to end while starting
                server.close()
