"""The rows of a spool's file: their table, their checksums, and the events in them.

A row counts as an event only if its checksum is correct. A row of a class that this version does not know, as a newer
version leaves it, is neither delivered nor deleted. Who may use the file is left to `_spool_access.py`.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from bucketeer_async._events._spool_access import SpoolDamagedError, SpoolError, SpoolFullError
from bucketeer_async._models import EventKind

_T = TypeVar("_T")

PAGE: Final = 4096  # bytes
_ROWS: Final = 1000  # events in one part, at most ...
_BYTES: Final = 2**20  # ... and of so many bytes
LARGEST_ROW: Final = 2**62  # so that there is always a next one
COLUMNS: Final = "row, kind, id, pushed, checksum, body"
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS events "
    "(row INTEGER PRIMARY KEY, kind TEXT, id TEXT, pushed REAL, checksum INTEGER, body BLOB)"
)
#: Rows of events that have failed alone. A table of its own, which versions that do not know it leave alone.
_SUSPECTS_TABLE: Final = "CREATE TABLE IF NOT EXISTS suspects (row INTEGER PRIMARY KEY)"
#: The format of the file, as SQLite's `user_version`. A format that this version would misread gets a larger number.
_FORMAT: Final = 0
#: The classes of events that this version knows, by their names in the file.
_KINDS: Final = {str(kind): kind for kind in EventKind}


class SpooledEvent(NamedTuple):
    """An event in the file.

    Attributes:
        row: Row number; later events have larger numbers.
        kind: Class of the event: an `EventKind`, or the name of a class that this version does not know.
        event_id: Id of the event, a UUID.
        pushed: Unix time of the push, in seconds.
        body: The event as JSON.
        is_suspect: Whether the event has failed alone although the gateway was available.
    """

    row: int
    kind: str
    event_id: str
    pushed: float
    body: bytes
    is_suspect: bool = False

    def __repr__(self) -> str:  # without the body, which has the user
        return f"<SpooledEvent {self.kind} {self.event_id}>"

    @property
    def is_known(self) -> bool:
        """Whether this version knows the class of the event."""
        return isinstance(self.kind, EventKind)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables that are missing."""
    connection.execute(_TABLE)
    connection.execute(_SUSPECTS_TABLE)


def empty_spool(*, has_log: bool) -> bytearray:
    """Return the content of the file of an empty spool.

    Args:
        has_log: Whether SQLite is to look for a log beside the file.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        create_tables(connection)
        content = bytearray(connection.serialize())
    content[18:20] = b"\x02\x02" if has_log else b"\x01\x01"  # by the format of SQLite's files
    return content


def require_format(connection: sqlite3.Connection) -> None:
    """Do nothing if the file is empty, or a spool that this version can read.

    Raises:
        SpoolDamagedError: If the names of the columns are damaged.
        SpoolError: If another program, or a newer version of this package, has made the file.
    """
    (format_,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone() != (0,)
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(events)")}
    if tables and not columns.issuperset(COLUMNS.split(", ")):
        if columns and read_row(connection.execute("SELECT * FROM events LIMIT 1").fetchone() or ()):
            raise SpoolDamagedError("the file is damaged")
        raise SpoolError("the file is a database of another program")
    if format_ > _FORMAT:
        raise SpoolError("a newer version of bucketeer_async has written the file")


def checksum(kind: str, event_id: str, pushed: float, body: bytes) -> int:
    """Return the checksum of an event; a file of another format may have another one."""
    return zlib.crc32(body, zlib.crc32(f"{kind} {event_id} {pushed!r}".encode()))


def read_row(row: Sequence[object], suspects: Container[int] = ()) -> SpooledEvent | None:
    """Return the event in a row, or None if the row is damaged."""
    match row:
        case [int(number), str(kind), str(event_id), float(pushed), int(given), bytes(body)]:
            if given == checksum(kind, event_id, pushed, body) and 0 < number < LARGEST_ROW:
                return SpooledEvent(number, _KINDS.get(kind, kind), event_id, pushed, body, number in suspects)
    return None


def size_of_row(row: Sequence[object]) -> int:
    """Return the bytes of the event in a row, which may be damaged."""
    return len(row[-1]) if isinstance(row[-1], bytes) else 0


def read_suspects(connection: sqlite3.Connection) -> frozenset[int]:
    """Return the rows of events that have failed alone; a file of an older version has none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'suspects'").fetchone():
        return frozenset()
    return frozenset(row for (row,) in connection.execute("SELECT row FROM suspects"))


def count_rows(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of events of classes that this version knows, and of others."""
    marks = ", ".join("?" * len(_KINDS))
    total, unknown = connection.execute(
        f"SELECT count(*), coalesce(sum(kind NOT IN ({marks})), 0) FROM events",  # noqa: S608 - marks alone
        tuple(_KINDS),
    ).fetchone()
    return int(total) - int(unknown), int(unknown)


def insert_rows(connection: sqlite3.Connection, events: Iterable[SpooledEvent]) -> None:
    """Write events under their row numbers; the caller commits."""
    connection.executemany(
        f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
        (
            (event.row, str(event.kind), event.event_id, event.pushed, checksum(*event[1:5]), event.body)
            for event in events
        ),
    )


def in_parts(items: Iterable[_T], size_of: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Return the items in parts, each for one transaction, or for one turn of reading."""
    part: list[_T] = []
    room = _BYTES
    for item in items:
        size = size_of(item)
        if part and (len(part) == _ROWS or size > room):
            yield part
            part, room = [], _BYTES
        part.append(item)
        room -= size
    if part:
        yield part


def insert_what_fits(
    items: Sequence[_T], size_of: Callable[[_T], int], insert: Callable[[Sequence[_T]], object]
) -> tuple[list[_T], SpoolFullError | None]:
    """Insert as many items as fit, those before others that come first, in few transactions.

    Args:
        items: What is to be written.
        size_of: Returns the size of an item, in bytes. One that does not fit is the last of its size to be tried.
        insert: Writes items in one transaction; raises `SpoolFullError` and writes none if they do not all fit.

    Returns:
        The others, and what prevented the last of them; None if all fit.
    """
    left: list[_T] = []
    reason: SpoolFullError | None = None
    limit: float = math.inf
    parts = [items]
    while parts:
        part = parts.pop()
        left += [item for item in part if size_of(item) >= limit]
        part = [item for item in part if size_of(item) < limit]
        if not part:
            continue
        try:
            insert(part)
        except SpoolFullError as error:
            middle, reason = len(part) // 2, error
            if middle:
                parts += [part[middle:], part[:middle]]
            else:
                limit = size_of(part[0])
                left += part
    return left, reason if left else None
