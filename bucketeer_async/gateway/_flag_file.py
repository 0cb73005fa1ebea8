"""Flags from a file, which is loaded off the event loop and reloaded when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final

import anyio

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._nesting import parse_json
from bucketeer_async.gateway._environment import Environment
from bucketeer_async.gateway._shapes import ANYTHING, message, repeated
from bucketeer_async.gateway._state import GatewayState

_LOGGER: Final = logging.getLogger("bucketeer_async.gateway")
_FILE: Final = message(flags=repeated(ANYTHING), segments=repeated(ANYTHING), experiments=repeated(ANYTHING))


class FlagFile:
    """A JSON or YAML file that defines the flags, segments and experiments of a gateway.

    The file defines all of them: a reload undoes changes that were made by other means. An invalid file does
    not change the state; the error is logged once, and is available as ``state.flags_problem``.

    Args:
        path: Path of the file, with the suffix ``.json``, ``.yaml`` or ``.yml``.
        state: State of the gateway.
        interval: Seconds between two checks for changes of the file.
        sleep: Sleeps for a number of seconds.
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
        self._signature: object = None

    async def load(self) -> None:
        """Load the file into the state.

        Raises:
            ConfigurationError: If the file is invalid; the message names the file, the definition and the field.
        """
        self._signature = await asyncio.to_thread(_signature, self._path)
        now = int(self._state.now())
        self._state.environment = await asyncio.to_thread(_load_environment, self._state.environment, self._path, now)
        self._state.flags_problem = ""

    async def refresh(self) -> None:
        """Reload the file if it changed since the last check."""
        if await asyncio.to_thread(_signature, self._path) == self._signature:
            return
        try:
            await self.load()
        except ConfigurationError as error:
            self._state.flags_problem = str(error)
            _LOGGER.warning("the flag file is invalid; the gateway keeps the last valid flags: %s", error)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Load the file, and reload it on changes until the end of the block.

        Raises:
            ConfigurationError: If the file is invalid at the beginning.
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
    """Return a value that changes when the file changes; None if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load_environment(environment: Environment, path: Path, now: int) -> Environment:
    try:
        content = _FILE.complete(_read(path), "")
        return environment.replaced(content["flags"], content["segments"], content["experiments"], now)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _read(path: Path) -> Any:
    match path.suffix.lower():
        case ".json":
            return parse_json(path.read_text(encoding="utf-8"))
        case ".yaml" | ".yml":
            return _parse_yaml(path.read_text(encoding="utf-8"))
    raise ConfigurationError(f"the suffix of a flag file must be .json, .yaml or .yml, not {path.suffix!r}")


def _parse_yaml(text: str) -> Any:
    try:
        from bucketeer_async.gateway._flag_yaml import parse  # noqa: PLC0415 - PyYAML is an extra
    except ImportError:
        raise ConfigurationError(
            'a YAML file needs the extra "yaml": pip install "bucketeer-async[gateway,yaml]"; or use JSON'
        ) from None
    return parse(text)
