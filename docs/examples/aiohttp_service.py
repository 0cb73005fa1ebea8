"""An aiohttp service that evaluates a flag and tracks a goal with every checkout.

Run it:  BUCKETEER_API_ENDPOINT=... BUCKETEER_API_KEY=... BUCKETEER_TAG=... python -m aiohttp.web aiohttp_service:create_app
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from aiohttp import web

from bucketeer_async import Client, ClientStatus, User

CLIENT = web.AppKey("client", Client)
READY = web.AppKey("ready", asyncio.Event)

logger = logging.getLogger("shop")


async def flags(app: web.Application) -> AsyncIterator[None]:
    """Start the client with the application; deliver all events when the application stops."""

    def note(status: ClientStatus) -> None:
        if status.ok:
            app[READY].set()  # once ready, always ready: see /ready
        logger.log(logging.WARNING if status.reason else logging.INFO, "flags: %s %s", status.state, status.reason)

    async with Client.from_env() as client:
        client.on_status(note)
        with contextlib.suppress(TimeoutError):  # serve defaults rather than nothing
            async with asyncio.timeout(5):
                await client.wait_ready()
        app[CLIENT] = client
        yield


async def checkout(request: web.Request) -> web.Response:
    """Choose the old or the new checkout by the flag, and track the purchase as a goal."""
    customer = request.app[CLIENT].for_user(User(request.match_info["user_id"], {"plan": "pro"}))
    new = await customer.bool("new-checkout", default=False)
    goal = await customer.track("purchase", value=49.9)
    return web.json_response({"checkout": "new" if new else "old", "recorded": goal.accepted})


async def ready(request: web.Request) -> web.Response:
    """Return whether there have been flags; an outage of the gateway takes no instance out of the load balancer."""
    is_ready = request.app[READY].is_set()
    return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)


async def all_flags(request: web.Request) -> web.Response:
    """Return all flags of a user, for the front end to begin with; without evaluation events."""
    user = User(request.match_info["user_id"], {"plan": "pro"})
    return web.json_response((await request.app[CLIENT].evaluate_all(user)).to_dict())


async def stats(request: web.Request) -> web.Response:
    """Return how many events were accepted, were delivered, and still wait."""
    total = request.app[CLIENT].statistics().total
    waiting = total.queued + total.in_flight
    return web.json_response({"accepted": total.accepted, "delivered": total.delivered, "waiting": waiting})


def create_app(_arguments: list[str] | None = None) -> web.Application:
    """Create the service."""
    app = web.Application()
    app[READY] = asyncio.Event()
    app.cleanup_ctx.append(flags)
    app.router.add_post("/checkout/{user_id}", checkout)
    app.router.add_get("/ready", ready)
    app.router.add_get("/flags/{user_id}", all_flags)
    app.router.add_get("/stats", stats)
    return app
