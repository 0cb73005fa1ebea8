"""Replays recorded polls and evaluations of environments with flags, as the server's own service answered them.

Each case has an environment, the time at which the server answered, and one or two requests.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bucketeer_async.gateway import GatewayState, create_app
from tests.gateway.test_recorded import exchange

CASES = json.loads(gzip.decompress(Path(__file__).with_name("vectors").joinpath("flags.json.gz").read_bytes()))["cases"]
KEYS = {"/get_feature_flags": b"server-key", "/get_segment_users": b"server-key"}


def by_id(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response with its lists sorted by id: the server's own order is random."""
    evaluations = response.get("evaluations") or {}
    for items, name in (
        (evaluations.get("evaluations"), "featureId"),
        (response.get("features"), "id"),
        (response.get("segmentUsers"), "segmentId"),
    ):
        if items:
            items.sort(key=lambda item, name=name: item[name])
    for ids in (evaluations.get("archivedFeatureIds"), response.get("archivedFeatureFlagIds")):
        if ids:
            ids.sort()
    return response


async def disagreement(case: dict[str, Any]) -> str:
    state = GatewayState(flags=case["flags"], segments=case["segments"], now=lambda: float(case["now"]))
    app = create_app(state)
    for recorded in case["exchanges"]:
        headers = [(b"authorization", KEYS.get(recorded["path"], b"client-key"))]
        body = json.dumps(recorded["body"]).encode()
        status, _, answer = await exchange(app, "POST", recorded["path"], headers, body)
        found = json.loads(answer)
        expected = recorded.get("json") or {"code": recorded["code"], "message": recorded["message"], "details": []}
        if status != recorded["status"] or by_id(found) != by_id(expected):
            return (
                f"{recorded['path']} {recorded['body']}: wanted {recorded['status']} {expected}, got {status} {found}"
            )
    return ""


async def test_polls_and_evaluations_agree_with_the_server() -> None:
    wrong = [text for case in CASES if (text := await disagreement(case))]

    assert not wrong, f"{len(wrong)} of {len(CASES)} differ; the first: {wrong[0]}"


def test_the_recorded_cases_have_responses_of_each_kind() -> None:
    kinds = Counter((each["path"], each["status"]) for case in CASES for each in case["exchanges"])

    assert {path for path, status in kinds if status == 200} == {
        "/get_evaluation",
        "/get_evaluations",
        "/get_feature_flags",
        "/get_segment_users",
    }
    assert {status for path, status in kinds if path == "/get_evaluation"} == {200, 404, 500}
    assert {status for path, status in kinds if path == "/get_evaluations"} == {200, 400, 500}
