"""Computes the rows of the tables: figures, and ratios of figures that were measured in turns.

Whatever else runs on a machine only adds to CPU time, so a figure is the minimum of all rounds, and a ratio is that of
two minima. Beside it are the median and the range of the ratios of neighboring rounds, by process: where that median is
far from the ratio, the machine was too busy to tell.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from tests.benchmarks.processes import Runs

Row = dict[str, Any]

#: The name of a contestant, and of one of its figures.
Source = tuple[str, str]

BEFORE = "before: {}"


def row(
    runs: Runs,
    what: str,
    ours: Source,
    beside: Source | None = None,
    *,
    title: str = "LaunchDarkly",
    unit: str = "us",
    pick: Callable[[Iterable[float]], float] = min,
    summary: str = "",
) -> Row | None:
    """Return a row, for JSON; None if nobody measured what it is about.

    Args:
        runs: What was measured.
        what: What the row is about.
        ours: Whose figure it shows.
        beside: What the figure is compared with; left out if that contestant did not measure.
        title: What ``beside`` is called.
        unit: The unit of the figures.
        pick: The statistic that is shown of all rounds.
        summary: The words for the row in the first table of the page; "" to leave it out of that table.
    """
    if ours[0] not in runs:
        return None
    found: Row = {"what": what, "unit": unit, "ours": _figure(runs, ours, pick)}
    if summary:
        found["summary"] = summary
    for key, name, other in (("beside", title, beside), ("before", "", (BEFORE.format(ours[0]), ours[1]))):
        if other and other[1] in _figures(runs, other[0]):
            found[key] = {"title": name} | _figure(runs, other, pick)
            if found[key]["value"]:
                found[key]["ratio"] = found["ours"]["value"] / found[key]["value"]
                found[key]["neighbors"] = _neighbors(runs, ours, other)
    return found


def _figures(runs: Runs, name: str) -> Iterable[str]:
    """Return the names of what a contestant has measured; an earlier revision may have less to measure."""
    return next((each for rounds in runs.get(name, ()) for each in rounds), {})


def _figure(runs: Runs, source: Source, pick: Callable[[Iterable[float]], float]) -> dict[str, float]:
    values = list(itertools.chain.from_iterable(_by_process(runs, source)))
    return {"value": pick(values), "median": statistics.median(values)}


def _neighbors(runs: Runs, ours: Source, other: Source) -> dict[str, float]:
    """Return the median and the range, over all processes, of the median ratio of neighboring rounds."""
    ratios = [
        statistics.median(a / b for a, b in zip(*pair, strict=True) if b)
        for pair in zip(_by_process(runs, ours), _by_process(runs, other), strict=True)
        if any(pair[1])
    ]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def _by_process(runs: Runs, source: Source) -> list[list[float]]:
    name, figure = source
    return [[each[figure] for each in rounds] for rounds in runs[name]]
