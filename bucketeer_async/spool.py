"""Shows, checks, salvages and purges a spool: ``python -m bucketeer_async.spool PATH [show|check|salvage|purge]``.

A tool for operators of a service; the service itself does not need it. The file format is left to
`_events/_spool_file.py`, and copies of damaged files to `_events/_spool_salvage.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bucketeer_async._models import EventKind

try:
    from bucketeer_async._events._spool_access import SpoolDamagedError, SpoolError, as_spool_errors
    from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile, read_events
    from bucketeer_async._events._spool_rows import SpooledEvent, read_row
    from bucketeer_async._events._spool_salvage import copies, rows_of_copy
except ImportError as _error:
    raise ImportError("a spool needs sqlite3, and this Python was built without it: install another build") from _error

_LARGEST: Final = 2**40  # bytes; no limit in effect
_UNKNOWN: Final = "unknown"

_OK: Final = 0
_DAMAGED: Final = 1
_UNUSABLE: Final = 2


@dataclass(slots=True)
class _Summary:
    """The number, size and age of the events of one kind in a spool."""

    events: int = 0
    size: int = 0
    first: float = float("inf")
    last: float = float("-inf")
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
    """The readable events of a file, by kind, and the damage."""

    kinds: dict[str, _Summary] = field(default_factory=lambda: {kind: _Summary() for kind in (*EventKind, _UNKNOWN)})
    damaged: int = 0
    ends_early: bool = False

    def add(self, events: Iterable[SpooledEvent | None]) -> None:
        try:
            for event in events:
                if event is None:
                    self.damaged += 1
                else:
                    self.kinds[event.kind if event.is_known else _UNKNOWN].add(event)
        except SpoolDamagedError:
            self.ends_early = True

    @property
    def events(self) -> int:
        return sum(summary.events for summary in self.kinds.values())

    @property
    def is_whole(self) -> bool:
        return not self.damaged and not self.ends_early

    def print(self) -> None:
        for kind, summary in self.kinds.items():
            if summary.events or kind != _UNKNOWN:
                print(f"{kind:<10} {summary}")


def _time(pushed: float) -> str:
    try:
        return datetime.fromtimestamp(pushed, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):  # by a clock that was wrong
        return f"at {pushed:.0f} s"


def _read(path: Path) -> _Contents:
    contents = _Contents()
    if (path / FILE_NAME).exists() or not copies(path):
        contents.add(read_events(path))
    return contents


def _read_copy(copy: Path) -> _Contents:
    contents = _Contents()
    contents.add(map(read_row, rows_of_copy(copy)))
    return contents


def _existing(path: Path) -> contextlib.closing[SpoolFile]:
    """Open a spool for changes."""
    _read(path)  # raises if the spool does not exist, so that no empty spool is created
    return contextlib.closing(SpoolFile(path, _LARGEST))


def _show(path: Path) -> int:
    """Print the number, size and age of the events, by kind, also of those that are left in damaged files."""
    contents = _read(path)
    contents.print()
    if not contents.is_whole:
        print("the file is damaged: run the command check for details")
    for copy in copies(path):
        contents = _read_copy(copy)
        if contents.events:
            print(f"{copy.name}, a damaged file, from which the command salvage takes these events over:")
            contents.print()
        else:
            print(f"{copy.name}, a damaged file: no events are left in it")
    return _OK


def _check(path: Path) -> int:
    """Verify the checksum of every event, and print the number of damaged events."""
    contents = _read(path)
    print(f"{contents.events} events can be read, {contents.damaged} are damaged")
    if unknown := contents.kinds[_UNKNOWN].events:
        print(f"{unknown} of them wait for a version of bucketeer_async that knows their class")
    if contents.ends_early:
        print("the file is damaged: more events may be lost; the next processor delivers the readable events")
    return _OK if contents.is_whole else _DAMAGED


def _salvage(path: Path) -> int:
    """Write the events that are left in damaged files to the spool, so that the next processor delivers them."""
    with _existing(path) as file:
        for copy in copies(path):
            salvage = file.take_over(copy)
            print(
                f"{copy.name}: {salvage.taken} events were taken over, {salvage.damaged} are damaged, "
                f"{len(salvage.left)} are left"
            )
        return _DAMAGED if file.left else _OK


def _purge(path: Path) -> int:
    """Remove all events without delivering them, and the damaged files."""
    with _existing(path) as file:
        print(f"{file.purge()} events were removed")
    return _OK


_COMMANDS: Final = {"show": _show, "check": _check, "salvage": _salvage, "purge": _purge}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command-line arguments; None for those of the process.

    Returns:
        The exit status: 0 for success, 1 if ``check`` found damage or ``salvage`` left events, 2 if the spool cannot be
        used.
    """
    parser = argparse.ArgumentParser(prog="python -m bucketeer_async.spool", description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="the directory given to Spool(path)")
    parser.add_argument("command", nargs="?", choices=_COMMANDS, default="show", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with as_spool_errors():
            return _COMMANDS[options.command](options.path)
    except SpoolError as error:
        print(f"the spool {options.path} cannot be used: {error}", file=sys.stderr)
        return _UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
