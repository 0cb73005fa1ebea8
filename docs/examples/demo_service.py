"""Run one of the example services for the demo: on a free port, monitored, with its final figures in a file."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import sys
from pathlib import Path
from typing import Any

from bucketeer_async import DrainReport, Processor

WATCH_INTERVAL = 0.005  # seconds between two measurements


class Watched:
    """Records the longest stall of the event loop, and writes all figures when the processor has closed."""

    def __init__(self, figures: Path) -> None:
        self._figures = figures
        self._worst_stall = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._start, self._aclose = Processor.start, Processor.aclose

    def install(self) -> None:
        """Wrap methods of `Processor`, so that the example itself stays as a user would write it."""
        watched = self

        async def start(processor: Processor) -> None:
            watched._watching = asyncio.create_task(watched._watch())
            await watched._start(processor)

        async def aclose(processor: Processor, *args: Any) -> DrainReport:
            report = await watched._aclose(processor, *args)
            watched._write(processor, report)
            return report

        Processor.start, Processor.aclose = start, aclose  # type: ignore[method-assign, assignment]

    async def _watch(self) -> None:
        """Measure how late the event loop wakes up from a short sleep."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(WATCH_INTERVAL)
            self._worst_stall = max(self._worst_stall, loop.time() - before - WATCH_INTERVAL)

    def _write(self, processor: Processor, report: DrainReport) -> None:
        if self._watching is not None:
            self._watching.cancel()
        statistics = dataclasses.asdict(processor.statistics())
        figures = {"statistics": statistics, "drain": report.duration, "worst_stall": self._worst_stall}
        self._figures.write_text(json.dumps(figures))


def main(framework: str, figures: str) -> None:
    """Serve until SIGTERM."""
    Watched(Path(figures)).install()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    if framework == "fastapi":
        import uvicorn  # noqa: PLC0415 - one of the two frameworks is enough
        from fastapi_service import app  # noqa: PLC0415

        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    else:
        from aiohttp import web  # noqa: PLC0415
        from aiohttp_service import create_app  # noqa: PLC0415

        web.run_app(create_app(), sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
