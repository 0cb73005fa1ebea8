"""A FastAPI service that evaluates a flag and tracks a goal with every checkout.

Run it:  BUCKETEER_API_ENDPOINT=... BUCKETEER_API_KEY=... BUCKETEER_TAG=... uvicorn fastapi_service:app
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response

from bucketeer_async import Client, ClientStatus, User

logger = logging.getLogger("shop")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the client with the application; deliver all events when the application stops."""

    def note(status: ClientStatus) -> None:
        app.state.ready = app.state.ready or status.ok  # once ready, always ready: see /ready
        logger.log(logging.WARNING if status.reason else logging.INFO, "flags: %s %s", status.state, status.reason)

    app.state.ready = False
    async with Client.from_env() as client:
        client.on_status(note)
        with contextlib.suppress(TimeoutError):  # serve defaults rather than nothing
            async with asyncio.timeout(5):
                await client.wait_ready()
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/checkout/{user_id}")
async def checkout(user_id: str, request: Request) -> dict[str, bool | str]:
    """Choose the old or the new checkout by the flag, and track the purchase as a goal."""
    client: Client = request.app.state.client
    customer = client.for_user(User(user_id, {"plan": "pro"}))
    new = await customer.bool("new-checkout", default=False)
    goal = await customer.track("purchase", value=49.9)
    return {"checkout": "new" if new else "old", "recorded": goal.accepted}


@app.get("/ready")
async def ready(request: Request, response: Response) -> dict[str, bool]:
    """Return whether there have been flags; an outage of the gateway takes no instance out of the load balancer."""
    response.status_code = 200 if request.app.state.ready else 503
    return {"ready": request.app.state.ready}


@app.get("/flags/{user_id}")
async def all_flags(user_id: str, request: Request) -> dict[str, dict[str, str]]:
    """Return all flags of a user, for the front end to begin with; without evaluation events."""
    client: Client = request.app.state.client
    return (await client.evaluate_all(User(user_id, {"plan": "pro"}))).to_dict()


@app.get("/stats")
async def stats(request: Request) -> dict[str, int]:
    """Return how many events were accepted, were delivered, and still wait."""
    total = request.app.state.client.statistics().total
    return {"accepted": total.accepted, "delivered": total.delivered, "waiting": total.queued + total.in_flight}
