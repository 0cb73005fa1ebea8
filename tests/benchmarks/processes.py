"""Starts the processes of the benchmarks, lets them measure in turns, and reads what they print."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 300.0  # seconds that a process may live

#: The figures of each contestant: by process, and by round of that process.
Runs = dict[str, list[list[dict[str, float]]]]


@dataclass(frozen=True)
class Contestant:
    """A process that measures.

    Attributes:
        module: A module of this folder.
        arguments: Its arguments.
        package: The folder that it imports `bucketeer_async` from.
        packages: A folder with further packages that it can import.
    """

    module: str
    arguments: tuple[str, ...] = ()
    package: Path = ROOT
    packages: str = ""


class Sink:
    """A running sink.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def figures(self) -> dict[str, float]:
        """Return what it has counted so far."""
        with urllib.request.urlopen(f"{self.url}/figures") as response:
            figures: dict[str, float] = json.load(response)
        return figures


@contextlib.contextmanager
def sink(*options: str) -> Iterator[Sink]:
    """Run a sink for as long as the context lasts."""
    with _running(Contestant("sink", options)) as process:
        yield Sink(f"http://127.0.0.1:{_line(process)}")


def in_turns(contestants: Mapping[str, Contestant], *, processes: int = 1, rounds: int = 1) -> Runs:
    """Let the contestants measure side by side, in turns, round by round.

    Only one process works at a time, and neighboring rounds are measured within the same second or so. A machine that
    is slow for a while slows them all alike.

    Args:
        contestants: The processes, by the name that their figures get.
        processes: How many processes each contestant gets, one after the other.
        rounds: How many rounds each of these processes measures.
    """
    found: Runs = {name: [] for name in contestants}
    for number in range(processes):
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(_running(each)) for name, each in contestants.items()}
            for figures in found.values():
                figures.append([])
            for turn in range(rounds):
                order = list(running) if (number + turn) % 2 == 0 else reversed(running)
                for name in order:
                    found[name][-1].append(_measure(running[name]))
    return found


def _measure(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the missing line says it better
        process.stdin.write("measure\n")
        process.stdin.flush()
    figures: dict[str, float] = json.loads(_line(process))
    return figures


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended early, with status {process.wait(10)}")
    return line.strip()


@contextlib.contextmanager
def _running(contestant: Contestant) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"tests.benchmarks.{contestant.module}", *contestant.arguments]
    # With -m, the working directory is searched first.
    process = subprocess.Popen(
        command,
        cwd=contestant.package,
        env=_environment(contestant.packages),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(_PATIENCE, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate()  # closes its standard input, which ends it
        watchdog.cancel()
    if process.returncode:
        raise RuntimeError(f"{command!r} failed, with status {process.returncode}")


def _environment(packages: str) -> dict[str, Any]:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # imports are measured with their caches
    return inherited | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), packages)))}
