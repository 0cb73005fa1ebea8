"""Measures this SDK beside LaunchDarkly's async client, and writes the page about it.

nox -s bench                        everything, but the long sections; takes about five minutes
nox -s bench -- --long              everything; takes about ten minutes
nox -s bench -- pushes evaluations  some sections; what the page says about the others stays
nox -s bench -- --quick             small numbers, without writing anything
nox -s bench -- --before v1.0       measures another revision, too
nox -s bench -- --page              measures nothing, and writes the page from performance.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import machine, page
from tests.benchmarks.processes import ROOT
from tests.benchmarks.sections import LONG, SECTIONS, TINY, Bench, Sizes, measure


def main() -> None:
    """Parse the command line, and measure."""
    options = _options()
    written = page.Results({}) if options.quick else page.load()
    if options.page:
        written.save()
    else:
        print(_measure(written, options).tables())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nox -s bench --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*SECTIONS, *LONG]
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(names)}")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(LONG)}, and 1 000 000 waiting events")
    parser.add_argument("--quick", action="store_true", help="small numbers, and nothing is written")
    parser.add_argument("--before", metavar="REVISION", default="", help="a revision of git that is measured, too")
    parser.add_argument("--page", action="store_true", help="measure nothing, but write the page")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(names):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    options.sections = options.sections or [*SECTIONS, *(LONG if options.long else ())]
    return options


def _measure(written: page.Results, options: argparse.Namespace) -> page.Results:
    """Measure, and write each section as soon as it is measured; return what was measured."""
    sizes = TINY if options.quick else Sizes()
    if options.long and not options.quick:
        sizes = dataclasses.replace(sizes, depths=(*sizes.depths, 1_000_000))
    missing = [name for name in ("launchdarkly-server-sdk", "aiohttp") if not machine.installed(name)]
    left_out = f"{' and '.join(missing)} not installed" if missing else ""
    revision = _name(options.before) if options.before else ""
    measured = page.Results({})
    with _other_revision(options.before) as before:
        bench = Bench(sizes, not missing, before, os.environ.get("BUCKETEER_BENCH_SPEED", ""))
        for name in options.sections:
            began = time.perf_counter()
            found = measure(name, bench) | {"left_out": left_out, "before": revision}
            for results in (measured, written):
                results.add(machine.describe(), name, found)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
            if not options.quick:
                written.save()
    return measured


@contextlib.contextmanager
def _other_revision(revision: str) -> Iterator[Path | None]:
    """Provide a folder with the package as of a revision; None without one."""
    if not revision:
        yield None
        return
    archive = _git("archive", revision, "bucketeer_async")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def _name(revision: str) -> str:
    return _git("describe", "--always", "--tags", revision).decode().strip()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    main()
