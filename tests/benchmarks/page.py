"""Writes what was measured: tables for the page "Performance", and the figures beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.flags import QUESTIONS

_GUIDE: Final = Path(__file__).parents[2] / "docs" / "guide"
PAGE: Final = _GUIDE / "performance.md"
FIGURES: Final = _GUIDE / "performance.json"
_BEGIN: Final = "<!-- measured: begin -->\n"
_END: Final = "<!-- measured: end -->\n"
_RIVAL: Final = "LaunchDarkly async"
_FLOOR: Final = "raw asyncio"


def load() -> dict[str, Any]:
    """Return what was measured before, by section."""
    found: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return found


def save(results: dict[str, Any]) -> None:
    """Write figures and page."""
    FIGURES.write_text(json.dumps(results, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    PAGE.write_text(head + _BEGIN + "\n" + tables(results) + "\n" + _END + rest.partition(_END)[2])


def tables(results: dict[str, Any]) -> str:
    """Return the tables of all sections there are, in the order of the page."""
    return "\n\n".join(
        f"## {title}\n\n{write(results[name]['found'])}\n\nMedians (least to most) of {results[name]['repeats']} "
        f"repeats, CPython {results[name]['python']}, {results[name]['machine']}."
        for name, (title, write) in _SECTIONS.items()
        if name in results
    )


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Return a median, with the least and the most."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of the ratios of the same repeat."""
    return f"{statistics.median(a / b for a, b in zip(values, others, strict=True)):.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _questions(found: dict[str, Any]) -> str:
    parts = []
    titles = {
        "evaluation": "The evaluation alone, microseconds",
        "bool_variation": "A bool variation with its event, microseconds of the caller, delivery in between included",
    }
    for kind, title in titles.items():
        rows = [
            [text, spread(times["ours"]), spread(times["LaunchDarkly"]), ratio(times["ours"], times["LaunchDarkly"])]
            for key, text in QUESTIONS.items()
            for times in [found[kind][key]]
        ]
        parts.append(table([title, "bucketeer_async", "launchdarkly-server-sdk", "ratio"], rows))
    return "\n\n".join(parts)


def _environment(found: Sequence[dict[str, float]]) -> str:
    figures = {
        "ready_s": "from `start()` until `wait_ready()` returns, s",
        "memory_mb": "memory for it at most, MB",
        "start_stall_ms": "worst stall of the loop in `start()`, ms",
        "ready_stall_ms": "worst stall until ready, ms",
        "refresh_stall_ms": "worst stall of three polls that bring everything anew, ms",
        "first_question_us": "a flag's first question (it is compiled then), us",
        "later_question_us": "its later ones, us",
    }
    return table(["", "bucketeer_async"], [[text, spread(run[key] for run in found)] for key, text in figures.items()])


def _burst(found: dict[str, list[dict[str, float]]]) -> str:
    def column(name: str, key: str) -> list[float]:
        return [run[key] for run in found[name]]

    head = ["", "CPU us/event", "to the floor", "to LaunchDarkly async", "push us", "p99", "events/s", "worst stall ms"]
    head += ["start and close included", "peak MB", "bytes/event", "posts", "lost"]
    rows = [
        [
            name,
            spread(column(name, "cpu_us")),
            ratio(column(name, "cpu_us"), column(_FLOOR, "cpu_us")),
            ratio(column(name, "cpu_us"), column(_RIVAL, "cpu_us")),
            spread(column(name, "push_us")),
            spread(column(name, "push_p99_us")),
            spread(column(name, "events_per_s"), 0),
            spread(column(name, "stall_ms")),
            spread(column(name, "whole_stall_ms")),
            spread(column(name, "memory_mb")),
            spread((run["body_bytes"] / max(run["events"], 1) for run in found[name]), 0),
            spread(column(name, "posts"), 0),
            spread(column(name, "lost"), 0),
        ]
        for name in found
    ]
    return table(head, rows)


def _defaults(found: dict[str, list[dict[str, float]]]) -> str:
    rows = [
        [name, spread((run["lost"] for run in runs), 0), spread(run["stall_ms"] for run in runs)]
        for name, runs in found.items()
        if name != _FLOOR
    ]
    return table(["", "lost", "worst stall ms"], rows)


_SECTIONS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "questions": ("Questions", _questions),
    "environment": ("A large environment", _environment),
    "burst": ("A burst of 40 000 events", _burst),
    "defaults": ("A burst of 100 000 events with default settings", _defaults),
}
