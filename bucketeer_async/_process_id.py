"""The id of this process, without a system call: every push asks whether the process was forked.

On Linux the id is kept in a page of memory that the kernel clears in a forked child, a fork by a C library included;
elsewhere it is read anew each time. What belongs to one process is left to `PerProcess` in `_background.py`.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Protocol

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux 4.14; the module `mmap` does not name it


class _Known(Protocol):
    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class _Unknown:
    """Stands for the page where the kernel has none to offer: the id is never known."""

    def __getitem__(self, index: int) -> int:
        return 0

    def __setitem__(self, index: int, value: int) -> None:
        """Keep nothing: a forked child would inherit it."""


def _known() -> _Known:
    if sys.platform != "linux":
        return _Unknown()
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_WIPE_ON_FORK)
    except OSError:  # an older kernel
        return _Unknown()
    return memoryview(page).cast("q")


#: ``known[0] or learn()`` is ``os.getpid()``: the id of this process, or 0 while it is not known.
known = _known()


def learn() -> int:
    """Return the id of this process, to be known from now on."""
    # Threads may race here in a forked child, but all of them write the same number.
    known[0] = pid = os.getpid()
    return pid
