"""The benchmarks measure what they say, and the page shows the figures beside it; LaunchDarkly's SDK is not needed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import machine, page
from tests.benchmarks.processes import ROOT, Contestant, in_turns, sink
from tests.benchmarks.rows import row
from tests.benchmarks.sections import LONG, PATTERN, SECTIONS, TINY, Bench, measure

TINY_OURS = Bench(TINY, with_launchdarkly=False)


def figures(section: str, bench: Bench = TINY_OURS) -> dict[str, float]:
    return {each["what"]: each["ours"]["value"] for each in measure(section, bench)["rows"]}


@pytest.mark.parametrize("section", [*SECTIONS, *LONG])
def test_a_section_measures_without_launchdarkly_and_loses_nothing(section: str) -> None:
    found = measure(section, TINY_OURS)["rows"]

    assert found
    for each in found:
        value, title = each["ours"]["value"], each.get("beside", {}).get("title", "")
        assert "LaunchDarkly" not in title
        # Memory is the difference of two readings, and may be less than nothing where there is next to none.
        assert value == 0 if re.search("lost|defaults", each["what"]) else value >= 0 or "memory" in each["what"], each
    shown = page.Results({})
    shown.add(machine.describe(), section, {"rows": found, "left_out": "it is not installed", "before": ""})
    assert all(each["what"] in shown.details() for each in found)
    assert "LaunchDarkly was left out: it is not installed." in shown.summary()


def test_memory_has_the_json_of_the_event() -> None:
    found = figures("memory")

    assert 440 < found["of that, its JSON"] < 480
    assert found["of that, its JSON"] < found["a waiting event"] < 2_000


def test_another_revision_measures_too() -> None:
    found = measure("start", replace(TINY_OURS, before=ROOT))["rows"]

    assert found
    assert all(each["before"]["ratio"] > 0 for each in found)


def test_the_sink_counts_the_events_of_both_sdks_once() -> None:
    pattern = re.compile(PATTERN)
    event = '{"id":"0b1f6d2c-7a7e-4a55-8f0e-5d9a3c4b2e1f","event":{"@type":"t","user":{"id":"user-000001"}}}'

    assert pattern.findall(event) == ["0b1f6d2c-7a7e-4a55-8f0e-5d9a3c4b2e1f"]
    assert pattern.findall('{"kind":"custom","data":{"seq":"seq-00123450000001"}}') == ["00123450000001"]


def test_an_outage_of_the_sink_delays_events_but_loses_none() -> None:
    with sink("--pattern", PATTERN, "--outage-for", "0.3") as running:
        contestant = Contestant("ours", ("traffic", running.url, "200", "2000"))
        runs = in_turns({"ours": contestant})
        counted = running.figures()

    assert runs["ours"][0][0]["lost"] == 0
    assert counted["events"] == counted["unique"] == 200
    assert counted["posts"] > 2  # some of them were refused


def test_a_process_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"tests\.benchmarks\.imports.*ended early, with status 1"):
        in_turns({"wrong": Contestant("imports", ("no_such_module",))})


def runs(**by_name: list[list[float]]) -> dict[str, list[list[dict[str, float]]]]:
    return {
        name.replace("_", ": "): [[{"cpu": value} for value in rounds] for rounds in processes]
        for name, processes in by_name.items()
    }


def test_a_ratio_is_that_of_two_minima_and_is_shown_beside_neighboring_rounds() -> None:
    measured = runs(ours=[[2.0, 3.0, 4.0], [8.0, 8.0, 8.0]], LaunchDarkly=[[4.0, 4.0, 4.0], [4.0, 1.0, 4.0]])

    found: dict[str, Any] = row(measured, "push", ("ours", "cpu"), ("LaunchDarkly", "cpu")) or {}

    assert found["ours"] == {"value": 2.0, "median": 6.0}
    assert found["beside"]["value"] == 1.0
    assert found["beside"]["ratio"] == 2.0
    assert found["beside"]["neighbors"] == {"median": 1.375, "least": 0.75, "most": 2.0}


def test_a_row_shows_only_what_was_measured() -> None:
    found = row(runs(ours=[[2.0]]), "push", ("ours", "cpu"), ("LaunchDarkly", "cpu")) or {}

    assert found == {"what": "push", "unit": "us", "ours": {"value": 2.0, "median": 2.0}}
    assert row(runs(ours=[[2.0]]), "push", ("speed", "cpu")) is None


def test_a_row_has_the_other_revision_beside_it() -> None:
    found = row(runs(ours=[[2.0]], before_ours=[[4.0]]), "push", ("ours", "cpu")) or {}

    assert found["before"]["ratio"] == 0.5


def test_the_machine_and_the_build_are_named() -> None:
    described = machine.describe()

    assert described["build"].startswith("optimized build" if machine.is_optimized() else "unoptimized build")
    assert "bucketeer-async" in described["packages"]


def test_the_page_shows_the_figures_that_lie_beside_it() -> None:
    text, results = page.PAGE.read_text(), page.load()

    assert results.environments
    assert results.summary() in text
    assert results.details() in text


def test_writing_the_page_changes_the_tables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, before = page.load(), page.PAGE.read_text()
    for name in ("PAGE", "FIGURES"):
        copy = tmp_path / name
        copy.write_bytes(getattr(page, name).read_bytes())
        monkeypatch.setattr(page, name, copy)

    results.save()

    assert page.PAGE.read_text() == before
    assert page.load().environments == results.environments


def test_a_section_measured_again_replaces_only_itself() -> None:
    results, described = page.Results({}), machine.describe()
    for section, value in (("memory", 1.0), ("posts", 2.0), ("memory", 3.0)):
        measured = row(runs(ours=[[value]]), f"{section} {value}", ("ours", "cpu"))
        results.add(described, section, {"rows": [measured], "left_out": "", "before": ""})

    assert "posts 2.0" in results.details()
    assert "memory 3.0" in results.details()
    assert "memory 1.0" not in results.details()
