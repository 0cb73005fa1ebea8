"""Measures posts of the same size by httpx alone: what no SDK over httpx can go below."""

from __future__ import annotations

import httpx

from tests.benchmarks.measuring import Rounds, cpu_us, main, prepared_event


async def posts(url: str, posts: str, events: str) -> Rounds:
    """Measure so many posts of so many events."""
    body = b'{"events":[' + b",".join([prepared_event()] * int(events)) + b'],"sdkVersion":"1.0.0","sourceId":100}'
    headers = {"authorization": "key", "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10.0, trust_env=False) as http:

        async def post() -> None:
            for _ in range(int(posts)):
                response = await http.post("/register_events", content=body)
                assert response.json() == {"errors": {}}

        await post()  # makes the connection
        while True:
            yield {"post": await cpu_us(int(posts), post)}


if __name__ == "__main__":
    main({"posts": posts})
