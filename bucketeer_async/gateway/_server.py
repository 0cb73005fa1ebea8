"""Puts a real port before the gateway, for demos and for tests that are about sockets."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import uvicorn

from bucketeer_async._background import BackgroundTask
from bucketeer_async._models import Evaluation
from bucketeer_async.gateway._app import create_app
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
        evaluations: What evaluation requests are answered, by tag.
        port: The port; 0 for a free one.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, GatewayKey] = DEFAULT_KEYS,
        evaluations: Mapping[str, Sequence[Evaluation]] | None = None,
        port: int = 0,
    ) -> None:
        self.state: GatewayState = GatewayState(keys=keys, evaluations=evaluations)
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
        await self._task.ready()
        return self

    async def _serve(self, ready: object) -> None:
        assert self._server is not None  # noqa: S101 - made just before
        assert self._socket is not None  # noqa: S101
        assert callable(ready)  # noqa: S101
        self._server.on_started = ready
        await self._server.serve(sockets=[self._socket])

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101 - entered before
        assert self._task is not None  # noqa: S101
        self._server.should_exit = True
        await self._task.join()
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
