"""The request of every push, through the real API client, compared with golden files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    ApiClient,
    ApiId,
    ConnectionFailedError,
    Evaluation,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    RequestTimeoutError,
    StatusError,
    User,
)

GOLDEN = Path(__file__).parents[1] / "wire"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
USER = User("user-42", {"plan": "pro", "country": "日本"})
EVALUATION = Evaluation(
    feature_id="new-checkout",
    feature_version=12,
    variation_id="0a9f6a3e",
    reason=Reason(ReasonType.RULE, "b8a1d1d2"),
    user_id="user-42",
    variation_name="on",
    variation_value="true",
)

#: golden file, push, arguments
PUSHES: list[tuple[str, str, tuple[Any, ...]]] = [
    ("evaluation", "push_evaluation_event", (USER, EVALUATION)),
    ("default_evaluation", "push_default_evaluation_event", (USER, "new-checkout")),
    (
        "default_evaluation_error",
        "push_default_evaluation_event",
        (USER, "new-checkout", ReasonType.ERROR_FLAG_NOT_FOUND),
    ),
    ("goal", "push_goal_event", (USER, "purchase", 49.9)),
    ("goal_without_value", "push_goal_event", (USER, "purchase")),
    ("get_evaluation_latency", "push_get_evaluation_latency_metrics_event", (0.037,)),
    ("get_evaluation_size", "push_get_evaluation_size_metrics_event", (18231,)),
    ("timeout_error_count", "push_timeout_error_count_metrics_event", ()),
    ("internal_error_count", "push_internal_error_count_metrics_event", ()),
    ("latency", "push_latency_metrics_event", (0.037, ApiId.GET_EVALUATION)),
    ("size", "push_size_metrics_event", (18231, ApiId.GET_FEATURE_FLAGS)),
    ("error_redirection", "push_error_metrics_event", (StatusError(302), ApiId.REGISTER_EVENTS)),
    ("error_timeout", "push_error_metrics_event", (RequestTimeoutError("slow"), ApiId.REGISTER_EVENTS)),
    ("error_network", "push_error_metrics_event", (ConnectionFailedError("refused"), ApiId.REGISTER_EVENTS)),
    ("error_internal_sdk", "push_error_metrics_event", (RuntimeError("cache: not found"), ApiId.SDK_GET_VARIATION)),
    (
        "error_unknown",
        "push_error_metrics_event",
        (StatusError(418, code=2, detail="gateway: short and stout"), ApiId.GET_EVALUATION),
    ),
]


async def posted(push: Callable[[Processor], Any], source_id: int) -> httpx.Request:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"errors": {}})

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http,
        ApiClient(
            endpoint="gateway.test", api_key="secret-key", source_id=source_id, sdk_version="1.2.3", http=http
        ) as api_client,
        Processor(api_client, ProcessorConfig(tag="backend", strict=True)) as processor,
    ):
        receipt = push(processor)
        if not hasattr(receipt, "accepted"):
            receipt = await receipt
        assert receipt.accepted
    (request,) = requests
    return request


def with_placeholders(body: bytes, began: int) -> Any:
    """Return the body, with ``@id@`` and ``@now@`` for the values that differ each time."""
    parsed = json.loads(body)
    for event in parsed["events"]:
        assert UUID4.fullmatch(event["id"])
        assert began <= int(event["event"]["timestamp"]) <= time.time()
        event["id"], event["event"]["timestamp"] = "@id@", "@now@"
    return parsed


@pytest.mark.parametrize("suffix", ["", "_nowait"])
@pytest.mark.parametrize(("golden", "push", "arguments"), PUSHES, ids=[golden for golden, _, _ in PUSHES])
async def test_a_push_posts_its_golden_file(golden: str, push: str, arguments: tuple[Any, ...], suffix: str) -> None:
    began = int(time.time())

    request = await posted(lambda processor: getattr(processor, push + suffix)(*arguments), 1000)

    assert with_placeholders(request.content, began) == json.loads((GOLDEN / f"push_{golden}.json").read_text())
    assert str(request.url) == "https://gateway.test/register_events"
    assert request.headers["authorization"] == "secret-key"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"


async def test_without_a_source_id_events_are_of_an_unknown_source() -> None:
    began = int(time.time())

    request = await posted(lambda processor: processor.push_evaluation_event_nowait(USER, EVALUATION), 0)

    golden = json.loads((GOLDEN / "push_evaluation_unknown_source.json").read_text())
    assert with_placeholders(request.content, began) == golden


def test_every_push_and_every_golden_file_is_in_the_table() -> None:
    pushes = {name for name in dir(Processor) if name.startswith("push_") and not name.endswith("_nowait")}

    assert {push for _, push, _ in PUSHES} == pushes
    assert {f"{push}_nowait" for push in pushes} == {name for name in dir(Processor) if name.endswith("_nowait")} - {
        "_push_nowait"
    }
    files = {path.stem.removeprefix("push_") for path in GOLDEN.glob("push_*.json")}
    assert files == {golden for golden, _, _ in PUSHES} | {"evaluation_unknown_source"}
