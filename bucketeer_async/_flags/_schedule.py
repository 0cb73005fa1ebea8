"""When the next poll is due."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from bucketeer_async._errors import ApiError
from bucketeer_async._options import LocalEvaluation
from bucketeer_async._retry import CONFIGURATION_PAUSE, Action, Decision, PauseKind, backoff, decide

_JITTER: Final = 0.1  # share of a pause
_BUG: Final = Decision(action=Action.PAUSE)


def pause(errors: Sequence[Exception], failures: int, options: LocalEvaluation, rng: random.Random) -> float:
    """Return the seconds until the next poll.

    Args:
        errors: What went wrong in the last one.
        failures: How many polls in a row went wrong.
        options: The interval and the backoff.
        rng: Source of the jitter.
    """
    if not errors:
        return options.polling_interval * rng.uniform(1 - _JITTER, 1 + _JITTER)
    return max(_pause_after(error, failures, options, rng) for error in errors)


def _pause_after(error: Exception, failures: int, options: LocalEvaluation, rng: random.Random) -> float:
    decision = decide(error) if isinstance(error, ApiError) else _BUG
    asked = (decision.retry_after or 0.0) * (1 + rng.uniform(0, 2 * _JITTER))
    if decision.action is not Action.PAUSE:  # the answer will not be another one soon
        return max(asked, options.polling_interval * rng.uniform(1 - _JITTER, 1 + _JITTER))
    if decision.pause_kind is PauseKind.CONFIGURATION:
        return max(asked, CONFIGURATION_PAUSE * rng.uniform(1, 1 + _JITTER))
    return max(asked, backoff(options.retry, failures, rng))
