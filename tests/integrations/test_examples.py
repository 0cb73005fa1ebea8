"""The programs of docs/examples, in the servers that they are written for."""

from __future__ import annotations

import json
import runpy
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketeer_async.gateway import LocalGateway
from tests.integrations.children import EXAMPLES, NOISE, python

FRAMEWORKS = ["fastapi", "aiohttp"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_service_records_what_it_says(gateway: LocalGateway, framework: str, tmp_path: Path) -> None:
    settings = {"BUCKETEER_API_ENDPOINT": gateway.url, "BUCKETEER_API_KEY": "client-key", "BUCKETEER_TAG": "demo"}
    figures = tmp_path / "figures.json"
    program = str(EXAMPLES / "demo_service.py")
    async with python(program, framework, str(figures), environment=settings) as child:
        url = await child.has_written(r"(http://[\d.:]+)")
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            answer = await client.post("/checkout/user-1")
            statistics = await client.get("/stats")
        await child.end(signal.SIGTERM)

    assert answer.json() == {"recorded": True}
    assert statistics.json() == {"accepted": 2, "delivered": 0, "waiting": 2}
    assert json.loads(figures.read_text())["statistics"]["total"]["delivered"] == 2
    shown, bought = sorted((each.event for each in gateway.events), key=lambda event: "goalId" in event)
    assert (shown["tag"], shown["featureId"], shown["variationId"]) == ("demo", "new-checkout", "on")
    assert (bought["tag"], bought["goalId"], bought["value"]) == ("demo", "purchase", pytest.approx(49.9))
    assert shown["user"] == bought["user"] == {"id": "user-1", "data": {"plan": "pro"}}
    assert not NOISE.search(child.output), child.output


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_demo_agrees_with_the_gateway(framework: str) -> None:
    program = str(EXAMPLES / "demo.py")
    async with python(program, "--requests", "100", "--framework", framework) as child:
        status = await child.ended()

    assert status == 0, child.output
    assert child.output.splitlines()[-1] == "both agree to the event"
    assert not NOISE.search(child.output), child.output


def counts(number: int) -> dict[str, Any]:
    return {"pushed": number, "delivered": number, "rejected": 0, "dropped_by": {}, "refused_by": {}}


def figures(goals: int) -> dict[str, Any]:
    statistics = {
        "goal": counts(goals),
        "evaluation": counts(10),
        "metrics": counts(0),
        "posts": 1,
        "posted_events": 20,
    }
    return {"statistics": statistics, "worst_stall": 0.001, "drain": 0.01}


def gateway_counts(goals: int) -> dict[str, dict[str, int]]:
    unique = {"goal": goals, "evaluation": 10, "metrics": 0}
    return {kind: {"accepted": count, "unique": count} for kind, count in unique.items()}


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [(10, 10, 0), (10, 9, 1), (9, 10, 1), (9, 9, 1)],
    ids=["the same", "one lost on the way", "one too many", "one never pushed"],
)
def test_the_demo_fails_unless_every_event_is_accounted_for(ours: int, theirs: int, status: int) -> None:
    report = runpy.run_path(str(EXAMPLES / "demo.py"))["report"]

    assert report(figures(ours), gateway_counts(theirs), 10, 1.0) == status
