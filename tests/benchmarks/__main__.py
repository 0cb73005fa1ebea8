"""Runs the benchmarks, each contestant in a process of its own, in turns, and writes the page about them.

nox -s bench                        everything
nox -s bench -- --quick             once, with small numbers, without writing anything
nox -s bench -- questions           one section; what the page says about the others stays
nox -s bench -- profile             where an event's microseconds go
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.benchmarks import flags, page
from tests.benchmarks.contestants import CONTESTANTS, OURS, RACING
from tests.benchmarks.growth import GROWTH
from tests.benchmarks.processes import measured, sink

_T = TypeVar("_T")

_BURST: Final = 40_000  # events
_DEFAULT_BURST: Final = 100_000
_PACES: Final = {"10 000 events/s": (10_000, 20_000), "1 000 events/s": (1_000, 2_000)}  # events a second, and in all
_DELAYS: Final = {"20 ms": 0.02, "200 ms": 0.2}  # before each answer
_OUTAGE: Final = 5.0  # seconds
_OUTAGE_RATE: Final = 1_000  # events a second, from a second before the outage to a second after it
_QUICK: Final = 20  # times fewer

Runs = dict[str, list[dict[str, float]]]


def questions(repeats: int, *, quick: bool) -> dict[str, Any]:
    """Measure questions, beside LaunchDarkly's."""
    with tempfile.TemporaryDirectory() as folder, sink(*flags.write_polls(Path(folder), flags.ours())) as running:
        options = ("--repeats", str(repeats), *(("--rounds", "1") if quick else ()))
        found: dict[str, Any] = measured("questions", running.url, *options)
    return found


def environment(repeats: int, *, quick: bool) -> list[dict[str, float]]:
    """Measure a large environment."""
    with tempfile.TemporaryDirectory() as folder, sink(*flags.write_polls(Path(folder), *flags.large())) as running:
        return [measured("environment", running.url) for _ in range(1 if quick else repeats)]


def burst(repeats: int, *, quick: bool) -> Runs:
    """Measure a burst, with room for all of it."""
    return _race(repeats, CONTESTANTS, _BURST // (_QUICK if quick else 1))


def defaults(repeats: int, *, quick: bool) -> Runs:
    """Measure what is lost of a burst with everybody's default settings."""
    return _race(repeats, CONTESTANTS, _DEFAULT_BURST // (_QUICK if quick else 1), "--defaults")


def paced(repeats: int, *, quick: bool) -> dict[str, Runs]:
    """Measure steady traffic."""
    return {
        title: _race(repeats, RACING, events // (_QUICK if quick else 1), "--rate", str(rate))
        for title, (rate, events) in _some(_PACES, quick=quick)
    }


def delayed(repeats: int, *, quick: bool) -> dict[str, Runs]:
    """Measure a burst for a gateway that is far away."""
    return {
        title: _race(repeats, RACING, _BURST // (_QUICK if quick else 1), to=("--delay", str(delay)))
        for title, delay in _some(_DELAYS, quick=quick)
    }


def outage(repeats: int, *, quick: bool) -> Runs:
    """Measure what an outage costs, and who loses what in it."""
    scale = 1 / (_QUICK if quick else 1)
    events = int(_OUTAGE_RATE * (_OUTAGE + 2.0) * scale)
    refusing = ("--outage-after", str(scale), "--outage-for", str(_OUTAGE * scale))
    names = [name for name in RACING if name != "raw asyncio"]  # it never tries twice
    return _race(repeats, names, events, "--rate", str(_OUTAGE_RATE), to=refusing)


def growth(repeats: int, *, quick: bool) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Measure how the cost of an event depends on what there is many of."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for title, options in GROWTH.items():
        rows = list(options)[:2] if quick else options
        found[title] = {name: [] for name in rows}
        for _ in range(repeats):
            for name in rows:
                with sink("--pattern", OURS) as running:
                    figures = measured("growth", running.url, *options[name])
                    found[title][name].append(figures | {"lost": figures["events"] - running.figures()["unique"]})
                    print(
                        f"{title}, {name:12}{figures['push_us']:8.1f} + {figures['drain_us']:.1f} us/event", flush=True
                    )
    return found


def profile(repeats: int, *, quick: bool) -> dict[str, Any]:
    """Measure where an event's microseconds go."""
    with sink("--pattern", OURS) as running:
        runs = [measured("parts", running.url) for _ in range(1 if quick else repeats)]
    return {key: [run[key] for run in runs] for key in runs[0]}


def _some(scenarios: Mapping[str, _T], *, quick: bool) -> list[tuple[str, _T]]:
    return list(scenarios.items())[: 1 if quick else None]


def _race(repeats: int, names: Iterable[str], events: int, *options: str, to: Iterable[str] = ()) -> Runs:
    """Have everybody take turns, each against a sink of its own; ``to`` says what that is like."""
    found: Runs = {name: [] for name in names}
    for _ in range(repeats):
        for name, runs in found.items():
            with sink("--pattern", CONTESTANTS[name]().pattern, *to) as running:
                figures = measured("delivery", name, running.url, "--events", str(events), *options)
                counted = running.figures()
            lost = events - counted["unique"]
            runs.append(figures | counted | {"lost": lost, "sink_us": counted["sink_cpu"] / events * 1e6})
            print(f"{name:24}{figures['cpu_us']:8.1f} us/event{lost:10.0f} lost", flush=True)
    return found


SECTIONS: Final[dict[str, Callable[..., Any]]] = {
    "burst": burst,
    "paced": paced,
    "delayed": delayed,
    "defaults": defaults,
    "outage": outage,
    "growth": growth,
    "profile": profile,
    "questions": questions,
    "environment": environment,
}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small numbers, and nothing is written")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    results = {} if options.quick else page.load()
    measured_now = options.sections or list(SECTIONS)
    for name in measured_now:
        repeats = 1 if options.quick else options.repeats
        results[name] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "repeats": repeats,
            "found": SECTIONS[name](repeats, quick=options.quick),
        }
        if not options.quick:
            page.save(results)  # a run that is broken off leaves what it has found
    print(page.tables({name: results[name] for name in measured_now}))


if __name__ == "__main__":
    main()
