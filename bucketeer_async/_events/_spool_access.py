"""Access to the file of a spool: one owner at a time, also after a fork, and the errors of SQLite and of the disk.

What is in the file is left to `_spool_rows.py`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from bucketeer_async._errors import BucketeerError

with contextlib.suppress(ImportError):  # Windows has none, and no fork
    import fcntl

#: The bytes that SQLite locks in a file whose connection writes: their number, and the first of them.
_LOCKED: Final = (512, 2**30)
#: Files that are in use: process, device, inode. A child inherits those of its parent.
_in_use: dict[tuple[int, int, int], object] = {}


class SpoolError(BucketeerError):
    """The spool cannot be used."""


class SpoolBusyError(SpoolError):
    """Another processor uses the file."""

    def __init__(self) -> None:
        super().__init__("another process uses it")


class SpoolFullError(SpoolError):
    """The spool is full: the file has its largest size, or the disk takes no more."""


class SpoolDamagedError(SpoolError):
    """The file is damaged: SQLite cannot read all of it."""


class SpoolLostError(SpoolError):
    """The file was removed, replaced or cut off while it was in use."""


class Access:
    """The right to use a file, which one processor has at a time, until `close`.

    SQLite's own locks see to it, except in a forked child of the process that has used the file: there SQLite goes on
    to take the file for locked, since it remembers its locks by inode and cannot know that they stayed with the parent.
    The child takes the same locks itself, and has SQLite take none.

    Args:
        path: An existing file.

    Raises:
        SpoolBusyError: If another processor uses the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with as_spool_errors():
            found = path.stat()
            process, file = os.getpid(), (found.st_dev, found.st_ino)
            is_inherited = any(key[1:] == file and key[0] != process for key in list(_in_use))
            self._key, owner = (process, *file), object()
            if _in_use.setdefault(self._key, owner) is not owner:
                raise SpoolBusyError
            try:
                _require_permission(path)
                self._lock = _lock(path) if is_inherited else None
            except BaseException:
                del _in_use[self._key]
                raise

    def connect(self) -> sqlite3.Connection:
        """Return a connection; close it before the access."""
        try:
            return connect(self._path) if self._lock is None else connect(self._path, vfs="unix-none")
        except BaseException:
            self.close()
            raise

    def require_place(self) -> None:
        """Do nothing if the path still leads to the file.

        Raises:
            SpoolBusyError: If another process has replaced it.
        """
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._key[1:]:
                return
        raise SpoolBusyError

    def close(self) -> None:
        """Let others use the file."""
        if self._lock is not None:
            self._lock.close()
        _in_use.pop(self._key, None)


def _require_permission(path: Path) -> None:
    """Do nothing if a file to which this process has no connection can be written; SQLite's errors name no reason."""
    os.close(os.open(path, os.O_RDWR))
    if not os.access(path.parent, os.W_OK | os.X_OK):  # where SQLite keeps its log
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _lock(path: Path) -> BinaryIO:
    """Take SQLite's locks on a file to which this process has no connection; they last until the result is closed."""
    file = path.open("r+b")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_LOCKED)
    except OSError as error:
        file.close()
        raise SpoolBusyError from error
    return file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Hold SQLite's locks on a file to which this process has no connection, and read it; on Windows only read it."""
    with _lock(path) if os.name == "posix" else io.BytesIO(path.read_bytes()) as file:
        yield file


def connect(path: Path, *, vfs: str = "") -> sqlite3.Connection:
    """Return a connection that keeps its locks; for a file with an owner, use `Access`."""
    database = f"{path.absolute().as_uri()}?vfs={vfs}" if vfs else path
    connection = sqlite3.connect(database, uri=bool(vfs), timeout=0.0, isolation_level="IMMEDIATE")
    # Damaged text must not raise; its checksum is wrong.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # kept until the connection is closed or the process ends
    return connection


@contextlib.contextmanager
def as_spool_errors() -> Iterator[None]:
    """Translate errors of SQLite and of the file system to `SpoolError`s."""
    try:
        yield
    except sqlite3.Error as error:
        detailed = getattr(error, "sqlite_errorcode", 0)
        code = detailed & 0xFF  # the upper bits contain details
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise SpoolDamagedError(str(error)) from error
        if code == sqlite3.SQLITE_FULL or detailed == sqlite3.SQLITE_IOERR_WRITE:  # as of a quota
            raise SpoolFullError(str(error)) from error
        if code == sqlite3.SQLITE_BUSY:
            raise SpoolBusyError from error
        raise SpoolError(str(error)) from error
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise SpoolError(f"{error.strerror or type(error).__name__}{place}") from error
