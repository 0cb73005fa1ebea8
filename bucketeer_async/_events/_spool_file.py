"""The file of a spool: an SQLite database of undelivered events. All functions block: call them off the event loop.

When events are written and deleted is left to `_spool_writer.py`.

A row counts as an event only if its checksum is correct. If SQLite reports damage, the file is renamed, and a new file
gets the events that are still readable.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from bucketeer_async._errors import BucketeerError
from bucketeer_async._models import EventKind

FILE_NAME: Final = "events.sqlite3"
_DAMAGED_NAME: Final = "events.damaged"
_PAGE: Final = 4096  # bytes
_ROWS_PER_READ: Final = 1000
_BYTES_PER_READ: Final = 2**20
_SHRINK_THRESHOLD: Final = 2**20  # bytes; an empty file of more than this size is shrunk
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS events "
    "(row INTEGER PRIMARY KEY, kind TEXT, id TEXT, pushed REAL, checksum INTEGER, body BLOB)"
)
#: Rows of events that have failed alone. A table of its own, which versions that do not know it leave alone.
_SUSPECTS_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS suspects (row INTEGER PRIMARY KEY)"
_COLUMNS: Final = "row, kind, id, pushed, checksum, body"


class SpoolError(BucketeerError):
    """The spool cannot be used."""


class SpoolFullError(SpoolError):
    """The spool is full: the file has its largest size, or the disk is full."""


class SpoolDamagedError(SpoolError):
    """The file is damaged: SQLite cannot read all of it."""


class SpooledEvent(NamedTuple):
    """An event in the file.

    Attributes:
        row: Row number; later events have larger numbers.
        kind: Kind of the event.
        event_id: Id of the event, a UUID.
        pushed: Unix time of the push, in seconds.
        body: The event as JSON.
        is_suspect: Whether the event has failed alone although the gateway was available.
    """

    row: int
    kind: EventKind
    event_id: str
    pushed: float
    body: bytes
    is_suspect: bool = False

    def __repr__(self) -> str:  # without the body, which has the user
        return f"<SpooledEvent {self.kind} {self.event_id}>"


def _checksum(kind: str, event_id: str, pushed: float, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{kind} {event_id} {pushed!r}".encode()))


def _suspects(connection: sqlite3.Connection) -> frozenset[int]:
    """Return the rows of events that have failed alone; a file of an older version has none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'suspects'").fetchone():
        return frozenset()
    return frozenset(row for (row,) in connection.execute("SELECT row FROM suspects"))


def _read(row: Sequence[object], suspects: Container[int] = ()) -> SpooledEvent | None:
    """Return the event in a row, or None if the row is damaged."""
    match row:
        case [int(number), str(kind), str(event_id), float(pushed), int(checksum), bytes(body)]:
            if checksum == _checksum(kind, event_id, pushed, body):
                return SpooledEvent(number, EventKind(kind), event_id, pushed, body, number in suspects)
    return None


