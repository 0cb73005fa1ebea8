"""Linker: links goals to the variations of experiments, and discards goals, as the server's data warehouse does.

It needs no timer: what is due by now is handled whenever events arrive or counts are read.
"""

# For each experiment that a goal belongs to, the server looks up the user's latest stored evaluation of the
# experiment's flag and version. A goal that is older than this evaluation is discarded, even if the user has an earlier
# evaluation that it would fit. If the user has no evaluation in one of the goal's experiments, the goal as a whole is
# stored, and tried again later.

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._models import shown
from bucketeer_async._options import check_seconds

LINKED: Final = "linked"
BEFORE_START: Final = "before_start"
AFTER_STOP: Final = "after_stop"
LATER_EVALUATION: Final = "later_evaluation"
GAVE_UP: Final = "gave_up"

_NO_VARIATION: Final = ""  # of goals for which no evaluation was found
_CALLERS_DEFAULT: Final = "default"  # the server's variation id for an evaluation event that has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Linking:
    """How the gateway links goals to experiments.

    The server handles evaluation events and goal events independently of each other, so that either may be ahead.

    Attributes:
        first: Which events are handled as soon as they arrive: ``"evaluations"`` or ``"goals"``.
        delay: Seconds by which the other events are handled later, at least 0. With 0, ``first`` is the order within
            one post.
        retry_interval: Seconds until a goal whose user has no evaluation is tried again, greater than 0. Each further
            pause is twice as long.
        retry_period: Seconds after which such a goal is discarded, greater than 0.

    Raises:
        ConfigurationError: If an attribute is invalid.
    """

    first: Literal["evaluations", "goals"] = "evaluations"
    delay: float = 0.0
    retry_interval: float = 300.0
    retry_period: float = 86_400.0

    def __post_init__(self) -> None:
        if self.first not in ("evaluations", "goals"):
            raise ConfigurationError(f"first must be 'evaluations' or 'goals', not {shown(self.first)}")
        check_seconds("delay", self.delay, zero=True)
        check_seconds("retry_interval", self.retry_interval)
        check_seconds("retry_period", self.retry_period)


@dataclass(frozen=True, slots=True)
class GoalCounts:
    """What became of the goal events of an experiment, for one variation; each event id counts once.

    Attributes:
        linked: Goals that count for the variation.
        waiting: Goals that are not handled yet, or will be tried again.
        discarded: Goals that will never count, by reason: ``"later_evaluation"`` (the user's latest evaluation is later
            than the goal), ``"before_start"`` or ``"after_stop"`` (of the experiment), ``"gave_up"`` (no evaluation was
            found for too long).
    """

    linked: int = 0
    waiting: int = 0
    discarded: Mapping[str, int] = field(default_factory=dict)


class Experiment(NamedTuple):
    """An experiment: from ``start_at`` to ``stop_at``, in Unix seconds, both included."""

    id: str
    feature_id: str
    feature_version: int
    goal_ids: tuple[str, ...]
    start_at: int
    stop_at: float

    def reason_outside(self, timestamp: int) -> str:
        """Return why a goal of this time does not belong to the experiment; "" if it does."""
        if timestamp < self.start_at:
            return BEFORE_START
        return AFTER_STOP if timestamp > self.stop_at else ""


