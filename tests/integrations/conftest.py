"""What the tests with real sockets and processes share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bucketeer_async.gateway import LocalGateway


@pytest.fixture
async def gateway() -> AsyncIterator[LocalGateway]:
    async with LocalGateway() as gateway:
        yield gateway
