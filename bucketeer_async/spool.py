"""Shows, checks and purges a spool: ``python -m bucketeer_async.spool PATH [show|check|purge]``.

A tool for operators of a service; the service itself does not need it. The file format is left to
`_events/_spool_file.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bucketeer_async._models import EventKind

try:
    from bucketeer_async._events._spool_file import SpoolDamagedError, SpooledEvent, SpoolError, SpoolFile, read_events
except ImportError as _error:
    raise ImportError("a spool needs sqlite3, and this Python was built without it: install another build") from _error

_LARGEST: Final = 2**40  # bytes; no limit in effect, because nothing is written

_OK: Final = 0
_DAMAGED: Final = 1
_UNUSABLE: Final = 2


@dataclass(slots=True)
class _Summary:
    """The number, size and age of the events of one kind in a spool."""

    events: int = 0
    size: int = 0
    first: float = float("inf")
    last: float = 0.0
    suspects: int = 0

    def add(self, event: SpooledEvent) -> None:
        self.events += 1
        self.size += len(event.body)
        self.first = min(self.first, event.pushed)
        self.last = max(self.last, event.pushed)
        self.suspects += event.is_suspect

    def __str__(self) -> str:
        pushed = f", pushed {_time(self.first)} to {_time(self.last)}" if self.events else ""
        quarantined = f", {self.suspects} quarantined" if self.suspects else ""
        return f"{self.events} events, {self.size} bytes{pushed}{quarantined}"


@dataclass(slots=True)
class _Contents:
    """The readable events of a spool, by kind, and the damage."""

    kinds: dict[EventKind, _Summary] = field(default_factory=lambda: {kind: _Summary() for kind in EventKind})
    damaged: int = 0
    ends_early: bool = False

    def add(self, events: Iterable[SpooledEvent | None]) -> None:
        try:
            for event in events:
                if event is None:
                    self.damaged += 1
                else:
                    self.kinds[event.kind].add(event)
        except SpoolDamagedError:
            self.ends_early = True

    @property
    def is_whole(self) -> bool:
        return not self.damaged and not self.ends_early


def _time(pushed: float) -> str:
    return datetime.fromtimestamp(pushed, UTC).isoformat(" ", "seconds")


def _read(path: Path) -> _Contents:
    contents = _Contents()
    contents.add(read_events(path))
    return contents


def _show(path: Path) -> int:
    """Print the number, size and age of the events, by kind."""
    contents = _read(path)
    for kind, summary in contents.kinds.items():
        print(f"{kind:<10} {summary}")
    if not contents.is_whole:
        print("the file is damaged: run the command check for details")
    return _OK


def _check(path: Path) -> int:
    """Verify the checksum of every event, and print the number of damaged events."""
    contents = _read(path)
    readable = sum(summary.events for summary in contents.kinds.values())
    print(f"{readable} events can be read, {contents.damaged} are damaged")
    if contents.ends_early:
        print("the file is damaged: more events may be lost; the next processor delivers the readable events")
    return _OK if contents.is_whole else _DAMAGED


def _purge(path: Path) -> int:
    """Remove all events without delivering them."""
    _read(path)  # raises if the spool does not exist, so that no empty spool is created
    file = SpoolFile(path, _LARGEST)
    try:
        print(f"{file.purge()} events were removed")
    finally:
        file.close()
    return _OK


_COMMANDS: Final = {"show": _show, "check": _check, "purge": _purge}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command-line arguments; None for those of the process.

    Returns:
        The exit status: 0 for success, 1 if ``check`` found damage, 2 if the spool cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m bucketeer_async.spool", description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="the directory given to Spool(path)")
    parser.add_argument("command", nargs="?", choices=_COMMANDS, default="show", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        return _COMMANDS[options.command](options.path)
    except SpoolError as error:
        print(f"the spool {options.path} cannot be used: {error}", file=sys.stderr)
        return _UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
