"""Strategies: how a rule, or the default of a flag, chooses a variation for a user: a fixed one, or by percentages.

The hash that gives a user a bucket is left to `_murmur.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._murmur import new_hash

_KINDS: Final = ("FIXED", "ROLLOUT")
_TOTAL_WEIGHT: Final = 100_000.0  # the weight of all users: thousandths of a percent

#: Takes a user's id and returns the id of the chosen variation; raises `EvaluationError` if none is chosen.
Strategy = Callable[[str], str]


class UserBuckets:
    """The buckets of a flag's users; a user has the same buckets in all rollouts of the flag.

    Args:
        feature_id: Id of the flag.
        seed: Sampling seed of the flag.
    """

    def __init__(self, feature_id: str, seed: str) -> None:
        self.feature_id = feature_id
        self._users = new_hash(f"{feature_id}-")
        self._audience = new_hash(f"traffic-{feature_id}-")
        self._end = f"-{seed}"

    def variation_bucket(self, user_id: str) -> float:
        """Return the bucket that is compared with the weights of the variations, from 0 to 1."""
        return self._users.bucket(user_id + self._end)

    def audience_bucket(self, user_id: str) -> float:
        """Return the bucket that is compared with the percentage of the audience, from 0 to 1."""
        return self._audience.bucket(user_id + self._end)


def compile_strategy(fields: Fields | None, buckets: UserBuckets) -> Strategy:
    """Compile the parsed JSON of ``bucketeer.feature.Strategy``.

    An incomplete or unknown strategy raises an `EvaluationError` when it is used, and not before.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, buckets.feature_id, "the rule has no strategy")
    match _fields.enum_name(fields, "type", _KINDS):
        case "FIXED":
            return _fixed(_fields.message(fields, "fixedStrategy"), buckets.feature_id)
        case "ROLLOUT":
            return _rollout(_fields.message(fields, "rolloutStrategy"), buckets)
    return _failing(EvaluationCause.UNSUPPORTED_STRATEGY, buckets.feature_id, str(fields.get("type")))


def _failing(cause: EvaluationCause, feature_id: str, detail: str) -> Strategy:
    def fail(_user_id: str) -> str:
        raise EvaluationError(cause, feature_id, detail)

    return fail


def _fixed(fields: Fields | None, feature_id: str) -> Strategy:
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, feature_id, "the FIXED strategy has no fixedStrategy")
    variation = _fields.text(fields, "variation")
    return lambda _user_id: variation


def _rollout(fields: Fields | None, buckets: UserBuckets) -> Strategy:
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, buckets.feature_id, "the ROLLOUT strategy has no rolloutStrategy")
    split = _split(_upper_bounds(fields), buckets)
    audience = _fields.message(fields, "audience")
    percentage = _fields.integer(audience, "percentage") if audience is not None else 0
    if audience is None or not 0 < percentage < 100:  # as on the server, 0 means all users
        return split
    share, outside = percentage / 100.0, _fields.text(audience, "defaultVariation")

    def choose(user_id: str) -> str:
        if buckets.audience_bucket(user_id) < share:
            return split(user_id)
        if not outside:
            raise EvaluationError(
                EvaluationCause.VARIATION_NOT_FOUND, buckets.feature_id, "the user is outside the audience"
            )
        return outside

    return choose


def _upper_bounds(fields: Fields) -> list[tuple[float, str]]:
    """Return the upper bound of each variation's buckets, with the variation's id."""
    bounds, bound = [], 0.0
    for entry in _fields.messages(fields, "variations"):
        bound += _fields.integer(entry, "weight") / _TOTAL_WEIGHT
        bounds.append((bound, _fields.text(entry, "variation")))
    return bounds


def _split(bounds: Sequence[tuple[float, str]], buckets: UserBuckets) -> Strategy:
    def choose(user_id: str) -> str:
        bucket = buckets.variation_bucket(user_id)
        for bound, variation in bounds:
            if bucket < bound:
                return variation
        raise EvaluationError(
            EvaluationCause.VARIATION_NOT_FOUND, buckets.feature_id, "the user is outside all shares of the rollout"
        )

    return choose
