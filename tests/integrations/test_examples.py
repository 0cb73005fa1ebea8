"""The programs of docs/examples, in the servers that they are written for."""

from __future__ import annotations

import json
import re
import runpy
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketeer_async import EventKind
from bucketeer_async.gateway import LocalGateway, flag
from tests.faults.matrix import FULL
from tests.integrations.children import EXAMPLES, NOISE, python

FRAMEWORKS = ["fastapi", "aiohttp"]


SHOP = {"BUCKETEER_API_KEY": "client-key", "BUCKETEER_TAG": "shop"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_service_does_what_the_flag_says_and_records_it(
    gateway: LocalGateway, framework: str, tmp_path: Path
) -> None:
    gateway.state.set_flag(flag("new-checkout", tags=["shop"], targets={"off": ["user-7"]}))
    figures = tmp_path / "figures.json"
    program = str(EXAMPLES / "demo_service.py")
    settings = {"BUCKETEER_API_ENDPOINT": gateway.url, **SHOP}
    async with python(program, framework, str(figures), environment=settings) as child:
        url = await child.has_written(r"(http://[\d.:]+)")
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            answers = [(await client.post(f"/checkout/{user}")).json() for user in ("user-1", "user-7")]
            statistics = (await client.get("/stats")).json()
            flags = (await client.get("/flags/user-7")).json()
            ready = await client.get("/ready")
        await child.end(signal.SIGTERM)

    assert flags == {"new-checkout": {"variation_id": "off", "value": "false", "reason": "TARGET"}}
    assert answers == [{"checkout": "new", "recorded": True}, {"checkout": "old", "recorded": True}]
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert statistics == {"accepted": 8, "delivered": 0, "waiting": 8}  # each: evaluation, latency, size, goal
    assert json.loads(figures.read_text())["statistics"]["total"]["delivered"] == 10  # and two metrics of all flags
    shown = [each.event for each in gateway.events if each.kind is EventKind.EVALUATION]
    bought = [each.event for each in gateway.events if each.kind is EventKind.GOAL]
    assert [(each["tag"], each["featureId"], each["variationId"]) for each in shown] == [
        ("shop", "new-checkout", "on"),
        ("shop", "new-checkout", "off"),
    ]
    assert {(each["tag"], each["goalId"], each["value"]) for each in bought} == {("shop", "purchase", 49.9)}
    users = [{"id": user, "data": {"plan": "pro"}} for user in ("user-1", "user-7")]
    assert [each["user"] for each in shown] == [each["user"] for each in bought] == users
    assert not NOISE.search(child.output), child.output


@pytest.fixture
def hasty_examples(tmp_path: Path) -> Path:
    """The examples, which wait for flags as long as they do, or for a tenth of that."""
    if FULL:
        return EXAMPLES
    for name in ("demo_service.py", "fastapi_service.py", "aiohttp_service.py"):
        program = (EXAMPLES / name).read_text()
        (tmp_path / name).write_text(program.replace("asyncio.timeout(5)", "asyncio.timeout(0.5)"))
    return tmp_path


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_service_starts_with_defaults_when_flags_are_late(
    hasty_examples: Path, framework: str, tmp_path: Path
) -> None:
    settings = {"BUCKETEER_API_ENDPOINT": "http://127.0.0.1:1", "BUCKETEER_LOCAL_EVALUATION": "yes", **SHOP}
    program = str(hasty_examples / "demo_service.py")
    async with python(program, framework, str(tmp_path / "figures.json"), environment=settings) as child:
        url = await child.has_written(r"(http://[\d.:]+)")
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            answer = (await client.post("/checkout/user-1")).json()
            ready = await client.get("/ready")

    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    assert answer == {"checkout": "old", "recorded": True}


@pytest.mark.parametrize(
    ("framework", "evaluation"),
    [("fastapi", "local"), ("aiohttp", "gateway"), *([("aiohttp", "local")] if FULL else [])],
)
async def test_the_demo_agrees_with_the_gateway_and_shows_the_switch(framework: str, evaluation: str) -> None:
    program = str(EXAMPLES / "demo.py")
    options = ("--requests", "100", "--framework", framework, "--evaluation", evaluation)
    async with python(program, *options) as child:
        status = await child.ended()

    assert status == 0, child.output
    assert child.output.splitlines()[-1] == "all agree to the event"
    assert re.search(r"^from then on +0 +[1-9]\d+$", child.output, re.MULTILINE), child.output
    assert not NOISE.search(child.output), child.output


DEMO = runpy.run_path(str(EXAMPLES / "demo.py"))
SEEN = {("before", "old"): 4, ("until", "old"): 1, ("until", "new"): 1, ("after", "new"): 4}


def counts(number: int) -> dict[str, Any]:
    return {"pushed": number, "delivered": number, "rejected": 0, "dropped_by": {}, "refused_by": {}}


def reported(
    seen: dict[tuple[str, str], int] = SEEN,
    *,
    goals: tuple[int, int] = (10, 10),
    served: tuple[int, int] = (5, 5),
    arrived_at: float | None = 1.2,
) -> Any:
    """What the demo makes of these figures; of goals, ours and the gateway's."""
    statistics = {
        "goal": counts(goals[0]),
        "evaluation": counts(10),
        "metrics": counts(0),
        "posts": 1,
        "posted_events": 20,
    }
    unique = {"goal": goals[1], "evaluation": 10, "metrics": 0}
    state = {
        "counts": {kind: {"accepted": count, "unique": count} for kind, count in unique.items()},
        "served": {"new-checkout": dict(zip(("off", "on"), served, strict=True))},
    }
    traffic = DEMO["Traffic"](Counter(seen), switched_at=1.0, arrived_at=arrived_at, seconds=1.0)
    return DEMO["report"]({"statistics": statistics, "worst_stall": 0.001, "drain": 0.01}, state, traffic)


def test_the_demo_is_content_if_all_agree() -> None:
    assert reported() == 0


@pytest.mark.parametrize(
    "difference",
    [
        {"goals": (10, 9)},
        {"goals": (9, 10)},
        {"goals": (9, 9)},
        {"served": (4, 6)},
        {"seen": SEEN | {("after", "old"): 1}, "served": (6, 5), "goals": (11, 11)},
        {"arrived_at": None},
    ],
    ids=[
        "one lost on the way",
        "one too many",
        "one never pushed",
        "another variation told",
        "old after new",
        "no new",
    ],
)
def test_the_demo_fails_unless_everything_is_accounted_for(difference: dict[str, Any]) -> None:
    assert reported(**difference) == 1
