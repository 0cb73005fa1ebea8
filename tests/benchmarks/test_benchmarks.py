"""The benchmarks measure what they say: the sink counts, a run loses nothing, and the page shows the figures beside it."""

from __future__ import annotations

import pytest

from tests.benchmarks import page
from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.parts import PARTS
from tests.benchmarks.processes import measured, sink


def pattern() -> str:
    return CONTESTANTS["ours, awaited"]().pattern


OURS = [name for name in CONTESTANTS if name.startswith(("ours", "raw"))]


@pytest.mark.parametrize("name", OURS)
def test_a_run_has_its_events_counted_by_the_sink(name: str) -> None:
    with sink("--pattern", CONTESTANTS[name]().pattern) as running:
        figures = measured("delivery", name, running.url, "--events", "500")
        counted = running.figures()

    assert (counted["events"], counted["unique"]) == (500, 500)
    assert counted["posts"] >= 1
    assert 200_000 < counted["body_bytes"] < 260_000
    # Memory is the difference of two readings, and may be less than nothing where there is next to none.
    assert all(value >= 0 for figure, value in figures.items() if "memory" not in figure)
    assert figures["cpu_us"] > 0


def test_the_sink_can_be_late_and_out_of_order() -> None:
    with sink("--pattern", pattern(), "--delay", "0.01", "--outage-for", "0.3") as running:
        measured("delivery", "ours, awaited", running.url, "--events", "200")
        counted = running.figures()

    assert counted["unique"] == counted["events"] == 200
    assert counted["posts"] > 2  # some of them were refused


def test_growth_loses_nothing_and_weighs_what_waits() -> None:
    with sink("--pattern", pattern()) as running:
        figures = measured("growth", running.url, "--depth", "20000", "--workers", "2")
        counted = running.figures()

    assert figures["events"] == counted["unique"] == 20_000
    # An event is 452 bytes long; a part of them may fit into memory that the process had before.
    assert 400 < figures["memory_bytes"] < 2_000
    assert figures["push_us"] > 0
    assert figures["drain_us"] > 0


def test_the_parts_of_an_event_are_all_told() -> None:
    with sink("--pattern", pattern()) as running:
        figures = measured("parts", running.url, "--events", "500")

    assert figures.keys() >= set(PARTS) - {"post_speed"}
    assert figures["awaited"] > figures["id"] > 0
    assert figures["import_ms"] > 0


def test_the_page_shows_the_figures_that_lie_beside_it() -> None:
    assert page.tables(page.load()) in page.PAGE.read_text()
