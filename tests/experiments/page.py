"""Writes what was simulated: tables for the page "Experiments: delivered, and counted", and the figures beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bucketeer_async.gateway import Linking
from tests.benchmarks.page import table
from tests.experiments.simulation import Post, Scenario, UserEvaluation, link, run

_GUIDE: Final = Path(__file__).parents[2] / "docs" / "guide"
PAGE: Final = _GUIDE / "experiments.md"
FIGURES: Final = _GUIDE / "experiments.json"
_BEGIN: Final = "<!-- simulated: begin -->\n"
_END: Final = "<!-- simulated: end -->\n"

WINDOWS: Final = (0.0, 60.0, 600.0, 3_600.0)  # seconds
BATCHES: Final = (0.5, 30.0)  # seconds
OUTAGES: Final = {"none": 0, "18 of 60 s": 18}
TRAFFIC: Final = {
    "8 users, a visit every 1 to 3 s": Scenario(users=8, pause=(1.0, 3.0)),
    "20 users, a visit every 20 to 60 s": Scenario(users=20, pause=(20.0, 60.0)),
}
ORDERS: Final = {
    "the evaluations of a post before its goals": Linking(),
    "goals 10 s after evaluations": Linking(delay=10.0),
    "evaluations 10 s after goals": Linking(first="goals", delay=10.0),
}
START: Final = 7_200.0  # seconds, of an experiment that starts while users are active

Figures = Mapping[str, Any]


def figures(scenario: Scenario) -> dict[str, Any]:
    """Return the figures of a scenario: evaluation events that were sent, and goals by order of the server and fate."""
    posts = run(scenario)
    return {
        "sent": sum(isinstance(event, UserEvaluation) for post in posts for event in post.events),
        "goals": {name: fates(posts, linking, 0.0) for name, linking in ORDERS.items()},
        "started": {name: fates(posts, linking, START) for name, linking in ORDERS.items()},
    }


def fates(posts: Sequence[Post], linking: Linking, start: float) -> dict[str, int]:
    """Return the goals of an experiment by fate, without those before its start."""
    return {fate: count for fate, count in sorted(link(posts, linking, start=start).items()) if fate != "before_start"}


def cells() -> dict[str, Scenario]:
    """Return all scenarios by name."""
    return {
        cell(traffic, batches, outages, window): replace(scenario, batches=batches, outages=count, window=window)
        for traffic, scenario in TRAFFIC.items()
        for batches in BATCHES
        for outages, count in OUTAGES.items()
        for window in WINDOWS
    }


def cell(traffic: str, batches: float, outages: str, window: float) -> str:
    """Return the name of a scenario."""
    return f"{traffic}; batches of {batches:g} s; outages: {outages}; window of {window:g} s"


def load() -> dict[str, Any]:
    """Return the figures of all scenarios as they were saved."""
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def save(found: Figures) -> None:
    """Write the figures and the page."""
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items()]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    PAGE.write_text(head + _BEGIN + "\n" + tables(found) + "\n\n" + _END + rest.partition(_END)[2])


def tables(found: Figures) -> str:
    """Return all tables, with their titles."""
    parts = [f"### {traffic}\n\n{_discarded(found, traffic)}" for traffic in TRAFFIC]
    parts += [f"### Evaluation events that are sent\n\n{_by_traffic(found, _sent)}"]
    parts += [f"### An experiment that starts while users are active\n\n{_by_traffic(found, _started)}"]
    return "\n\n".join(parts)


def _discarded(found: Figures, traffic: str) -> str:
    rows = [
        [order, f"{batches:g} s", outages]
        + [lost(found[cell(traffic, batches, outages, window)]["goals"][order]) for window in WINDOWS]
        for order in ORDERS
        for batches in BATCHES
        for outages in OUTAGES
    ]
    return _table(["the server handles", "batches", "outages"], rows)


def _by_traffic(found: Figures, show: Callable[[Figures, Figures], str]) -> str:
    rows = []
    for traffic in TRAFFIC:
        default = [found[cell(traffic, 30.0, "none", window)] for window in WINDOWS]
        rows.append([traffic] + [show(each, default[0]) for each in default])
    return _table([""], rows)


def _sent(figure: Figures, without: Figures) -> str:
    return percent(figure["sent"] / without["sent"])


def _started(figure: Figures, _without: Figures) -> str:
    return lost(figure["started"]["the evaluations of a post before its goals"])


def _table(head: list[str], rows: Iterable[Sequence[str]]) -> str:
    return table(head + [f"window {window:g} s" if window else "no window" for window in WINDOWS], rows)


def lost(goals: Mapping[str, int]) -> str:
    """Return the share of goals that are not linked."""
    total = sum(goals.values())
    return percent((total - goals["linked"]) / total)


def percent(share: float) -> str:
    """Return a share in percent, with two digits after the point if it is small."""
    return f"{share * 100:.{1 if share >= 0.01 else 2}f} %"