def compile_experiment(fields: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a complete definition; the end 0 means that it has no end."""
    return Experiment(
        fields["id"],
        fields["featureId"],
        fields["featureVersion"],
        tuple(fields["goalIds"]),
        int(fields["startAt"]),
        int(fields["stopAt"]) or math.inf,
    )


class UserEvaluation(NamedTuple):
    """An evaluation event; the timestamp is in Unix seconds."""

    timestamp: int
    user_id: str
    feature_id: str
    feature_version: int
    variation_id: str


class UserGoal(NamedTuple):
    """A goal event; the timestamp is in Unix seconds.

    Attributes:
        tries: How often no evaluation was found.
        give_up_at: When the goal is discarded if there is still none; None before the first try.
    """

    timestamp: int
    user_id: str
    goal_id: str
    tries: int = 0
    give_up_at: float | None = None


class _Results:
    """The results of one experiment.

    Attributes:
        latest: The latest stored evaluation of each user.
        counts: Counters of goals by variation: linked, or the reason for which they were discarded.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.latest: dict[str, UserEvaluation] = {}
        self.counts: dict[str, Counter[str]] = {}

    def store(self, evaluation: UserEvaluation) -> None:
        """Store an evaluation if it belongs to the experiment; of the same second, the last one counts."""
        experiment = self.experiment
        if (evaluation.feature_id, evaluation.feature_version) != (experiment.feature_id, experiment.feature_version):
            return
        if experiment.reason_outside(evaluation.timestamp):
            return
        latest = self.latest.get(evaluation.user_id)
        if latest is None or latest.timestamp <= evaluation.timestamp:
            self.latest[evaluation.user_id] = evaluation

    def count(self, variation_id: str, fate: str) -> None:
        """Count a goal: linked, or the reason for which it was discarded."""
        self.counts.setdefault(variation_id, Counter())[fate] += 1


class Linker:
    """Links goals to the variations of experiments.

    Args:
        linking: In which order, and how late, events are handled.
    """

    def __init__(self, linking: Linking) -> None:
        self._linking = linking
        self._experiments: Mapping[str, Experiment] = {}
        self._results: dict[str, _Results] = {}
        self._due: list[tuple[float, bool, int, UserEvaluation | UserGoal]] = []  # a heap; among equals, False is first
        self._sequence = itertools.count()

    def define(self, experiments: Mapping[str, Experiment]) -> None:
        """Use these experiments from now on; an experiment that is not the same as before begins without results."""
        if experiments is self._experiments:
            return
        self._experiments = experiments
        self._results = {key: self._results_of(experiment) for key, experiment in experiments.items()}

    def _results_of(self, experiment: Experiment) -> _Results:
        results = self._results.get(experiment.id)
        return results if results and results.experiment == experiment else _Results(experiment)

    def forget(self) -> None:
        """Delete all events and counts."""
        self._due.clear()
        self._results = {key: _Results(results.experiment) for key, results in self._results.items()}

    def take(self, events: Iterable[UserEvaluation | UserGoal], now: float) -> None:
        """Take the events of one post, which arrived now, and handle what is due."""
        for event in events:
            later = self._is_later(event)
            self._schedule(now + self._linking.delay * later, later, event)
        self.advance(now)

    def _is_later(self, event: UserEvaluation | UserGoal) -> bool:
        return isinstance(event, UserGoal) == (self._linking.first == "evaluations")

    def _schedule(self, due: float, later: bool, event: UserEvaluation | UserGoal) -> None:  # noqa: FBT001 - a rank
        heapq.heappush(self._due, (due, later, next(self._sequence), event))

    def advance(self, now: float) -> None:
        """Handle all events that are due by now."""
        while self._due and self._due[0][0] <= now:
            due, _, _, event = heapq.heappop(self._due)
            if isinstance(event, UserGoal):
                self._link(event, due)
            else:
                for results in self._results.values():
                    results.store(event)

    def _link(self, goal: UserGoal, due: float) -> None:
        """Link or discard a goal in all experiments that it belongs to, or let it wait."""
        running = []
        for results in self._results_with(goal):
            reason = results.experiment.reason_outside(goal.timestamp)
            if not reason:
                running.append(results)
            elif not goal.tries:
                results.count(_NO_VARIATION, reason)
        if goal.give_up_at is not None and goal.give_up_at <= due:
            for results in running:
                results.count(_NO_VARIATION, GAVE_UP)
        elif any(goal.user_id not in results.latest for results in running):
            self._wait(goal, due)
        else:
            for results in running:
                latest = results.latest[goal.user_id]
                fate = LATER_EVALUATION if latest.timestamp > goal.timestamp else LINKED
                results.count(latest.variation_id or _CALLERS_DEFAULT, fate)

    def _results_with(self, goal: UserGoal) -> Iterator[_Results]:
        return (results for results in self._results.values() if goal.goal_id in results.experiment.goal_ids)

    def _wait(self, goal: UserGoal, due: float) -> None:
        give_up_at = due + self._linking.retry_period if goal.give_up_at is None else goal.give_up_at
        again_at = due + self._linking.retry_interval * 2**goal.tries
        waiting = goal._replace(tries=goal.tries + 1, give_up_at=give_up_at)
        self._schedule(min(again_at, give_up_at), self._is_later(goal), waiting)

    def counts(self) -> dict[str, dict[str, GoalCounts]]:
        """Return the counts of goals by experiment id and variation id; "" if no evaluation was found for them."""
        return {key: self._counts_of(results) for key, results in self._results.items()}

    def _counts_of(self, results: _Results) -> dict[str, GoalCounts]:
        counts = {
            variation_id: GoalCounts(fates[LINKED], 0, {fate: fates[fate] for fate in sorted(fates) if fate != LINKED})
            for variation_id, fates in sorted(results.counts.items())
        }
        if waiting := self._waiting_for(results.experiment):
            counts[_NO_VARIATION] = GoalCounts(0, waiting, counts.get(_NO_VARIATION, GoalCounts()).discarded)
        return counts

    def _waiting_for(self, experiment: Experiment) -> int:
        goals = [event for *_, event in self._due if isinstance(event, UserGoal)]
        return sum(
            goal.goal_id in experiment.goal_ids and not experiment.reason_outside(goal.timestamp) for goal in goals
        )