class SpoolFile:
    """An open spool. This process has an exclusive lock on the file until `close`.

    Not safe for use from several threads.

    Args:
        directory: Directory of the file. A missing directory is created with mode 0700; the file has mode 0600.
        max_bytes: Largest size of the file, in bytes.

    Raises:
        SpoolError: If the spool cannot be used, for example because another process uses it or permission is denied.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.corrupt = 0
        """Number of events that are known to be lost because the file was damaged."""
        self._path = directory / FILE_NAME
        self._max_bytes = max_bytes
        with _as_spool_errors():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except SpoolDamagedError:
                self._connection = self._replace_damaged_file()
            self._last_recovered = self._greatest_row()
            self._count = self._count_rows()
            self._suspects = _suspects(self._connection)  # of earlier processes
        self._next_row = self._last_recovered + 1

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            # Create only: closing an existing file would release the locks that this process has on it.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._path.chmod(0o600)
        connection = _connect(self._path)
        try:
            _claim(connection, self._max_bytes)
        except BaseException:
            connection.close()
            raise
        return connection

    def _replace_damaged_file(self) -> sqlite3.Connection:
        """Rename the damaged file, and return a connection to a new file with the events that are still readable."""
        rows = list(_salvage(self._path))
        self._path.replace(self._path.with_name(_DAMAGED_NAME))
        for suffix in ("-wal", "-shm", "-journal"):
            self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        connection = self._open()
        events = [event for row in rows if (event := _read(row)) is not None]
        # Events may be lost without a trace, so at least one lost event is counted.
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
        """Size of the used part of the file, in bytes."""
        with _as_spool_errors():
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * _PAGE

    def earlier_events(self, after: int) -> list[SpooledEvent]:
        """Return the next events of earlier processes, oldest first; [] if no events are left.

        Args:
            after: Row number of the last event that was read; 0 for the first call.
        """
        while True:
            with _as_spool_errors():
                rows = list(self._rows_after(after))
            events = [event for row in rows if (event := _read(row, self._suspects)) is not None]
            if len(events) < len(rows):
                self.corrupt += len(rows) - len(events)
                self.delete({row[0] for row in rows} - {event.row for event in events})
            if events or not rows:
                return events
            after = rows[-1][0]

    def _rows_after(self, after: int) -> Iterator[Sequence[Any]]:
        room = _BYTES_PER_READ
        for row in self._connection.execute(
            f"SELECT {_COLUMNS} FROM events WHERE row > ? AND row <= ? ORDER BY row LIMIT ?",  # noqa: S608 - constants
            (after, self._last_recovered, _ROWS_PER_READ),
        ):
            yield row
            room -= len(row[-1]) if isinstance(row[-1], bytes) else 0
            if room <= 0:
                return

    def insert(self, events: Sequence[tuple[EventKind, str, float, bytes]]) -> int:
        """Write events (kind, id, Unix time of the push, JSON) in one transaction; return the first row number."""
        first = self._next_row
        numbered = [SpooledEvent(first + index, *event) for index, event in enumerate(events)]
        with _as_spool_errors(), self._connection as transaction:
            _insert(transaction, numbered)
        self._next_row += len(events)
        self._count += len(events)
        return first

    def mark_suspects(self, rows: Sequence[int]) -> None:
        """Remember that events have failed alone, by their row numbers."""
        with _as_spool_errors(), self._connection as transaction:
            transaction.executemany("INSERT OR IGNORE INTO suspects (row) VALUES (?)", ((row,) for row in rows))

    def delete(self, rows: Iterable[int]) -> None:
        """Delete events by their row numbers; unknown numbers are ignored."""
        rows = list(rows)
        with _as_spool_errors(), self._connection as transaction:
            transaction.executemany("DELETE FROM suspects WHERE row = ?", ((row,) for row in rows))
            deleted = transaction.executemany("DELETE FROM events WHERE row = ?", ((row,) for row in rows)).rowcount
        self._count -= max(deleted, 0)

    def purge(self) -> int:
        """Erase all events, including the traces of deleted events and the renamed damaged file.

        Returns:
            The number of events, without the deleted ones.
        """
        count = len(self)
        with _as_spool_errors():
            with self._connection as transaction:
                transaction.execute("DELETE FROM events")
                transaction.execute("DELETE FROM suspects")
            self._connection.execute("VACUUM")  # erases the free pages, which contain deleted events
            self._path.with_name(_DAMAGED_NAME).unlink(missing_ok=True)
        self._count = 0
        return count

    def close(self) -> None:
        """Close the file; an empty file is shrunk."""
        try:
            with _as_spool_errors():
                if self._path.stat().st_size > _SHRINK_THRESHOLD and not len(self):
                    self._connection.execute("VACUUM")
        finally:
            self._connection.close()


def read_events(directory: Path) -> Iterator[SpooledEvent | None]:
    """Return the events of a spool that is not in use, oldest first, without changing it; None for a damaged event.

    Raises:
        SpoolDamagedError: If SQLite cannot read the rest of the file.
        SpoolError: If the spool does not exist or cannot be used, for example because a process uses it.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise SpoolError("the directory has no spool")
    with _as_spool_errors(), contextlib.closing(_connect(path)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        suspects = _suspects(connection)
        for row in connection.execute(f"SELECT {_COLUMNS} FROM events ORDER BY row"):  # noqa: S608 - constants
            yield _read(row, suspects)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0.0, isolation_level="IMMEDIATE")
    connection.text_factory = partial(
        str, encoding="utf-8", errors="replace"
    )  # damaged text must not raise; its checksum is wrong
    return connection


def _claim(connection: sqlite3.Connection, max_bytes: int) -> None:
    with _as_spool_errors():
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # kept until the connection is closed or the process ends
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a loss of power
        connection.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE}")
        connection.execute(_SCHEMA)
        connection.execute(_SUSPECTS_SCHEMA)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != ("ok",):
        raise SpoolDamagedError("the file is damaged")


def _insert(connection: sqlite3.Connection, events: Iterable[SpooledEvent]) -> None:
    connection.executemany(
        f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
        (
            (event.row, str(event.kind), event.event_id, event.pushed, _checksum(*event[1:5]), event.body)
            for event in events
        ),
    )


def _salvage(path: Path) -> Iterator[Sequence[object]]:
    """Return the readable rows of a damaged file, read from its beginning and from its end up to the damage."""
    seen: set[object] = set()
    for order in ("ASC", "DESC"):
        connection = _connect(path)
        try:
            with _as_spool_errors():
                connection.execute(
                    "PRAGMA writable_schema = ON"
                )  # without this, SQLite does not read a truncated file at all
                # Row by row, so that the rows before the damage are not lost.
                for row in connection.execute(f"SELECT {_COLUMNS} FROM events ORDER BY row {order}"):  # noqa: S608 - constants
                    if row[0] not in seen:
                        seen.add(row[0])
                        yield row
        except SpoolError:
            continue
        finally:
            connection.close()


@contextlib.contextmanager
def _as_spool_errors() -> Iterator[None]:
    """Translate errors of SQLite and of the file system to `SpoolError`s."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits contain details
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise SpoolDamagedError(str(error)) from error
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFullError(str(error)) from error
        raise SpoolError("another process uses it" if code == sqlite3.SQLITE_BUSY else str(error)) from error
    except OSError as error:
        raise SpoolError(error.strerror or type(error).__name__) from error
