"""Runs the benchmarks, each contestant in a process of its own, in turns, and writes the page about them.

nox -s bench                        everything
nox -s bench -- --quick             once or twice, without writing anything
nox -s bench -- questions           one section; what the page says about the others stays
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import flags, page
from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.processes import measured, sink

_BURST: Final = 40_000  # events
_DEFAULT_BURST: Final = 100_000
_QUICK: Final = 10  # times fewer


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


def burst(repeats: int, *, quick: bool) -> dict[str, list[dict[str, float]]]:
    """Measure a burst, with room for all of it."""
    return _race(repeats, _BURST // (_QUICK if quick else 1))


def defaults(repeats: int, *, quick: bool) -> dict[str, list[dict[str, float]]]:
    """Measure what is lost of a burst with everybody's default settings."""
    return _race(repeats, _DEFAULT_BURST // (_QUICK if quick else 1), "--defaults")


def _race(repeats: int, events: int, *options: str) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(repeats):
        for name, runs in found.items():
            with sink("--pattern", CONTESTANTS[name]().pattern) as running:
                figures = measured("delivery", name, running.url, "--events", str(events), *options)
                counted = running.figures()
            runs.append(figures | counted | {"lost": events - counted["unique"]})
            print(f"{name:24}{figures['cpu_us']:8.1f} us/event{runs[-1]['lost']:10.0f} lost", flush=True)
    return found


SECTIONS: Final[dict[str, Callable[..., Any]]] = {
    "questions": questions,
    "environment": environment,
    "burst": burst,
    "defaults": defaults,
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
    for name in options.sections or SECTIONS:
        repeats = 2 if options.quick else options.repeats
        results[name] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "repeats": repeats,
            "found": SECTIONS[name](repeats, quick=options.quick),
        }
    print(page.tables(results))
    if not options.quick:
        page.save(results)


if __name__ == "__main__":
    main()
