"""The simulation of experiments: its window, its fates, and the page, which shows the figures that it yields."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bucketeer_async.gateway import Linking
from tests.experiments import page
from tests.experiments.simulation import BEGIN, Scenario, UserGoal, link, outages, run, traffic

SMALL = Scenario(users=4, pause=(1.0, 5.0), duration=300.0)
SLOW = list(page.TRAFFIC)[-1]  # the fewest events


def test_the_page_shows_the_figures() -> None:
    found = page.load()

    assert found.keys() == page.cells().keys()
    assert page.tables(found) in page.PAGE.read_text()


@pytest.mark.parametrize(
    "name",
    [
        page.cell(SLOW, 30.0, "none", 0.0),
        page.cell(SLOW, 30.0, "none", 600.0),
        page.cell(SLOW, 30.0, "18 of 60 s", 60.0),
    ],
)
def test_the_figures_are_those_of_the_simulation(name: str) -> None:
    assert page.figures(page.cells()[name]) == page.load()[name]


@pytest.mark.parametrize("linking", page.ORDERS.values(), ids=page.ORDERS)
@pytest.mark.parametrize("batches", page.BATCHES)
def test_every_goal_is_decided_and_a_longer_window_discards_fewer(batches: float, linking: Linking) -> None:
    goals = sum(action.is_goal for action in traffic(SMALL))
    linked = []
    for window in (0.0, 20.0, SMALL.duration):
        posts = run(replace(SMALL, batches=batches, window=window, outages=2, outage=20.0))
        assert sum(isinstance(event, UserGoal) for post in posts for event in post.events) == goals
        fates = link(posts, linking)
        assert fates.total() == goals
        assert fates["waiting"] == 0
        linked.append(fates["linked"])

    if linking.first == "evaluations":
        assert linked[0] < linked[1] < linked[2]
    assert linked[2] == goals


def test_a_seed_decides_everything() -> None:
    scenario = replace(SMALL, outages=1)

    assert run(scenario) == run(scenario)
    assert run(scenario) != run(replace(scenario, seed=2))


def test_nothing_arrives_in_an_outage() -> None:
    scenario = replace(SMALL, batches=0.5, outages=3, outage=20.0)

    times = [post.time - BEGIN for post in run(scenario)]

    assert len(outages(scenario)) == 3
    assert not [time for time in times for begin, end in outages(scenario) if begin <= time < end]


def test_an_experiment_that_starts_in_a_window_discards_goals() -> None:
    posts = run(replace(SMALL, window=SMALL.duration))

    fates = link(posts, Linking(), start=SMALL.duration / 2)

    assert fates["linked"] == 0
    assert fates["gave_up"] > 0
    assert fates["before_start"] > 0
