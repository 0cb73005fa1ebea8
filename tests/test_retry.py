"""The decisions about failed requests, row by row, the backoff, and second tries; without an event loop."""

from __future__ import annotations

import random
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ApiError, ConnectionFailedError, DecodeError, RequestTimeoutError, RetryPolicy, StatusError
from bucketeer_async._retry import Action, Decision, PauseKind, SecondTries, backoff, decide

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
        *[(StatusError(status), UNCLEAR_OUTAGE) for status in (201, 202, 204, 408, 499, 500, 502, 504, 520, 529)],
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


# Second tries


def of_tls() -> ConnectionFailedError:
    error = ConnectionFailedError("ConnectError: certificate verify failed", maybe_sent=False)
    error.__cause__ = OSError("the HTTP library's")
    error.__cause__.__context__ = ssl.SSLCertVerificationError("certificate verify failed")
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *[(StatusError(status), True) for status in (429, 499, 500, 502, 503, 504, 599)],
        *[(StatusError(status), False) for status in (204, 302, 400, 401, 403, 404, 405, 408, 413, 501)],
        (ConnectionFailedError("refused", maybe_sent=False), True),
        (ConnectionFailedError("reset"), True),
        (of_tls(), False),
        (RequestTimeoutError("slow"), False),
        (DecodeError("HTML"), False),
        (StatusError(503, retry_after=1.9), True),
        (StatusError(503, retry_after=2.0), False),
        (StatusError(429, retry_after=300.0), False),
    ],
)
def test_which_failure_is_worth_a_second_try(error: ApiError, again: bool) -> None:
    second_tries = SecondTries(random.Random(0))
    second_tries.note_failure(error)

    assert (second_tries.pause_after(error, 2.0) is not None) == again


@given(st.floats(0.001, 60.0), st.none() | st.floats(0.0, 60.0), st.integers())
def test_the_pause_waits_for_the_gateway_and_leaves_time_for_the_second_try(
    seconds: float, retry_after: float | None, seed: int
) -> None:
    pause = SecondTries(random.Random(seed)).pause_after(StatusError(503, retry_after=retry_after), seconds)

    if pause is None:
        assert retry_after is not None
        assert retry_after >= seconds
    else:
        asked = retry_after or 0.0
        assert asked <= pause <= asked + min(0.2, (seconds - asked) / 4)


def test_a_gateway_that_fails_everything_gets_few_second_tries() -> None:
    second_tries = SecondTries(random.Random(0))
    error = StatusError(503)
    begun = 0
    for _ in range(1_000):
        second_tries.note_failure(error)
        if second_tries.pause_after(error, 5.0) is not None:
            begun += 1
            second_tries.note_failure(error)

    assert begun == 2  # 10 tokens: 9, 8; 7, 6; and 5 are too few


def test_answers_allow_second_tries_again() -> None:
    second_tries = SecondTries(random.Random(0))
    error = StatusError(503)
    for _ in range(1_000):
        second_tries.note_failure(error)
    for answers, again in ((60, False), (1, True)):  # 0 tokens, and a tenth for each answer; the failure takes one
        for _ in range(answers):
            second_tries.note_answer()
        second_tries.note_failure(error)
        assert (second_tries.pause_after(error, 5.0) is not None) == again
        second_tries.note_answer()
        for _ in range(9):
            second_tries.note_answer()


def test_failures_that_another_try_cannot_mend_take_no_token() -> None:
    second_tries = SecondTries(random.Random(0))
    for _ in range(1_000):
        second_tries.note_failure(StatusError(404))

    assert second_tries.pause_after(StatusError(503), 5.0) is not None
