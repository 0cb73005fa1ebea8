"""Strategies: how the one that applies chooses a variation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._murmur import Hash

_KINDS: Final = ("FIXED", "ROLLOUT")
_WHOLE: Final = 100_000.0  # the weight of everybody

#: Returns the id of a user's variation; raises `EvaluationError` if there is none.
Strategy = Callable[[str], str]


class Salt:
    """Where a flag's rollouts place a user: at the same point in all of them.

    Args:
        feature_id: The flag.
        seed: Its sampling seed.
    """

    def __init__(self, feature_id: str, seed: str) -> None:
        self.feature_id = feature_id
        self._users = Hash(f"{feature_id}-")
        self._traffic = Hash(f"traffic-{feature_id}-")
        self._end = f"-{seed}"

    def bucket(self, user_id: str) -> float:
        """Return where the weights see the user, from 0 to 1."""
        return self._users.bucket(user_id + self._end)

    def traffic(self, user_id: str) -> float:
        """Return where the audience sees the user, from 0 to 1."""
        return self._traffic.bucket(user_id + self._end)


def compile_strategy(fields: Fields | None, salt: Salt) -> Strategy:
    """Return what a strategy chooses; one that cannot be used raises when it is asked, and not before.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, salt.feature_id, "a rule without a strategy")
    match _fields.member(fields, "type", _KINDS):
        case "FIXED":
            return _fixed(_fields.message(fields, "fixedStrategy"), salt.feature_id)
        case "ROLLOUT":
            return _rollout(_fields.message(fields, "rolloutStrategy"), salt)
    return _failing(EvaluationCause.UNSUPPORTED_STRATEGY, salt.feature_id, str(fields.get("type")))


def _failing(cause: EvaluationCause, feature_id: str, detail: str) -> Strategy:
    def fail(_user_id: str) -> str:
        raise EvaluationError(cause, feature_id, detail)

    return fail


def _fixed(fields: Fields | None, feature_id: str) -> Strategy:
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, feature_id, "FIXED without a fixedStrategy")
    variation = _fields.text(fields, "variation")
    return lambda _user_id: variation


def _rollout(fields: Fields | None, salt: Salt) -> Strategy:
    if fields is None:
        return _failing(EvaluationCause.MALFORMED, salt.feature_id, "ROLLOUT without a rolloutStrategy")
    split = _split(_ends(fields), salt)
    audience = _fields.message(fields, "audience")
    percentage = _fields.integer(audience, "percentage") if audience is not None else 0
    if audience is None or not 0 < percentage < 100:  # 0 does not mean nobody
        return split
    share, outside = percentage / 100.0, _fields.text(audience, "defaultVariation")

    def choose(user_id: str) -> str:
        if salt.traffic(user_id) < share:
            return split(user_id)
        if not outside:
            raise EvaluationError(EvaluationCause.VARIATION_NOT_FOUND, salt.feature_id, "outside of the audience")
        return outside

    return choose


def _ends(fields: Fields) -> list[tuple[float, str]]:
    """Return where the share of each variation ends."""
    ends, end = [], 0.0
    for entry in _fields.messages(fields, "variations"):
        end += _fields.integer(entry, "weight") / _WHOLE
        ends.append((end, _fields.text(entry, "variation")))
    return ends


def _split(ends: Sequence[tuple[float, str]], salt: Salt) -> Strategy:
    def choose(user_id: str) -> str:
        bucket = salt.bucket(user_id)
        for end, variation in ends:
            if bucket < end:
                return variation
        raise EvaluationError(EvaluationCause.VARIATION_NOT_FOUND, salt.feature_id, "no share of the rollout")

    return choose
