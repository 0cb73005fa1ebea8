"""Strategies: how a rule, or the default of a flag, chooses a variation for a user: a fixed one, or by percentages.

The hash that gives a user a bucket is left to `_murmur.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._murmur import new_hash

_KINDS: Final = ("FIXED", "ROLLOUT")
_TOTAL_WEIGHT: Final = 100_000.0  # the weight of all users: thousandths of a percent

#: Takes a user's id and returns the id of the chosen variation; raises `EvaluationError` if none is chosen.
Choice = Callable[[str], str]


class Buckets(Protocol):
    """The buckets of a flag's users."""

    @property
    def feature_id(self) -> str: ...
    def variation_bucket(self, user_id: str) -> float: ...
    def audience_bucket(self, user_id: str) -> float: ...


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


class Rollout(NamedTuple):
    """Shares of a flag's users, by percentages.

    Attributes:
        buckets: The buckets of the flag's users.
        bounds: Upper bound of each variation's buckets, with the variation's id, in order.
        audience: Upper bound of the buckets of the users in the audience; 1 if all users are in it.
        outside: Id of the variation for users outside the audience; "" for none.
    """

    buckets: Buckets
    bounds: Sequence[tuple[float, str]]
    audience: float = 1.0
    outside: str = ""

    def choice(self, buckets: Buckets) -> Choice:
        """Return the function that chooses a variation by these buckets."""
        split = _split(self.bounds, buckets)
        return split if self.audience == 1.0 else _within(self.audience, self.outside, split, buckets)


class Strategy(NamedTuple):
    """A compiled strategy.

    Attributes:
        choose: Chooses a variation for a user.
        rollout: What `choose` goes by; None unless it chooses by percentages.
    """

    choose: Choice
    rollout: Rollout | None = None


def compile_strategy(fields: Fields | None, buckets: Buckets) -> Strategy:
    """Compile the parsed JSON of ``bucketeer.feature.Strategy``.

    An incomplete or unknown strategy raises an `EvaluationError` when it is used, and not before.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    if fields is None:
        return Strategy(_failing(EvaluationCause.MALFORMED, buckets.feature_id, "the rule has no strategy"))
    match _fields.enum_name(fields, "type", _KINDS):
        case "FIXED":
            return Strategy(_fixed(_fields.message(fields, "fixedStrategy"), buckets.feature_id))
        case "ROLLOUT":
            return _rollout(_fields.message(fields, "rolloutStrategy"), buckets)
    return Strategy(_failing(EvaluationCause.UNSUPPORTED_STRATEGY, buckets.feature_id, str(fields.get("type"))))


def _failing(cause: EvaluationCause, feature_id: str, detail: str) -> Choice:
    def fail(_user_id: str) -> str:
        raise EvaluationError(cause, feature_id, detail)

    return fail


def _fixed(fields: Fields | None, feature_id: str) -> Choice:
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, feature_id, "the FIXED strategy has no fixedStrategy")
    variation = _fields.text(fields, "variation")
    return lambda _user_id: variation


def _rollout(fields: Fields | None, buckets: Buckets) -> Strategy:
    if fields is None:
        text = "the ROLLOUT strategy has no rolloutStrategy"
        return Strategy(_failing(EvaluationCause.MALFORMED, buckets.feature_id, text))
    rollout = Rollout(buckets, _upper_bounds(fields))
    audience = _fields.message(fields, "audience")
    percentage = _fields.integer(audience, "percentage") if audience is not None else 0
    if audience is not None and 0 < percentage < 100:  # as on the server, 0 means all users
        outside = _fields.text(audience, "defaultVariation")
        rollout = rollout._replace(audience=percentage / 100.0, outside=outside)
    return Strategy(rollout.choice(buckets), rollout)


def _upper_bounds(fields: Fields) -> list[tuple[float, str]]:
    """Return the upper bound of each variation's buckets, with the variation's id."""
    bounds, bound = [], 0.0
    for entry in _fields.messages(fields, "variations"):
        bound += _fields.integer(entry, "weight") / _TOTAL_WEIGHT
        bounds.append((bound, _fields.text(entry, "variation")))
    return bounds


def _split(bounds: Sequence[tuple[float, str]], buckets: Buckets) -> Choice:
    def choose(user_id: str) -> str:
        bucket = buckets.variation_bucket(user_id)
        for bound, variation in bounds:
            if bucket < bound:
                return variation
        raise EvaluationError(
            EvaluationCause.VARIATION_NOT_FOUND, buckets.feature_id, "the user is outside all shares of the rollout"
        )

    return choose


def _within(audience: float, outside: str, split: Choice, buckets: Buckets) -> Choice:
    def choose(user_id: str) -> str:
        if buckets.audience_bucket(user_id) < audience:
            return split(user_id)
        if not outside:
            raise EvaluationError(
                EvaluationCause.VARIATION_NOT_FOUND, buckets.feature_id, "the user is outside the audience"
            )
        return outside

    return choose
