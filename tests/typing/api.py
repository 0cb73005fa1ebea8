"""What type checkers must say about the public surface. Read by them only, never run."""

from typing import assert_type

import httpx
import httpx2

from bucketeer_async import (
    ApiClient,
    ApiId,
    DrainReport,
    Drop,
    Evaluation,
    GetEvaluationResponse,
    Outcome,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    RegisterEventsResponse,
    Statistics,
    User,
)


def heard(drop: Drop) -> None:
    assert_type(drop.reason, str)


async def use_processor() -> None:
    user = User("user", {"plan": "pro"})
    evaluation = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
    api_client = ApiClient(endpoint="localhost", api_key="key")
    async with Processor(api_client, ProcessorConfig(on_drop=heard, overflow="wait", drain_timeout=None)) as processor:
        assert_type(processor, Processor)
        assert_type(await processor.push_evaluation_event(user, evaluation), Receipt)
        assert_type(processor.push_goal_event_nowait(user, "goal", 1), Receipt)
        receipt = await processor.push_latency_metrics_event(0.1, ApiId.GET_EVALUATION)
        assert_type(receipt.outcome, Outcome | None)
        assert_type(await receipt.settled(), Outcome)
        assert_type(await processor.flush(), bool)
        assert_type(processor.statistics(), Statistics)
    assert_type(await processor.aclose(1.0), DrainReport)
    ProcessorConfig(overflow="block")  # type: ignore[arg-type]
    User(5)  # type: ignore[arg-type]


async def use_api_client() -> None:
    async with ApiClient(endpoint="localhost", api_key="key", http=httpx.AsyncClient()) as api_client:
        assert_type(await api_client.register_events([b"{}"]), RegisterEventsResponse)
        assert_type(await api_client.get_evaluation(User("user"), "flag", tag="tag"), GetEvaluationResponse)
        assert_type(await api_client.ping(), int)
    ApiClient(endpoint="localhost", api_key="key", http=httpx2.AsyncClient())
    ApiClient(endpoint="localhost", api_key="key", http=object())  # type: ignore[arg-type]
