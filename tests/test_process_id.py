"""The id of this process, as a push asks for it: in a forked child, by whatever it was forked, it is the child's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import pytest

from bucketeer_async import _process_id
from bucketeer_async._process_id import known, learn

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_the_id_is_that_of_this_process() -> None:
    assert learn() == os.getpid()
    assert (known[0] or learn()) == os.getpid()


@pytest.mark.parametrize("fork", [os.fork, lambda: ctypes.CDLL(None).fork()], ids=["by Python", "by a C library"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_an_id_of_its_own(fork: Callable[[], int]) -> None:
    learn()
    child = fork()
    if child == 0:
        os._exit(0 if (known[0] or learn()) == os.getpid() == (known[0] or learn()) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (known[0] or learn()) == os.getpid()


def test_without_help_of_the_kernel_the_id_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = _process_id._Unknown()
    monkeypatch.setattr(_process_id, "known", unknown)

    assert learn() == os.getpid()
    assert unknown[0] == 0
