"""The page "What leaves the process" names every header and field of what is really sent over a socket, and no others."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bucketeer_async import (
    ApiClient,
    ApiId,
    Client,
    ConnectionFailedError,
    LocalEvaluation,
    Processor,
    ProcessorConfig,
    RequestTimeoutError,
    StatusError,
    User,
)
from tests.events.test_pushes import PUSHES
from tests.flag_server import flags_response, segments_response

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "what-leaves.md"
NAMES = re.compile(r"`(/?\w+)`")
OPAQUE = {"data"}  # the attributes of a user, whose names are the application's
STATUSES = (302, 400, 404, 405, 408, 413, 418, 499, 500, 502, 503, 504)
ANSWERS: dict[str, Any] = {
    "/register_events": {},
    "/get_evaluation": {
        "evaluation": {
            "id": "e",
            "featureId": "flag",
            "featureVersion": 3,
            "userId": "user",
            "variationId": "v",
            "variationName": "on",
            "variationValue": "true",
            "reason": {"type": "RULE", "ruleId": "r"},
        }
    },
    "/get_evaluations": {"state": "FULL", "evaluations": {"evaluations": []}, "userEvaluationsId": "1"},
    "/get_feature_flags": flags_response([]),
    "/get_segment_users": segments_response(),
    "/ping": {"time": "1"},
}


def described() -> dict[str, set[str]]:
    """Return the first column of the page's tables, by request, or by message: those named above the table."""
    found: dict[str, set[str]] = {}
    names: list[str] = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            names = NAMES.findall(line) or ["headers" if "Headers" in line else ""]
        elif line.startswith("`"):
            names = [*filter(None, names), *NAMES.findall(line)]
        elif line.startswith("| `"):
            for name in names:
                found.setdefault(name, set()).add(line.split("`")[1])
    return found


class Recorder:
    """A server that notes the names of all headers, and of all fields by request and by message."""

    def __init__(self) -> None:
        self.fields: defaultdict[str, set[str]] = defaultdict(set)
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                path = first.split()[1]
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.fields["headers"] |= headers.keys()
                if body:
                    self.note(path, json.loads(body))
                answer = json.dumps(ANSWERS[path]).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: backend=1\r\n"
                    + f"content-length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def note(self, name: str, message: dict[str, Any]) -> None:
        self.fields[name] |= set(self.names(message))

    def names(self, message: dict[str, Any]) -> Iterator[str]:
        for name, value in message.items():
            if isinstance(value, dict) and "@type" in value:
                self.note(value["@type"].rpartition(".")[2], value)
            elif isinstance(value, dict) and name not in OPAQUE:
                yield from (f"{name}.{each}" for each in self.names(value))
                continue
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                yield from (f"{name}.{nested}" for each in value for nested in self.names(each))
            yield name


async def test_the_page_names_what_is_sent() -> None:
    recorder = Recorder()
    user = User("user-1", {"plan": "pro"})
    async with recorder.running():
        connecting: dict[str, Any] = {"endpoint": f"http://127.0.0.1:{recorder.port}", "api_key": "key"}
        async with ApiClient(**connecting, source_id=1000, allow_http=True) as api:
            async with Processor(api, ProcessorConfig(tag="shop", strict=True)) as processor:
                for _, push, arguments in PUSHES:
                    await getattr(processor, push)(*arguments)
                for error in (*map(StatusError, STATUSES), RequestTimeoutError("slow"), ConnectionFailedError("no")):
                    await processor.push_error_metrics_event(error, ApiId.GET_EVALUATION)
            await api.ping()
            await api.get_evaluation(user, "flag", tag="shop")
            await api.get_evaluations(
                user, tag="shop", user_evaluations_id="1", evaluated_at=1, user_attributes_updated=True
            )
            await api.get_feature_flags(tag="shop", feature_flags_id="1", requested_at=1)
            await api.get_segment_users(segment_ids=["s"], requested_at=1)
        for local in (None, LocalEvaluation()):
            async with Client(**connecting, tag="shop", local_evaluation=local, allow_http=True) as client:
                await client.wait_ready()
                await client.bool_variation(user, "flag", default=False)
                await client.track(user, "goal", value=1.0)

    page = described()
    assert dict(recorder.fields) == page
    assert {name for name in ANSWERS if f"### `{name}`" in PAGE.read_text()} == ANSWERS.keys()
