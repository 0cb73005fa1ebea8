"""Replays recorded requests at the ASGI level, and compares the responses with those of the server's own code."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from bucketeer_async.gateway import GatewayKey, GatewayState, LocalGateway, create_app

RECORDED = json.loads(gzip.decompress(Path(__file__).with_name("vectors").joinpath("gateway.json.gz").read_bytes()))
KEYS = {
    key: GatewayKey(
        role=entry["role"],
        disabled=entry.get("disabled", False),
        environment_disabled=entry.get("environmentDisabled", False),
    )
    for key, entry in RECORDED["keys"].items()
}
NOW = re.compile(r"@now([+-][0-9]+)?@")

#: Groups of recorded cases for features that this gateway omits, with the reasons.
LEFT_OUT_GROUPS = {
    "track": "for tag managers; the key lands in access logs",
    "grpc-timeout": "no SDK sends the header",
}

#: Cases in which the value of a number depends on the Go version of the server: only its acceptance is compared.
OPEN_VALUES = {"long-numbers-0054", "long-numbers-0065"}

LEFT_OUT_HEADERS = {"x-http-method-override", "grpc-metadata-authorization"}


def is_left_out(case: dict[str, Any]) -> bool:
    headers = {name.lower(): value for name, value in case["headers"].items()}
    form_to_ping = case["path"].startswith("/ping") and "form" in str(headers.get("content-type", ""))
    return case["group"] in LEFT_OUT_GROUPS or bool(headers.keys() & LEFT_OUT_HEADERS) or form_to_ping


CASES = [case for case in RECORDED["cases"] if not is_left_out(case)]
GROUPS = sorted({case["group"] for case in CASES})


def substitute(text: str, now: int) -> str:
    return NOW.sub(lambda match: str(now + int(match[1] or 0)), text)


def body_of(case: dict[str, Any], now: int) -> bytes:
    body = case["body"]
    if body is None:
        return b""
    if isinstance(body, str):
        return substitute(body, now).encode()
    if "b64" in body:
        return base64.b64decode(body["b64"])
    parts = (part if isinstance(part, str) else part["repeat"] * part["times"] for part in body["parts"])
    return substitute("".join(parts), now).encode()


def headers_of(case: dict[str, Any], length: int) -> Iterator[tuple[bytes, bytes]]:
    for name, value in case["headers"].items():
        for each in value if isinstance(value, list) else [value]:
            yield name.lower().encode(), each.encode("latin-1")
    if not case.get("chunked"):
        yield b"content-length", str(length).encode()


async def exchange(
    app: Any, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send a request at the ASGI level, without an HTTP client that would normalize the request."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:])


async def ask(app: Any, case: dict[str, Any], now: int) -> tuple[int, dict[str, str], bytes]:
    body = body_of(case, now)
    return await exchange(app, case["method"], substitute(case["path"], now), list(headers_of(case, len(body))), body)


def numbers_as_doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: numbers_as_doubles(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers_as_doubles(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def times(value: Any, now: int) -> Any:
    return json.loads(substitute(json.dumps(value), now))


async def disagreements(case: dict[str, Any]) -> list[str]:
    now = int(time.time())
    state = GatewayState(keys=KEYS, now=lambda: float(now))
    return compare(case, now, state, *await ask(create_app(state), case, now))


def compare(
    case: dict[str, Any], now: int, state: GatewayState, status: int, headers: dict[str, str], body: bytes
) -> list[str]:
    """Return the differences between a response and the recorded one."""
    expect = case["expect"]
    parsed = json.loads(body) if headers.get("content-type", "").startswith("application/json") and body else {}
    got = {
        "status": status,
        "code": parsed.get("code"),
        "message": parsed.get("message"),
        "wwwAuthenticate": headers.get("www-authenticate"),
        "errors": parsed.get("errors"),
        "json": parsed,
        "accepted": [event.id for event in state.events],
        "details": "details" in parsed,
        "decoded": [
            {"id": event.id, "event": event.event | typed(event)} for event in state.events if "decoded" in expect
        ],
    }
    wrong = []
    for key, wanted in expect.items():
        if key == "decoded" and case["id"] in OPEN_VALUES:
            continue
        if key == "messageStarts":
            agrees = str(got["message"]).startswith(wanted)
        elif key == "decoded":
            agrees = numbers_as_doubles(strip_types(got[key])) == numbers_as_doubles(strip_types(times(wanted, now)))
        else:
            agrees = got[key] == times(wanted, now)
        if not agrees:
            wrong.append(f"{case['id']} {key}: wanted {wanted!r}, got {got.get(key, got['message'])!r}"[:400])
    if "accepted" not in expect and got["accepted"]:
        wrong.append(f"{case['id']} took events")
    return wrong


def typed(event: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{event.message.DESCRIPTOR.full_name}"}


def strip_types(value: Any) -> Any:
    """Return the body with type URLs reduced to type names: the part before the last slash may differ."""
    if isinstance(value, dict):
        return {key: each.rpartition("/")[2] if key == "@type" else strip_types(each) for key, each in value.items()}
    if isinstance(value, list):
        return [strip_types(each) for each in value]
    return value


@pytest.mark.parametrize("group", GROUPS)
async def test_group_agrees_with_the_server(group: str) -> None:
    wrong = [line for case in CASES if case["group"] == group for line in await disagreements(case)]

    assert not wrong, "\n".join(wrong)


async def over_a_socket(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: dict[str, Any], now: int
) -> tuple[int, dict[str, str], bytes]:
    """Send a recorded request unchanged, and read the response."""
    body = body_of(case, now)
    target = substitute(case["path"], now)
    lines = [f"{case['method']} {target} HTTP/1.1".encode(), b"host: localhost"]
    lines += [name + b": " + value for name, value in headers_of(case, len(body))]
    if case.get("chunked"):
        lines.append(b"transfer-encoding: chunked")
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    length = 0 if case["method"] == "HEAD" else int(headers.get("content-length", 0))
    return int(head[0].split()[1]), headers, await reader.readexactly(length)


async def test_recorded_requests_over_a_real_socket() -> None:
    wrong: list[str] = []
    async with LocalGateway(keys=KEYS) as gateway:
        for case in CASES:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            gateway.state.forget_events()
            now = int(time.time())
            gateway.state.now = partial(float, now)  # stands still, so that the response has the recorded time
            try:
                answer = await asyncio.wait_for(over_a_socket(reader, writer, case, now), 20)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                wrong.append(f"{case['id']} {error!r}")
            else:
                wrong += compare(case, now, gateway.state, *answer)
            writer.close()

    assert not wrong, "\n".join(wrong)


def test_nothing_else_is_left_out() -> None:
    left_out = [case for case in RECORDED["cases"] if is_left_out(case)]

    assert len(RECORDED["cases"]) == 1860
    assert Counter(case["group"] for case in left_out) == {"track": 26, "grpc-timeout": 16, "headers": 6, "ping": 3}
