"""Salvage: the events that can still be read of a damaged file, and the copies that are kept of damaged files.

A copy has a list beside it, of the rows that can be read and were left in it because they did not fit into the spool.
When a file is replaced by a new one is decided in `_spool_file.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from bucketeer_async._events._spool_access import (
    Access,
    SpoolBusyError,
    SpoolError,
    as_spool_errors,
    connect,
    locked,
)
from bucketeer_async._events._spool_rows import (
    COLUMNS,
    PAGE,
    SpooledEvent,
    empty_spool,
    in_parts,
    insert_what_fits,
    read_row,
    size_of_row,
)

_NAME: Final = "events.damaged"
_NAMES: Final = re.compile(re.escape(_NAME) + r"(?:-(\d+))?")
_SCRATCH: Final = _NAME + ".scratch"  # exists while a copy is read
_LEFT: Final = ".left"  # of the list's name, behind the name of the copy
_BESIDE: Final = ("-wal", "-journal", "-shm")  # of the names of SQLite's other files


class Salvage(NamedTuple):
    """What a salvage has done.

    Attributes:
        taken: Number of events that were written.
        damaged: Number of rows that are no events any more.
        left: Row numbers of the events that did not fit.
    """

    taken: int
    damaged: int
    left: Sequence[int]


def readable_rows(connection: sqlite3.Connection) -> Iterator[Sequence[Any]]:
    """Return the rows of a file that may be damaged, read from its beginning and from its end up to the damage.

    Raises:
        SpoolBusyError: If another process uses the file.
    """
    seen: set[object] = set()
    for order in ("ASC", "DESC"):
        try:
            with as_spool_errors():
                # Without this, SQLite does not read a file at all that was cut off.
                connection.execute("PRAGMA writable_schema = ON")
                # Row by row, so that the rows before the damage are not lost.
                for row in connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY row {order}"):  # noqa: S608 - constants
                    if row[0] not in seen:
                        seen.add(row[0])
                        yield row
        except SpoolBusyError:
            raise
        except SpoolError:
            continue


def rows_behind_first_page(file: BinaryIO, path: Path) -> Iterator[Sequence[Any]]:
    """Return the rows of a file whose first page, which has the schema, is damaged; read from a copy with another one.

    Args:
        file: The file.
        path: Its path.
    """
    first = empty_spool(has_log=False)[:PAGE]
    first[28:32] = bytes(4)  # the number of pages: SQLite is to go by the size of the file
    scratch = path.with_name(_SCRATCH)
    try:
        scratch.touch(mode=0o600)
        with scratch.open("wb") as written:
            shutil.copyfileobj(file, written)
            written.seek(0)
            written.write(first)
        with contextlib.closing(connect(scratch)) as connection:
            yield from readable_rows(connection)
    finally:
        scratch.unlink(missing_ok=True)


def move(rows: Iterable[Sequence[Any]], insert: Callable[[Sequence[SpooledEvent]], object]) -> Salvage:
    """Write the events in rows; ``insert`` is that of `insert_what_fits`."""
    taken = damaged = 0
    left: list[int] = []
    for part in in_parts(rows, size_of_row):
        events = [event for row in part if (event := read_row(row)) is not None]
        unfit, _ = insert_what_fits(events, lambda event: len(event.body), insert)
        damaged += len(part) - len(events)
        taken += len(events) - len(unfit)
        left += [event.row for event in unfit]
    return Salvage(taken, damaged, left)


# Copies


def copies(directory: Path) -> list[Path]:
    """Return the copies of damaged files, the first one first."""
    found = {
        int(match[1] or 1): path
        for path in directory.glob(_NAME + "*")
        if (match := _NAMES.fullmatch(path.name)) and path.is_file()
    }
    return [path for _, path in sorted(found.items())]


def keep_copy(path: Path, left: Collection[int]) -> Path:
    """Rename a damaged file; return the copy. A copy in which events may be left is not overwritten."""
    names = itertools.chain([_NAME], (f"{_NAME}-{number}" for number in itertools.count(2)))
    copy = next(each for name in names if not (each := path.with_name(name)).exists() or rows_left(each) == frozenset())
    remember_left(copy, left)
    for suffix in (*_BESIDE, ""):  # once the file is gone, these names are those of the next one
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(copy.with_name(copy.name + suffix))
    copy.chmod(0o600)
    return copy


def rows_left(copy: Path) -> frozenset[int] | None:
    """Return the row numbers of the events that are left in a copy; None if they are not known, and all of them may be."""
    try:
        return frozenset(map(int, _list_of(copy).read_text().split()))
    except (OSError, ValueError):
        return None


def remember_left(copy: Path, left: Collection[int]) -> None:
    """Write down which rows are left in a copy."""
    _list_of(copy).touch(mode=0o600)
    _list_of(copy).write_text("".join(f"{row}\n" for row in left))


def _list_of(copy: Path) -> Path:
    return copy.with_name(copy.name + _LEFT)


def rows_of_copy(copy: Path) -> Iterator[Sequence[Any]]:
    """Return the rows that are left in a copy, as far as they can be read.

    Raises:
        SpoolBusyError: If another process uses the copy.
    """
    left = rows_left(copy)
    seen = False
    for read in (_rows_of_schema, _rows_behind_first_page):
        for row in read(copy):
            seen = True
            if left is None or row[0] in left:
                yield row
        if seen:
            return


def _rows_of_schema(copy: Path) -> Iterator[Sequence[Any]]:
    access = Access(copy)
    try:
        with as_spool_errors(), contextlib.closing(access.connect()) as connection:
            yield from readable_rows(connection)
    finally:
        access.close()


def _rows_behind_first_page(copy: Path) -> Iterator[Sequence[Any]]:
    with as_spool_errors(), locked(copy) as file:
        yield from rows_behind_first_page(file, copy)


def remove_copies(directory: Path) -> None:
    """Remove every copy of a damaged file, and what stands beside it."""
    for path in directory.glob(_NAME + "*"):
        path.unlink(missing_ok=True)
