"""Child processes for tests: started, waited for with a bound, signalled and ended by their own pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

#: What a clean end leaves no trace of; loggers of servers write "WARNING:", Python's own warnings end in "Warning:".
NOISE = re.compile(r"Traceback|\w+Warning:|Task was destroyed|never retrieved|Exception ignored|never awaited")

# A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PATIENCE = 30.0  # seconds for any one thing that a child has to do


class Child:
    """A running Python program and what it has written so far, on both of its streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._grown = asyncio.Event()
        self._ended = False
        self._reading = asyncio.create_task(self._read())
        self.output = ""

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output += line.decode()
            self._grown.set()
        self._ended = True
        self._grown.set()

    async def has_written(self, pattern: str, *, times: int = 1, within: float = _PATIENCE) -> str:
        """Wait until a pattern has come up so many times; give its last match (its first group, if it has one)."""
        async with asyncio.timeout(within):
            while len(found := re.findall(pattern, self.output)) < times:
                assert not self._ended, f"the child ended; it wrote:\n{self.output}"
                self._grown.clear()
                await self._grown.wait()
        return str(found[-1])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; what it makes of its own children is its own business."""
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end of the process and of its output, and return its status."""
        self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the process and of its output, and return its status."""
        async with asyncio.timeout(_PATIENCE):
            await self._reading
            return await self._process.wait()

    async def kill(self) -> None:
        """Leave nothing of it behind."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def python(*arguments: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """Run a Python program in a process group of its own, which is gone afterwards, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "always::ResourceWarning", "-W", "always::RuntimeWarning"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONASYNCIODEBUG": ""} | dict(environment or {}),
        start_new_session=True,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.kill()
