"""Starts the processes of the benchmarks, and reads what they print."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 300.0  # seconds that one run may take


class Sink:
    """A running sink.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def figures(self) -> dict[str, float]:
        """Return what it has counted so far."""
        with urllib.request.urlopen(f"{self.url}/figures") as answer:
            figures: dict[str, float] = json.load(answer)
        return figures


@contextlib.contextmanager
def sink(*options: str) -> Iterator[Sink]:
    """Run a sink for as long as the context lasts."""
    command = [sys.executable, "-m", "tests.benchmarks.sink", *options]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Sink(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.stdin.close()
            process.wait(10)


def measured(module: str, *arguments: str) -> Any:
    """Run a module that prints JSON in its last line, and return that."""
    return json.loads(child("-m", f"tests.benchmarks.{module}", *arguments))


def child(*arguments: str) -> str:
    """Run Python, and return the last line that it prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, timeout=_PATIENCE, check=True)
    return done.stdout.splitlines()[-1]
