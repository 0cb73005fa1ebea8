"""What all tests share: coroutine tests run on anyio's plugin, on the event loop that is asked for."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Mark every coroutine test for anyio's plugin; only its newer versions can be told to do so themselves."""
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.anyio(obj)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio in real time, or on uvloop; a module in virtual time has a fixture of this name of its own."""
    return "asyncio", {"use_uvloop": os.environ.get("BUCKETEER_TEST_LOOP") == "uvloop"}
