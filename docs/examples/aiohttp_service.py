"""An aiohttp service that records an evaluation and a goal with every checkout.

Run it:  BUCKETEER_API_ENDPOINT=... BUCKETEER_API_KEY=... python -m aiohttp.web aiohttp_service:create_app
"""

import os
from collections.abc import AsyncIterator

from aiohttp import web

from bucketeer_async import ApiClient, Evaluation, Processor, ProcessorConfig, Reason, ReasonType, User

PROCESSOR = web.AppKey("processor", Processor)


async def events(app: web.Application) -> AsyncIterator[None]:
    """Start the processor with the application; drain it when the application stops."""
    endpoint, api_key = os.environ["BUCKETEER_API_ENDPOINT"], os.environ["BUCKETEER_API_KEY"]
    config = ProcessorConfig(tag=os.environ.get("BUCKETEER_TAG", "shop"))
    async with ApiClient(endpoint=endpoint, api_key=api_key) as api_client, Processor(api_client, config) as processor:
        app[PROCESSOR] = processor
        yield


async def checkout(request: web.Request) -> web.Response:
    """Sell something, and tell the experiment about it."""
    processor = request.app[PROCESSOR]
    user = User(request.match_info["user_id"], {"plan": "pro"})
    shown = Evaluation(feature_id="new-checkout", variation_id="on", reason=Reason(ReasonType.DEFAULT))
    evaluation = await processor.push_evaluation_event(user, shown)
    goal = await processor.push_goal_event(user, "purchase", 49.9)
    return web.json_response({"recorded": evaluation.accepted and goal.accepted})


async def stats(request: web.Request) -> web.Response:
    """Say what has become of the events so far."""
    total = request.app[PROCESSOR].statistics().total
    waiting = total.queued + total.in_flight
    return web.json_response({"accepted": total.accepted, "delivered": total.delivered, "waiting": waiting})


def create_app(_arguments: list[str] | None = None) -> web.Application:
    """Put the service together."""
    app = web.Application()
    app.cleanup_ctx.append(events)
    app.router.add_post("/checkout/{user_id}", checkout)
    app.router.add_get("/stats", stats)
    return app
