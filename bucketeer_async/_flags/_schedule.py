"""The pause before the next poll, by the outcome of the last one. Polling itself is left to `_poller.py`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from bucketeer_async._errors import ApiError
from bucketeer_async._options import LocalEvaluation
from bucketeer_async._retry import CONFIGURATION_PAUSE, Action, Decision, PauseKind, backoff, decide

_JITTER: Final = 0.1  # share of a pause


def pause(errors: Sequence[Exception], failures: int, options: LocalEvaluation, rng: random.Random) -> float:
    """Return the seconds until the next poll.

    Args:
        errors: The errors of the last poll.
        failures: Polls in a row that failed.
        options: The interval and the backoff.
        rng: Source of the jitter.
    """
    if not errors:
        return options.polling_interval * rng.uniform(1 - _JITTER, 1 + _JITTER)
    return max(_pause_after(error, failures, options, rng) for error in errors)


def _pause_after(error: Exception, failures: int, options: LocalEvaluation, rng: random.Random) -> float:
    decision = decide(error) if isinstance(error, ApiError) else Decision(action=Action.PAUSE)
    requested = (decision.retry_after or 0.0) * (1 + rng.uniform(0, 2 * _JITTER))
    if decision.action is not Action.PAUSE:  # the response will stay the same for now
        return max(requested, options.polling_interval * rng.uniform(1 - _JITTER, 1 + _JITTER))
    if decision.pause_kind is PauseKind.CONFIGURATION:
        return max(requested, CONFIGURATION_PAUSE * rng.uniform(1, 1 + _JITTER))
    return max(requested, backoff(options.retry, failures, rng))
