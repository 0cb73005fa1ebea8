"""A FastAPI service that records an evaluation and a goal with every checkout.

Run it:  BUCKETEER_API_ENDPOINT=... BUCKETEER_API_KEY=... uvicorn fastapi_service:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from bucketeer_async import ApiClient, Evaluation, Processor, ProcessorConfig, Reason, ReasonType, User


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the processor with the application; drain it when the application stops."""
    endpoint, api_key = os.environ["BUCKETEER_API_ENDPOINT"], os.environ["BUCKETEER_API_KEY"]
    config = ProcessorConfig(tag=os.environ.get("BUCKETEER_TAG", "shop"))
    async with ApiClient(endpoint=endpoint, api_key=api_key) as api_client, Processor(api_client, config) as processor:
        app.state.processor = processor
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/checkout/{user_id}")
async def checkout(user_id: str, request: Request) -> dict[str, bool]:
    """Sell something, and tell the experiment about it."""
    processor: Processor = request.app.state.processor
    user = User(user_id, {"plan": "pro"})
    shown = Evaluation(feature_id="new-checkout", variation_id="on", reason=Reason(ReasonType.DEFAULT))
    evaluation = await processor.push_evaluation_event(user, shown)
    goal = await processor.push_goal_event(user, "purchase", 49.9)
    return {"recorded": evaluation.accepted and goal.accepted}


@app.get("/stats")
async def stats(request: Request) -> dict[str, int]:
    """Say what has become of the events so far."""
    total = request.app.state.processor.statistics().total
    return {"accepted": total.accepted, "delivered": total.delivered, "waiting": total.queued + total.in_flight}
