"""Writes what was measured: tables and a plot for the page "Performance", and the figures beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.flags import QUESTIONS
from tests.benchmarks.parts import PARTS

_GUIDE: Final = Path(__file__).parents[2] / "docs" / "guide"
PAGE: Final = _GUIDE / "performance.md"
FIGURES: Final = _GUIDE / "performance.json"
PLOT: Final = _GUIDE / "performance.svg"
_BEGIN: Final = "<!-- measured: begin -->\n"
_END: Final = "<!-- measured: end -->\n"
_RIVAL: Final = "LaunchDarkly async"
_FLOOR: Final = "raw asyncio"

Runs = Sequence[Mapping[str, float]]


def load() -> dict[str, Any]:
    """Return what was measured before, by section."""
    found: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return found


def save(results: dict[str, Any]) -> None:
    """Write figures, plot and page."""
    FIGURES.write_text(json.dumps(results, indent=1) + "\n")
    if "burst" in results:
        plot(results["burst"]["found"])
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    PAGE.write_text(head + _BEGIN + "\n" + tables(results) + "\n" + _END + rest.partition(_END)[2])


def tables(results: dict[str, Any]) -> str:
    """Return the tables of all sections there are, in the order of the page."""
    return "\n\n".join(
        f"## {title}\n\n{write(results[name]['found'])}\n\nMedians (minimum to maximum) of {results[name]['repeats']} "
        f"repetitions, CPython {results[name]['python']}, {results[name]['machine']}."
        for name, (title, write) in _SECTIONS.items()
        if name in results
    )


def plot(found: Mapping[str, Runs]) -> None:
    """Draw what an event of a burst costs."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    names = [name for name in reversed(found) if name != _FLOOR]
    costs = [[run["cpu_us"] for run in found[name]] for name in names]
    middles = [statistics.median(each) for each in costs]
    spreads = [
        [middle - min(each) for middle, each in zip(middles, costs, strict=True)],
        [max(each) - middle for middle, each in zip(middles, costs, strict=True)],
    ]
    colors = ["#7048e8" if name.startswith("ours") else "#adb5bd" for name in names]
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bucketeer_async", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 0.9), layout="constrained")
        axes.barh(names, middles, xerr=spreads, color=colors, error_kw={"elinewidth": 0.8})
        axes.set_xscale("log")
        axes.set_xlabel("microseconds of CPU for each event of a burst, push and delivery (less is better)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOT, metadata={"Date": None})
        plt.close(figure)


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Return a median, with the least and the most."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def middle(values: Iterable[float], digits: int = 1) -> str:
    """Return a median."""
    return f"{statistics.median(values):.{digits}f}"


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of the ratios of the same repeat."""
    return f"{statistics.median(a / b for a, b in zip(values, others, strict=True)):.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def column(runs: Runs, key: str) -> list[float]:
    """Return one figure of all repeats."""
    return [run[key] for run in runs]


def _questions(found: dict[str, Any]) -> str:
    parts = []
    titles = {
        "evaluation": "Evaluation only, microseconds",
        "bool_variation": "A bool variation with its event, microseconds in the caller, including delivery in between",
    }
    for kind, title in titles.items():
        rows = [
            [text, spread(times["ours"]), spread(times["LaunchDarkly"]), ratio(times["ours"], times["LaunchDarkly"])]
            for key, text in QUESTIONS.items()
            for times in [found[kind][key]]
        ]
        parts.append(table([title, "bucketeer_async", "launchdarkly-server-sdk", "ratio"], rows))
    return "\n\n".join(parts)


def _environment(found: Runs) -> str:
    figures = {
        "ready_s": "from `start()` until `wait_ready()` returns, s",
        "memory_mb": "peak memory growth until then, MB",
        "start_stall_ms": "worst stall of the event loop in `start()`, ms",
        "ready_stall_ms": "worst stall between `start()` and ready, ms",
        "refresh_stall_ms": "worst stall during three polls that fetch everything again, ms",
        "first_question_us": "first evaluation of a flag, which compiles the flag, us",
        "later_question_us": "later evaluations of a flag, us",
    }
    return table(["", "bucketeer_async"], [[text, spread(column(found, key))] for key, text in figures.items()])


def _burst(found: Mapping[str, Runs]) -> str:
    def to(other: str) -> Callable[[Runs], str]:
        return lambda runs: ratio(column(runs, "cpu_us"), column(found[other], "cpu_us"))

    cost = _compared(
        found,
        {
            "CPU us/event": _spread_of("cpu_us"),
            "ratio to LaunchDarkly async": to(_RIVAL),
            "ratio to the floor": to(_FLOOR),
            "events/s": _middle_of("events_per_s", 0),
            "posts": _middle_of("posts", 0),
            "bytes/event": lambda runs: middle((run["body_bytes"] / max(run["events"], 1) for run in runs), 0),
            "lost": _spread_of("lost", 0),
        },
    )
    loop = _compared(
        found,
        {
            "push us": _middle_of("push_us"),
            "p99": _middle_of("push_p99_us"),
            "worst stall ms": _spread_of("stall_ms"),
            "worst stall with start and close": _spread_of("whole_stall_ms"),
            "start ms": _middle_of("start_ms", 0),
            "peak MB": _middle_of("memory_mb"),
            "sink us/event": _middle_of("sink_us"),
        },
    )
    return f"![CPU for each event of a burst](performance.svg)\n\n{cost}\n\n{loop}"


def _races(found: Mapping[str, Mapping[str, Runs]]) -> str:
    return "\n\n".join(f"### {title}\n\n{_race(race)}" for title, race in found.items())


def _race(found: Mapping[str, Runs]) -> str:
    columns = {
        "CPU us/event": _spread_of("cpu_us"),
        "push us": _middle_of("push_us"),
        "p99": _middle_of("push_p99_us"),
        "worst stall ms": _spread_of("stall_ms"),
        "events/s": _middle_of("events_per_s", 0),
        "posts": _middle_of("posts", 0),
        "lost": _spread_of("lost", 0),
    }
    return _compared(found, columns)


def _defaults(found: Mapping[str, Runs]) -> str:
    columns = {
        "lost": _spread_of("lost", 0),
        "worst stall ms": _spread_of("stall_ms"),
        "peak MB": _middle_of("memory_mb"),
    }
    return _compared({name: runs for name, runs in found.items() if name != _FLOOR}, columns)


def _compared(found: Mapping[str, Runs], columns: Mapping[str, Callable[[Runs], str]]) -> str:
    """Return a table of contestants; each column says what it shows of somebody's runs."""
    rows = [[name, *(show(runs) for show in columns.values())] for name, runs in found.items()]
    return table(["", *columns], rows)


def _spread_of(key: str, digits: int = 1) -> Callable[[Runs], str]:
    return lambda runs: spread(column(runs, key), digits)


def _middle_of(key: str, digits: int = 1) -> Callable[[Runs], str]:
    return lambda runs: middle(column(runs, key), digits)


def _growth(found: Mapping[str, Mapping[str, Runs]]) -> str:
    return "\n\n".join(
        table(
            [title, "push, CPU us/event", "delivery", "bytes of memory per waiting event", "lost"],
            [
                [
                    name,
                    spread(column(runs, "push_us")),
                    spread(column(runs, "drain_us")),
                    middle(column(runs, "memory_bytes"), 0),
                    spread(column(runs, "lost"), 0),
                ]
                for name, runs in rows.items()
            ],
        )
        for title, rows in found.items()
    )


def _profile(found: Mapping[str, Sequence[float]]) -> str:
    rows = [[text, spread(found[key], 2)] for key, text in PARTS.items() if key in found]
    parts = table(["CPU time of an event, by part", "us"], rows)
    imports = table(
        ["Import time, in a new process", "ms"],
        [
            ["`import httpx`", spread(found["import_httpx_ms"])],
            ["`import bucketeer_async` after it", spread(found["import_ms"])],
        ],
    )
    return f"{parts}\n\n{imports}"


_SECTIONS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "burst": ("A burst of 40 000 events", _burst),
    "paced": ("Steady traffic", _races),
    "delayed": ("Slow responses", _races),
    "defaults": ("A burst of 100 000 events with default settings", _defaults),
    "outage": ("An outage of 5 s", _race),
    "growth": ("Growth", _growth),
    "profile": ("CPU time of an event", _profile),
    "questions": ("Flag evaluation", _questions),
    "environment": ("A large environment", _environment),
}
