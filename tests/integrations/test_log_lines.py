"""The log lines at INFO: four in the life of a client or processor, and none per request."""

from __future__ import annotations

import logging
import re

import pytest

from bucketeer_async import (
    ApiClient,
    Client,
    LocalEvaluation,
    Processor,
    ProcessorConfig,
    RetryPolicy,
    User,
)
from bucketeer_async.gateway import Fault, LocalGateway, flag

USER = User("user-1")
CLOSED = (
    r"the %s is closed; the drain took \d\.\d s: %d events were delivered, 0 rejected, 0 expired, "
    r"0 not delivered, 0 not confirmed, 0 spooled"
)


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def assert_lines(caplog: pytest.LogCaptureFixture, *patterns: str) -> None:
    """Assert that these are all lines at INFO and above, but for the local gateway's server and asyncio's debug mode."""
    records = [record for record in caplog.records if not record.name.startswith(("uvicorn", "asyncio"))]
    lines = [f"{record.name} {record.levelname}: {record.getMessage()}" for record in records]
    expected = [f"bucketeer_async {pattern}" for pattern in patterns]

    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


async def test_a_client_tells_of_its_start_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalGateway(flags=[flag("flag", tags=["shop"])]) as gateway:
        async with Client(endpoint=gateway.url, api_key="client-key", tag="shop") as client:
            await client.wait_ready()
            for _ in range(10):
                assert await client.bool_variation(USER, "flag", default=False)

        assert_lines(
            caplog,
            f"INFO: the client has started: {gateway.url}, tag 'shop'; flags are evaluated by the gateway",
            "INFO: " + CLOSED % ("client", 30),  # with two metrics events for each evaluation
        )


async def test_a_client_with_local_evaluation_tells_when_its_flags_are_there(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalGateway(flags=[flag("flag", tags=["shop"])]) as gateway:
        async with Client(
            endpoint=gateway.url, api_key="server-key", tag="shop", local_evaluation=LocalEvaluation()
        ) as client:
            await client.wait_ready()
            assert await client.bool_variation(USER, "flag", default=False)
            await client.flush()

        assert_lines(
            caplog,
            f"INFO: the client has started: {gateway.url}, tag 'shop'; flags are evaluated locally",
            "INFO: flags can be evaluated: 1 flags and 0 segments, polled",
            "INFO: " + CLOSED % ("client", 0),
        )


async def test_a_disabled_client_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Client.disabled():
        pass

    assert_lines(caplog, "INFO: the client has started; it is disabled: all flags .*")


async def test_a_processor_tells_of_an_outage_and_its_end(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.state.fail(Fault(status=503, requests=3))
    config = ProcessorConfig(tag="shop", retry=RetryPolicy(initial=0.01, maximum=0.01))
    async with ApiClient(endpoint=gateway.url, api_key="client-key") as api, Processor(api, config) as processor:
        for _ in range(20):
            await processor.push_goal_event(USER, "goal")
        assert await processor.flush()

    assert_lines(
        caplog,
        f"INFO: the processor has started: {gateway.url}, tag 'shop'",
        r"WARNING: events cannot be delivered \(status 503\): .*",
        r"INFO: events are delivered again after \d+\.\d s; 20 events are waiting",
        "INFO: " + CLOSED % ("processor", 0),
    )


async def test_what_a_drain_leaves_is_a_warning(gateway: LocalGateway, caplog: pytest.LogCaptureFixture) -> None:
    async with ApiClient(endpoint=gateway.url, api_key="client-key") as api:
        processor = Processor(api)
        await processor.start()
        await processor.push_goal_event(USER, "goal")
        await processor.aclose(0.0)

    assert_lines(
        caplog,
        f"INFO: the processor has started: {gateway.url}, tag ''",
        r"WARNING: the processor is closed; the drain took 0\.\d s: .* 1 not delivered, .*",
    )


async def test_a_processor_that_never_started_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    processor = Processor(ApiClient(endpoint="gateway.test", api_key="key"))
    await processor.aclose()

    assert_lines(caplog)
