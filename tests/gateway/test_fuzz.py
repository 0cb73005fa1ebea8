"""Mutated requests: the gateway responds to each request with a status that the server uses."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from bucketeer_async.gateway import GatewayState, create_app
from tests.gateway.test_recorded import CASES, KEYS, body_of, exchange

COUNT = int(os.environ.get("BUCKETEER_FUZZ", "3000"))
FRAGMENTS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e999", b"\\u", b"\\ud800", b"\xff", b"-", b"0", b"e", b"."),
    *(b'"@type":', b"\x00", b'"value":"1s"', b"NaN", b"[[[[", b'"userAttributesUpdated":"true",', b"1" * 5000),
]


def mutated(body: bytes, chance: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(3):
            case 0:
                changed[at:at] = chance.choice(FRAGMENTS)
            case 1:
                del changed[at : at + chance.randint(1, 8)]
            case _:
                changed[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(changed)


def posts() -> list[tuple[str, bytes]]:
    now = int(time.time())
    bodies = [(case["path"], body_of(case, now)) for case in CASES if case["method"] == "POST"]
    return [(path, body) for path, body in bodies if 0 < len(body) < 5000]


@pytest.mark.parametrize("seed", range(3))
async def test_mutated_requests_are_answered(seed: int) -> None:
    chance, sources = random.Random(seed), posts()
    app = create_app(GatewayState(keys=KEYS, window=100))
    statuses: dict[Any, int] = {}
    for _ in range(COUNT // 3):
        path, body = chance.choice(sources)
        key = "server-key" if path in {"/get_feature_flags", "/get_segment_users"} else "client-key"

        status, _, answer = await exchange(app, "POST", path, [(b"authorization", key.encode())], mutated(body, chance))

        statuses[status] = statuses.get(status, 0) + 1
        if status == 500:
            assert answer == b'{"code":13,"message":"failed to marshal error message"}'

    assert statuses.keys() <= {200, 400, 403, 404, 429, 500, 501}
    assert statuses[200] > 0
    assert statuses[400] > statuses[200]
