"""Shows, checks and purges a spool: ``python -m bucketeer_async.spool PATH [show|check|purge]``.

For the person who runs a service; the service itself never needs it. What a spool is, is left to `_events/_spool_file.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bucketeer_async._events._spool_file import SpoolDamagedError, SpooledEvent, SpoolError, SpoolFile, read_events
from bucketeer_async._models import EventKind

_LARGEST: Final = 2**40  # bytes; larger than any spool, for nothing is written

_OK: Final = 0
_DAMAGED: Final = 1
_UNUSABLE: Final = 2


@dataclass(slots=True)
class _Kind:
    """What a spool holds of one class of events."""

    events: int = 0
    size: int = 0
    first: float = float("inf")
    last: float = 0.0

    def add(self, event: SpooledEvent) -> None:
        self.events += 1
        self.size += len(event.body)
        self.first = min(self.first, event.pushed)
        self.last = max(self.last, event.pushed)

    def __str__(self) -> str:
        pushed = f", pushed {_time(self.first)} to {_time(self.last)}" if self.events else ""
        return f"{self.events} events, {self.size} bytes{pushed}"


@dataclass(slots=True)
class _Contents:
    """What a spool holds, and what of it cannot be read."""

    kinds: dict[EventKind, _Kind] = field(default_factory=lambda: {kind: _Kind() for kind in EventKind})
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
    """Print what it holds, by class, and when it was pushed."""
    contents = _read(path)
    for kind, held in contents.kinds.items():
        print(f"{kind:<10} {held}")
    if not contents.is_whole:
        print("the file is damaged: check says more")
    return _OK


def _check(path: Path) -> int:
    """Read every event, and compare it with its checksum."""
    contents = _read(path)
    readable = sum(held.events for held in contents.kinds.values())
    print(f"{readable} events can be read, {contents.damaged} are damaged")
    if contents.ends_early:
        print("the file is damaged: more events may be lost; what can be read is delivered by the next processor")
    return _OK if contents.is_whole else _DAMAGED


def _purge(path: Path) -> int:
    """Remove every event; they will not be delivered."""
    _read(path)  # a spool that is not there is not made
    file = SpoolFile(path, _LARGEST)
    try:
        print(f"{file.purge()} events were removed")
    finally:
        file.close()
    return _OK


_COMMANDS: Final = {"show": _show, "check": _check, "purge": _purge}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, or 1 if ``check`` found damage, or 2 if the spool cannot be used.
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
