"""The file of a spool: events that must outlive the process, in SQLite. Everything here blocks: call it off the loop.

When something is written, and what becomes of it, is left to `_events/_spool_writer.py`.

A row is believed only if its checksum is right. A file that SQLite finds damaged is set aside, and what can still be
read of it goes into a new one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from bucketeer_async._errors import BucketeerError
from bucketeer_async._models import EventKind

FILE_NAME: Final = "events.sqlite3"
_DAMAGED_NAME: Final = "events.damaged"
_PAGE: Final = 4096  # bytes
_ROWS: Final = 1000  # read at once, at most ...
_BYTES: Final = 2**20  # ... and of these many bytes
_WORTH_SHRINKING: Final = 2**20  # bytes
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS events "
    "(row INTEGER PRIMARY KEY, kind TEXT, id TEXT, pushed REAL, checksum INTEGER, body BLOB)"
)
_COLUMNS: Final = "row, kind, id, pushed, checksum, body"


class SpoolError(BucketeerError):
    """The file cannot be used."""


class SpoolFullError(SpoolError):
    """There is no room: the file is as large as it may become, or the disk is full."""


class SpoolDamagedError(SpoolError):
    """SQLite cannot read the file, or not all of it."""


class SpooledEvent(NamedTuple):
    """One event in the file.

    Attributes:
        row: Its place; later events have greater ones.
        kind: Class of the event.
        event_id: Its UUID.
        pushed: Unix time of the push, in seconds.
        body: The JSON of the event.
    """

    row: int
    kind: EventKind
    event_id: str
    pushed: float
    body: bytes


def _checksum(kind: str, event_id: str, pushed: float, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{kind} {event_id} {pushed!r}".encode()))


def _read(row: Sequence[object]) -> SpooledEvent | None:
    """Return the event in a row, or None if it is not as it was written."""
    match row:
        case [int(number), str(kind), str(event_id), float(pushed), int(checksum), bytes(body)]:
            if checksum == _checksum(kind, event_id, pushed, body):
                return SpooledEvent(number, EventKind(kind), event_id, pushed, body)
    return None


class SpoolFile:
    """An open spool, owned by this process alone until `close`.

    Use it from one thread.

    Args:
        directory: Where the file is; made with mode 0700 if need be. The file has mode 0600.
        max_bytes: How large the file may become.

    Raises:
        SpoolError: If it cannot be used: in use by another process, no permission, no such disk.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.corrupt = 0
        """Events that were lost because the file was damaged, as far as is known."""
        self._path = directory / FILE_NAME
        self._max_bytes = max_bytes
        with _as_spool_errors():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except SpoolDamagedError:
                self._connection = self._open_anew()
            self._last_recovered = self._greatest_row()
            self._count = self._count_rows()
        self._next_row = self._last_recovered + 1

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            # Only a file that is not there yet: closing it again would free a lock that this process holds on it.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._path.chmod(0o600)
        connection = _connect(self._path)
        try:
            _claim(connection, self._max_bytes)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_anew(self) -> sqlite3.Connection:
        """Set the damaged file aside, and begin a new one with what can be read of it."""
        rows = list(_salvage(self._path))
        self._path.replace(self._path.with_name(_DAMAGED_NAME))
        for suffix in ("-wal", "-shm", "-journal"):
            self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        connection = self._open()
        events = [event for row in rows if (event := _read(row)) is not None]
        # Some events may have been unreadable without leaving a trace, so one is the least that is said.
        self.corrupt += max(1, len(rows) - len(events))
        with connection:
            _insert(connection, events)
        return connection

    def _greatest_row(self) -> int:
        (greatest,) = self._connection.execute("SELECT max(row) FROM events").fetchone()
        return int(greatest or 0)

    def _count_rows(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
        return int(count)

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """Bytes of the file that are in use."""
        with _as_spool_errors():
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * _PAGE

    def earlier_events(self, after: int) -> list[SpooledEvent]:
        """Return the next events that an earlier process has left, oldest first; [] if there are no more.

        Args:
            after: Row of the last one that was read; 0 in the beginning.
        """
        while True:
            with _as_spool_errors():
                rows = list(self._rows_after(after))
            events = [event for row in rows if (event := _read(row)) is not None]
            if len(events) < len(rows):
                self.corrupt += len(rows) - len(events)
                self.delete({row[0] for row in rows} - {event.row for event in events})
            if events or not rows:
                return events
            after = rows[-1][0]

    def _rows_after(self, after: int) -> Iterator[Sequence[Any]]:
        room = _BYTES
        for row in self._connection.execute(
            f"SELECT {_COLUMNS} FROM events WHERE row > ? AND row <= ? ORDER BY row LIMIT ?",  # noqa: S608 - our own words
            (after, self._last_recovered, _ROWS),
        ):
            yield row
            room -= len(row[-1]) if isinstance(row[-1], bytes) else 0
            if room <= 0:
                return

    def insert(self, events: Sequence[tuple[EventKind, str, float, bytes]]) -> int:
        """Write events (class, id, Unix time of the push, JSON) durably, all or none; return the row of the first."""
        first = self._next_row
        numbered = [SpooledEvent(first + index, *event) for index, event in enumerate(events)]
        with _as_spool_errors(), self._connection as transaction:
            _insert(transaction, numbered)
        self._next_row += len(events)
        self._count += len(events)
        return first

    def delete(self, rows: Iterable[int]) -> None:
        """Remove events whose story has ended; a row that is not there is ignored."""
        with _as_spool_errors(), self._connection as transaction:
            deleted = transaction.executemany("DELETE FROM events WHERE row = ?", ((row,) for row in rows)).rowcount
        self._count -= max(deleted, 0)

    def purge(self) -> int:
        """Remove all events for good, those that were deleted before and those of a damaged file too.

        Returns:
            How many there were.
        """
        count = len(self)
        with _as_spool_errors():
            with self._connection as transaction:
                transaction.execute("DELETE FROM events")
            self._connection.execute("VACUUM")  # nothing of them stays in free pages
            self._path.with_name(_DAMAGED_NAME).unlink(missing_ok=True)
        self._count = 0
        return count

    def close(self) -> None:
        """Let the file go, and shrink it if it is empty."""
        try:
            with _as_spool_errors():
                if self._path.stat().st_size > _WORTH_SHRINKING and not len(self):
                    self._connection.execute("VACUUM")
        finally:
            self._connection.close()


def read_events(directory: Path) -> Iterator[SpooledEvent | None]:
    """Read a spool that nobody uses, oldest events first, and change nothing; None stands for a damaged one.

    Raises:
        SpoolDamagedError: If SQLite cannot read on from here.
        SpoolError: If there is no spool, or it cannot be used: in use by a process, no permission.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise SpoolError("there is no spool")
    with _as_spool_errors(), contextlib.closing(_connect(path)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        for row in connection.execute(f"SELECT {_COLUMNS} FROM events ORDER BY row"):  # noqa: S608 - our own words
            yield _read(row)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0.0, isolation_level="IMMEDIATE")
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")  # the checksum judges damaged text
    return connection


def _claim(connection: sqlite3.Connection, max_bytes: int) -> None:
    with _as_spool_errors():
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # until the connection is closed, or the process ends
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives the loss of power
        connection.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE}")
        connection.execute(_SCHEMA)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != ("ok",):
        raise SpoolDamagedError("the file is damaged")


def _insert(connection: sqlite3.Connection, events: Iterable[SpooledEvent]) -> None:
    connection.executemany(
        f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own words
        (
            (event.row, str(event.kind), event.event_id, event.pushed, _checksum(*event[1:]), event.body)
            for event in events
        ),
    )


def _salvage(path: Path) -> Iterator[Sequence[object]]:
    """Read a damaged file from its beginning, and from its end, each as far as it goes."""
    seen: set[object] = set()
    for order in ("ASC", "DESC"):
        connection = _connect(path)
        try:
            with _as_spool_errors():
                connection.execute("PRAGMA writable_schema = ON")  # else a file that was cut off is not read at all
                # One row at a time: what was read before the damage is kept.
                for row in connection.execute(f"SELECT {_COLUMNS} FROM events ORDER BY row {order}"):  # noqa: S608 - ours
                    if row[0] not in seen:
                        seen.add(row[0])
                        yield row
        except SpoolError:
            continue
        finally:
            connection.close()


@contextlib.contextmanager
def _as_spool_errors() -> Iterator[None]:
    """Translate errors of SQLite and of the file system, once, at this border."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail in the upper bits
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise SpoolDamagedError(str(error)) from error
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFullError(str(error)) from error
        raise SpoolError("another process uses it" if code == sqlite3.SQLITE_BUSY else str(error)) from error
    except OSError as error:
        raise SpoolError(error.strerror or type(error).__name__) from error
