"""Evaluations by a gateway that is slow, or that many ask at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from bucketeer_async import Client, User
from tests.benchmarks.processes import sink
from tests.clock import VirtualLoop
from tests.faults.matrix import FULL, spaced

Measured = Callable[[str], None]

in_virtual_time = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual"]
)

EVALUATION: Final[dict[str, Any]] = {
    "evaluation": {
        "id": "flag:1:user",
        "featureId": "flag",
        "featureVersion": 1,
        "userId": "user",
        "variationId": "on",
        "variationName": "on",
        "variationValue": "true",
        "reason": {"type": "DEFAULT"},
    }
}


def now() -> float:
    return asyncio.get_running_loop().time()


# F80


class SlowGateway:
    """A gateway that answers after 20 ms, and for 6 s after 2 s."""

    BEGIN, END = 1.0, 7.0

    def __init__(self) -> None:
        self.began = now()
        self.under_way = self.most_under_way = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/register_events":
            return httpx.Response(200, json={"errors": {}})
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(2.0 if self.BEGIN <= now() - self.began < self.END else 0.02)
        self.under_way -= 1
        return httpx.Response(200, json=EVALUATION)


@in_virtual_time
@pytest.mark.fault("F80")
async def test_evaluations_are_in_time_again_after_the_gateway_was_slow(measured: Measured) -> None:
    gateway = SlowGateway()
    in_time: Counter[str] = Counter()
    begun: Counter[str] = Counter()

    async def ask(client: Client, number: int) -> None:
        at = now() - gateway.began
        when = "before" if at < gateway.BEGIN else "within" if at < gateway.END + 1.0 else "after"
        begun[when] += 1
        try:
            async with asyncio.timeout(0.1):  # as a service does that would rather answer without the flag
                value = await client.bool_variation(User(f"user-{number}"), "flag", False)
        except TimeoutError:
            return
        in_time[when] += value

    async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as http:
        options: dict[str, Any] = {"endpoint": "http://127.0.0.1", "api_key": "client-key", "tag": "shop"}
        # So many connections carry 500 evaluations a second, about what one core does.
        async with Client(**options, http=http, max_connections=10) as client, asyncio.TaskGroup() as askers:
            for number in range(260 * 16):
                askers.create_task(ask(client, number))
                await asyncio.sleep(1 / 260)
        remote = client.statistics().remote_evaluation
    assert remote is not None

    assert begun["after"] >= 7 * 260
    assert in_time["before"] == begun["before"]
    assert in_time["within"] < begun["within"] / 2  # it was slow indeed
    assert in_time["after"] >= 0.95 * begun["after"]
    assert gateway.most_under_way == 10
    assert remote.given_up > 1_000
    measured(f"{spaced(in_time['after'])} of {spaced(begun['after'])} in time, {spaced(remote.given_up)} given up")


# F81


@pytest.mark.fault("F81")
async def test_many_evaluations_at_once_are_answered_and_cheap(tmp_path: Path, measured: Measured) -> None:
    canned = tmp_path / "evaluation.json"
    canned.write_text(json.dumps(EVALUATION))
    count = 3_000 if FULL else 300

    async def cpu(client: Client, at_once: int) -> float:
        """Evaluate; return the milliseconds of CPU of each evaluation."""
        numbers = iter(range(count))

        async def ask() -> None:
            for number in numbers:
                value = await client.bool_variation(User(f"user-{number}"), "flag", False)
                values.append(value)

        began = time.process_time()
        await asyncio.gather(*(ask() for _ in range(at_once)))
        return (time.process_time() - began) / count * 1e3

    values: list[bool] = []
    with sink("--delay", "0.02", "--canned", "/get_evaluation", str(canned)) as gateway:
        async with Client(endpoint=gateway.url, api_key="client-key", tag="shop", timeout=30.0) as client:
            await cpu(client, 100)  # connections are made
            few, many = await cpu(client, 10), await cpu(client, 100)

    assert values == [True] * (3 * count)
    measured(f"defaults 0 of {spaced(3 * count)}; CPU {few:.2f} ms at 10 at once, {many:.2f} ms at 100")
