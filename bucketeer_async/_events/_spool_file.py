"""The file of a spool: an SQLite database of undelivered events. All functions block: call them off the event loop.

When events are written and deleted is left to `_spool_writer.py`, and what a row is to `_spool_rows.py`.

If SQLite reports damage, a new file takes over the events that are still readable, and the damaged one is kept as a
copy.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bucketeer_async._events._spool_access import (
    Access,
    SpoolDamagedError,
    SpoolError,
    SpoolFullError,
    SpoolLostError,
    as_spool_errors,
    connect,
    locked,
)
from bucketeer_async._events._spool_rows import (
    COLUMNS,
    LARGEST_ROW,
    PAGE,
    SpooledEvent,
    count_rows,
    create_tables,
    empty_spool,
    in_parts,
    insert_rows,
    read_row,
    read_suspects,
    require_format,
    size_of_row,
)
from bucketeer_async._events._spool_salvage import (
    Salvage,
    copies,
    keep_copy,
    move,
    readable_rows,
    remember_left,
    remove_copies,
    rows_behind_first_page,
    rows_left,
    rows_of_copy,
)

FILE_NAME: Final = "events.sqlite3"
_NEW_NAME: Final = "events.salvaged"  # a file that takes a damaged one's place
_SHRINK_THRESHOLD: Final = 2**20  # bytes; an empty file of more than this size is shrunk


class SpoolFile:
    """An open spool. This process has an exclusive lock on the file until `close`.

    Not safe for use from several threads.

    Args:
        directory: Directory of the file. A missing directory is created with mode 0700; the file has mode 0600.
        max_bytes: Largest size of the file, in bytes.
        first_row: Least row number of an event that is inserted.

    Attributes:
        directory: The directory, as an absolute path.
        corrupt: Number of events that are known to be lost because the file was damaged.
        unknown: Number of events of classes that this version does not know.
        left: Number of events that are left in copies of damaged files.
        next_row: Row number of the next event that is inserted.

    Raises:
        SpoolError: If the spool cannot be used, for example because another process uses it or permission is denied.
    """

    def __init__(self, directory: Path, max_bytes: int, *, first_row: int = 1) -> None:
        self.corrupt = 0
        self._max_bytes = max_bytes
        with as_spool_errors():
            self.directory = directory.absolute()
            self._path = self.directory / FILE_NAME
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._open()
            except SpoolDamagedError:
                self._replace_damaged_file()
                self._open()
            try:
                self._last_recovered, greatest = self._greatest_rows()
                self._count, self.unknown = count_rows(self._connection)
                self._suspects = read_suspects(self._connection)  # of earlier processes
                self._sizes = _measure(self._path)
            except BaseException:
                self._close()
                raise
            self.left = _left_in_copies(self.directory)
        self.next_row = max(greatest + 1, first_row)

    def _open(self) -> None:
        """Open the file, which is new or in order; a damaged one stays open."""
        new = self._path.with_name(_NEW_NAME)
        if new.exists() and not self._path.exists():
            new.replace(self._path)  # an earlier process ended amid `_replace_damaged_file`, near its end
        _create(self._path)
        self._access = Access(self._path)
        self._connection = self._access.connect()
        try:
            _claim(self._connection, self._path, self._max_bytes)
            self._access.require_place()
            new.unlink(missing_ok=True)  # or before that
        except SpoolDamagedError:
            raise
        except BaseException:
            self._close()
            raise

    def _replace_damaged_file(self) -> None:
        """Put a new file with the events that are still readable in the place of the damaged one, which is closed."""
        new = self._path.with_name(_NEW_NAME)
        try:
            self._access.require_place()
            salvage = self._salvage_to(new, readable_rows(self._connection)) if self._is_locked() else Salvage(0, 0, [])
        finally:
            self._close()
        with locked(self._path) as damaged:  # SQLite's locks are those of a connection, and went with it
            self._access.require_place()
            if salvage == Salvage(0, 0, []):
                salvage = self._salvage_to(new, rows_behind_first_page(damaged, self._path))
            keep_copy(self._path, salvage.left)
            new.replace(self._path)
        # Events may be lost without a trace, so at least one lost event is counted.
        self.corrupt += max(1, salvage.damaged)

    def _is_locked(self) -> bool:
        """Whether SQLite was able to lock the damaged file; it reads its first page before."""
        try:
            with as_spool_errors():
                self._connection.execute("BEGIN EXCLUSIVE")
                self._connection.commit()
        except SpoolDamagedError:
            return False
        return True

    def _salvage_to(self, new: Path, rows: Iterator[Sequence[Any]]) -> Salvage:
        new.unlink(missing_ok=True)
        try:
            _create(new)
            with contextlib.closing(connect(new)) as connection:
                # In memory alone: if the process ends, the damaged file is still there.
                connection.execute("PRAGMA journal_mode = MEMORY")
                connection.execute(f"PRAGMA max_page_count = {self._max_bytes // PAGE}")
                create_tables(connection)
                return move(rows, partial(_insert_salvaged, connection, self._max_bytes))
        except BaseException:
            new.unlink(missing_ok=True)  # it would keep a full disk full
            raise

    def _greatest_rows(self) -> tuple[int, int]:
        """Return the greatest row number, and the greatest one that is not damaged."""
        last, greatest = self._connection.execute(
            f"SELECT max(row), max(row) FILTER (WHERE row < {LARGEST_ROW}) FROM events"  # noqa: S608 - a constant
        ).fetchone()
        return last or 0, max(0, greatest or 0)

    def __len__(self) -> int:
        """Return the number of events of classes that this version knows."""
        return self._count

    @property
    def size(self) -> int:
        """Size of the used part of the file, in bytes."""
        with as_spool_errors():
            return _used_pages(self._connection) * PAGE

    def check_in_place(self) -> None:
        """Do nothing if what was written can be found by the next process.

        Raises:
            SpoolLostError: If the file was removed, replaced or cut off.
        """
        with as_spool_errors():
            sizes = _measure(self._path)
        for path, (device, inode, size) in self._sizes.items():
            found = sizes.get(path)
            if found is None or found[:2] != (device, inode) or found[2] < size:
                raise SpoolLostError("its file was removed, replaced or cut off while it was in use")
        self._sizes = sizes

    def earlier_events(self, after: int) -> list[SpooledEvent]:
        """Return the next events of earlier processes, oldest first, of known classes; [] if no events are left.

        Args:
            after: Row number of the last event that was read; 0 for the first call.
        """
        while True:
            with as_spool_errors():
                following = self._connection.execute(
                    f"SELECT {COLUMNS} FROM events WHERE row > ? AND row <= ? ORDER BY row",  # noqa: S608 - constants
                    (after, self._last_recovered),
                )
                rows: Sequence[Sequence[Any]] = next(in_parts(following, size_of_row), ())
            events = [event for row in rows if (event := read_row(row, self._suspects)) is not None]
            if len(events) < len(rows):
                self.corrupt += len(rows) - len(events)
                self.delete({row[0] for row in rows} - {event.row for event in events})
                with as_spool_errors():  # the class of a damaged row may have looked unknown
                    self._count, self.unknown = count_rows(self._connection)
            known = [event for event in events if event.is_known]
            if known or not rows:
                return known
            after = rows[-1][0]

    def insert(self, events: Sequence[tuple[str, str, float, bytes]]) -> int:
        """Write events (kind, id, Unix time of the push, JSON) in one transaction; return the first row number."""
        first = self.next_row
        numbered = [SpooledEvent(first + index, *event) for index, event in enumerate(events)]
        with as_spool_errors(), self._connection as transaction:
            insert_rows(transaction, numbered)
        self.next_row += len(events)
        self._count += len(events)
        return first

    def mark_suspects(self, rows: Sequence[int]) -> None:
        """Remember that events have failed alone, by their row numbers."""
        with as_spool_errors(), self._connection as transaction:
            transaction.executemany("INSERT OR IGNORE INTO suspects (row) VALUES (?)", ((row,) for row in rows))

    def delete(self, rows: Iterable[int]) -> None:
        """Delete events by their row numbers; unknown numbers are ignored."""
        numbers = [(row,) for row in rows]
        if not numbers:
            return
        with as_spool_errors(), self._connection as transaction:
            transaction.executemany("DELETE FROM suspects WHERE row = ?", numbers)
            deleted = transaction.executemany("DELETE FROM events WHERE row = ?", numbers).rowcount
        self._count -= max(deleted, 0)

    def delete_events(self, event_ids: Collection[str]) -> None:
        """Delete events by their ids; unknown ids are ignored. Reads every row."""
        with as_spool_errors():
            found = self._connection.execute("SELECT row, id FROM events").fetchall()
        self.delete([row for row, event_id in found if event_id in event_ids])

    def take_over(self, copy: Path) -> Salvage:
        """Write the events that are left in a copy of a damaged file, as far as they fit and can be read."""
        left, seen = rows_left(copy) or frozenset(), set[int]()

        def rows() -> Iterator[Sequence[Any]]:
            for row in rows_of_copy(copy):
                seen.add(row[0])
                yield row

        with as_spool_errors():
            taken, damaged, unfit = move(rows(), lambda events: self.insert([event[1:5] for event in events]))
            salvage = Salvage(taken, damaged, [*unfit, *sorted(left - seen)])
            remember_left(copy, salvage.left)
            self.left = _left_in_copies(copy.parent)
        return salvage

    def purge(self) -> int:
        """Erase all events, including the traces of deleted events and the copies of damaged files.

        Returns:
            The number of events, without the deleted ones.
        """
        count = self._count + self.unknown
        with as_spool_errors():
            with self._connection as transaction:
                transaction.execute("DELETE FROM events")
                transaction.execute("DELETE FROM suspects")
            self._connection.execute("VACUUM")  # erases the free pages, which contain deleted events
            remove_copies(self._path.parent)
        self._count = self.unknown = self.left = 0
        return count

    def close(self) -> None:
        """Close the file; an empty file is shrunk."""
        try:
            with as_spool_errors():
                if not len(self) and self._path.exists() and self._path.stat().st_size > _SHRINK_THRESHOLD:
                    self._connection.execute("VACUUM")
        finally:
            self._close()

    def _close(self) -> None:
        self._connection.close()
        self._access.close()


def read_events(directory: Path) -> Iterator[SpooledEvent | None]:
    """Return the events of a spool that is not in use, oldest first, without changing it; None for a damaged event.

    Raises:
        SpoolDamagedError: If SQLite cannot read the rest of the file.
        SpoolError: If the spool does not exist or cannot be used, for example because a process uses it.
    """
    path = directory / FILE_NAME
    with as_spool_errors():
        if not path.is_file():
            raise SpoolError("the directory has no spool")
    access = Access(path)
    try:
        with as_spool_errors(), contextlib.closing(access.connect()) as connection:
            require_format(connection)
            suspects = read_suspects(connection)
            for row in connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY row"):  # noqa: S608 - constants
                yield read_row(row, suspects)
    finally:
        access.close()


def _left_in_copies(directory: Path) -> int:
    return sum(len(rows_left(copy) or ()) for copy in copies(directory))


def _create(path: Path) -> None:
    """Create a file that does not exist yet, and that nobody else can read."""
    # If the file was removed alone, SQLite restores what it can from its log, unless the file is empty.
    content = empty_spool(has_log=True) if path.with_name(path.name + "-wal").is_file() else b""
    with contextlib.suppress(FileExistsError):
        # Create only: closing an existing file would release the locks that this process has on it.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, content)
        os.close(descriptor)
    if not path.is_file():
        raise SpoolError(f"it is not a file: {path}")


def _claim(connection: sqlite3.Connection, path: Path, max_bytes: int) -> None:
    """Lock a file, and prepare it for writing."""
    with as_spool_errors():
        connection.execute("PRAGMA writable_schema = ON")  # a file that was cut off is locked, and then checked
        connection.execute("BEGIN EXCLUSIVE")
        connection.commit()  # the lock is kept
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise SpoolDamagedError("the file is damaged")
        connection.execute("PRAGMA writable_schema = OFF")
        require_format(connection)
        path.chmod(0o600)  # before there is a log, which gets the same mode
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a loss of power
        connection.execute(f"PRAGMA max_page_count = {max_bytes // PAGE}")
        create_tables(connection)


def _used_pages(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)


def _insert_salvaged(connection: sqlite3.Connection, max_bytes: int, events: Sequence[SpooledEvent]) -> None:
    try:
        with as_spool_errors(), connection as transaction:
            insert_rows(transaction, events)
    except SpoolFullError as error:
        needed = sum(len(event.body) + PAGE for event in events)
        if _used_pages(connection) * PAGE + needed < max_bytes:
            # Nothing is left behind for lack of room that may come back.
            raise SpoolError("the disk is full") from error
        raise


def _measure(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Return the device, inode and size of the file and of the log that SQLite keeps beside it, if they exist."""
    found = {}
    for each in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = each.stat()
            found[each] = status.st_dev, status.st_ino, status.st_size
    return found
