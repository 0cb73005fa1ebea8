"""Suspicion: what is known of one record whose posts have failed. What follows from it is left to `_quarantine.py`."""

from __future__ import annotations

import math


class Suspicion:
    """What is known of one record whose post has failed.

    Attributes:
        first_failure: Number of the latest post when the record first failed, alone or in a batch.
        failures: Failed posts of the record alone.
        last_failure: Number of the latest post when the record last failed alone.
        retry_at: Monotonic seconds of the next try alone.
        refusals: Posts of the record alone that the gateway has refused as a bad request.
        first_refusal: Number of the latest post at the first of them.
        first_refused_at: Monotonic seconds of the first of them.
        opening: Opening of the circuit during which the record failed alone as a probe.
        last_tries: Failed posts of the record alone since closing began.
        requests: Answers that have asked to send the record again.
    """

    __slots__ = (
        "failures",
        "first_failure",
        "first_refusal",
        "first_refused_at",
        "last_failure",
        "last_tries",
        "opening",
        "refusals",
        "requests",
        "retry_at",
    )

    def __init__(self, first_failure: int) -> None:
        self.first_failure = first_failure
        self.failures = 0
        self.last_failure = 0
        self.retry_at = -math.inf
        self.refusals = 0
        self.first_refusal = 0
        self.first_refused_at = 0.0
        self.opening = -1
        self.last_tries = 0
        self.requests = 0
