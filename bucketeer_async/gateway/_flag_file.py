"""Keeps the flags of a gateway as a file says: loads it, and loads it again when it changes, off the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final

import anyio

from bucketeer_async._errors import ConfigurationError
from bucketeer_async.gateway._environment import Environment
from bucketeer_async.gateway._shapes import ANYTHING, message, repeated
from bucketeer_async.gateway._state import GatewayState

_LOGGER: Final = logging.getLogger("bucketeer_async.gateway")
_FILE: Final = message(flags=repeated(ANYTHING), segments=repeated(ANYTHING))


class FlagFile:
    """A JSON or YAML file of flags and segments, and the gateway's state that follows it.

    The file stands for all flags and segments: when it is read again, it undoes changes that were made otherwise. One
    that cannot be used leaves the state as it is; what is wrong is logged, once, and told by ``state.flags_problem``.

    Args:
        path: The file; its suffix says whether it is ``.json``, ``.yaml`` or ``.yml``.
        state: What follows it.
        interval: Seconds between two looks at it.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        state: GatewayState,
        *,
        interval: float = 0.25,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._path = Path(path)
        self._state = state
        self._interval = interval
        self._sleep = sleep
        self._seen: object = None

    async def load(self) -> None:
        """Take over what the file says.

        Raises:
            ConfigurationError: If it cannot be used; the text names the file, and the flag and the field.
        """
        self._seen = await asyncio.to_thread(_signature, self._path)
        now = int(self._state.now())
        self._state.environment = await asyncio.to_thread(_following, self._state.environment, self._path, now)
        self._state.flags_problem = ""

    async def refresh(self) -> None:
        """Take over what the file says if it changed since the last look."""
        if await asyncio.to_thread(_signature, self._path) == self._seen:
            return
        try:
            await self.load()
        except ConfigurationError as error:
            self._state.flags_problem = str(error)
            _LOGGER.warning("the gateway keeps its last good flags: %s", error)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Load the file, and follow it while the block runs.

        Raises:
            ConfigurationError: If it cannot be used at first.
        """
        await self.load()
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch)
            yield
            group.cancel_scope.cancel()

    async def _watch(self) -> None:
        while True:
            await self._sleep(self._interval)
            await self.refresh()


def _signature(path: Path) -> object:
    """What changes with a file; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _following(environment: Environment, path: Path, now: int) -> Environment:
    try:
        content = _FILE.complete(_read(path), "")
        return environment.replaced(content["flags"], content["segments"], now)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _read(path: Path) -> Any:
    match path.suffix.lower():
        case ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        case ".yaml" | ".yml":
            return _parse_yaml(path.read_text(encoding="utf-8"))
    raise ConfigurationError("a file of flags must be named .json, .yaml or .yml")


def _parse_yaml(text: str) -> Any:
    try:
        from bucketeer_async.gateway._flag_yaml import parse  # noqa: PLC0415 - PyYAML is an extra
    except ImportError:
        raise ConfigurationError(
            'YAML needs the extra "yaml": pip install "bucketeer-async[gateway,yaml]"; or write JSON'
        ) from None
    return parse(text)
