"""The decisions about failed requests, row by row, and the backoff; without an event loop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ApiError, ConnectionFailedError, DecodeError, RequestTimeoutError, RetryPolicy, StatusError
from bucketeer_async._retry import Action, Decision, PauseKind, backoff, decide

OUTAGE = Decision(action=Action.PAUSE)
UNCLEAR_OUTAGE = Decision(action=Action.PAUSE, maybe_stored=True)
MISCONFIGURED = Decision(action=Action.PAUSE, pause_kind=PauseKind.CONFIGURATION)
SPLIT = Decision(action=Action.SPLIT)
SPLIT_BYTES = Decision(action=Action.SPLIT_BYTES)


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (ConnectionFailedError("reset", stale=True), Decision(action=Action.RESEND, maybe_stored=True)),
        (ConnectionFailedError("refused", maybe_sent=False), OUTAGE),
        (ConnectionFailedError("reset"), UNCLEAR_OUTAGE),
        (RequestTimeoutError("slow"), UNCLEAR_OUTAGE),
        (DecodeError("HTML"), UNCLEAR_OUTAGE),
        (StatusError(413), SPLIT_BYTES),
        (StatusError(429, code=8, detail="grpc: received message larger than max (5 vs. 4)"), SPLIT_BYTES),
        (StatusError(400, code=3, detail="proto: syntax error"), SPLIT),
        (StatusError(400, code=3, detail="gateway: missing events"), SPLIT),
        (StatusError(400), OUTAGE),
        (StatusError(400, code=9), OUTAGE),
        *[(StatusError(status), MISCONFIGURED) for status in (301, 302, 304, 307, 308, 401, 403, 404, 405, 501)],
        *[(StatusError(status), OUTAGE) for status in (402, 418, 425, 429, 503)],
        *[(StatusError(status), UNCLEAR_OUTAGE) for status in (408, 499, 500, 502, 504, 520, 529)],
        (StatusError(429, retry_after=5.0), Decision(action=Action.PAUSE, retry_after=5.0)),
        (StatusError(429, code=8, detail="quota"), OUTAGE),
    ],
)
def test_decision(error: ApiError, decision: Decision) -> None:
    assert decide(error) == decision


@given(st.integers(1, 10_000), st.integers())
def test_backoff_is_bounded(tries: int, seed: int) -> None:
    policy = RetryPolicy(initial=0.5, maximum=30.0)

    assert 0 <= backoff(policy, tries, random.Random(seed)) <= min(30.0, 0.5 * 2 ** min(tries - 1, 100))
