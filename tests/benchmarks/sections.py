"""What is measured: each section lets its contestants measure, and returns its rows."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import responses
from tests.benchmarks.flags import KINDS, PAGE
from tests.benchmarks.processes import Contestant, Runs, in_turns, sink
from tests.benchmarks.rows import BEFORE, Row, row

#: Matches each event once: those of this SDK by their ids, those of LaunchDarkly by the number that they carry.
PATTERN: Final = r'(?:"id":"|seq-)([0-9a-f-]{36}(?=","event")|\d{14})'
_LD: Final = "LaunchDarkly"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        processes: Processes of each contestant that measures short rounds.
        rounds: Rounds of each of these processes.
        alone: Processes of each contestant that measures one round only.
        pushes: Events of a round of pushes.
        burst: Events of a burst, that is also used for stalls.
        evaluations: Evaluations of each kind of flag, in a round.
        waves: Groups of 100 remote evaluations, in a round.
        posts: Posts of a round.
        waiting: Events whose memory is measured.
        depths: Numbers of waiting events; the cost of the others is compared with the first one's.
        seconds: How long steady traffic lasts, and an outage.
        flags: Flags of a large environment.
        interval: Seconds between two polls of a large environment.
    """

    processes: int = 5
    rounds: int = 5
    alone: int = 11
    pushes: int = 5_000
    burst: int = 40_000
    evaluations: int = 1_000
    waves: int = 1
    posts: int = 20
    waiting: int = 100_000
    depths: tuple[int, ...] = (10_000, 100_000)
    seconds: float = 5.0
    flags: int = 5_000
    interval: float = 1.0


#: Enough to see that everything works.
TINY: Final = Sizes(1, 1, 1, 100, 1_000, 20, 1, 2, 20_000, (100, 1_000), 0.2, 50, 0.1)


@dataclass(frozen=True)
class Bench:
    """What the sections measure with.

    Attributes:
        sizes: How much is measured.
        with_launchdarkly: Whether LaunchDarkly's SDK is installed.
        before: A folder with another revision's `bucketeer_async`, that measures too.
        speed: A folder where the extra ``speed`` is installed, for the contestant that uses it.
    """

    sizes: Sizes
    with_launchdarkly: bool
    before: Path | None = None
    speed: str = ""

    def both(
        self, ours: Mapping[str, Contestant], theirs: Mapping[str, Contestant] | None = None
    ) -> dict[str, Contestant]:
        """Return the contestants that measure: ours, those of the other revision, and LaunchDarkly's if installed."""
        found = dict(ours)
        for name, each in ours.items():
            if self.before:
                found[BEFORE.format(name)] = replace(each, package=self.before)
        return found | (dict(theirs or {}) if self.with_launchdarkly else {})

    def same(self, *role: object) -> dict[str, Contestant]:
        """Return the contestants of a role that both SDKs play."""
        arguments = tuple(map(str, role))
        return self.both({"ours": Contestant("ours", arguments)}, {_LD: Contestant("launchdarkly", arguments)})

    def short(self, contestants: Mapping[str, Contestant]) -> Runs:
        """Measure short rounds."""
        return in_turns(contestants, processes=self.sizes.processes, rounds=self.sizes.rounds)

    def alone(self, contestants: Mapping[str, Contestant]) -> Runs:
        """Measure one round for each process."""
        return in_turns(contestants, processes=self.sizes.alone)


@contextmanager
def _sink(*options: str) -> Iterator[str]:
    with sink("--pattern", PATTERN, *options) as running:
        yield running.url


def pushes(bench: Bench) -> list[Row | None]:
    """Pushes alone: CPU of the caller, without delivery."""
    runs = bench.short(bench.same("pushes", bench.sizes.pushes))
    track = (_LD, "track")
    return [
        row(runs, "nowait, goal event", ("ours", "goal"), track, summary="nowait push, goal event"),
        row(runs, "nowait, evaluation event", ("ours", "evaluation"), track, summary="nowait push, evaluation event"),
        row(runs, "nowait, evaluation event that repeats the last one, with `evaluation_window`",
            ("ours", "duplicate"), ("ours", "evaluation"), title="without a window"),
        row(runs, "awaited, goal event", ("ours", "awaited goal"), track, summary="awaited push, goal event"),
        row(runs, "awaited, evaluation event", ("ours", "awaited evaluation"), track,
            summary="awaited push, evaluation event"),
        row(runs, "nowait, goal event of a `User` made for it", ("ours", "goal of a new user"),
            (_LD, "track, new context")),
        row(runs, "nowait, goal event", ("ours", "goal"), (_LD, "track, call"),
            title="LaunchDarkly's call, without the work that it leaves to its task"),
    ]  # fmt: skip


def burst(bench: Bench) -> list[Row | None]:
    """A burst, delivered: CPU of the whole process for each event."""
    names = {"nowait": "nowait pushes", "receipts": "awaited pushes and receipts", "spool": "a durable spool"}
    with _sink() as url:
        size = bench.sizes.burst
        variants = {variant: Contestant("ours", ("burst", url, str(size), variant)) for variant in ("awaited", *names)}
        if bench.speed:
            names["speed"] = "awaited pushes, with the extra `speed`"
            variants["speed"] = Contestant("ours", ("burst", url, str(size), "awaited"), packages=bench.speed)
        rival = {_LD: Contestant("launchdarkly", ("burst", url, str(size)))}
        rounds = min(3, bench.sizes.rounds)
        runs = in_turns(bench.both(variants, rival), processes=bench.sizes.processes, rounds=rounds)
    ours, theirs = ("awaited", "cpu"), (_LD, "cpu")
    return [
        row(runs, "awaited pushes", ours, theirs, summary=f"event of a burst of {_spaced(size)}, delivered"),
        *(row(runs, words, (variant, "cpu"), theirs) for variant, words in names.items()),
        row(runs, "posts, awaited pushes", ("awaited", "posts"), (_LD, "posts"), unit="", pick=statistics.median),
        row(runs, "events lost", ("awaited", "lost"), (_LD, "lost"), unit="", pick=max),
    ]  # fmt: skip


def evaluations(bench: Bench) -> list[Row | None]:
    """Local `bool_variation`: CPU of the caller, and with the delivery of its two events."""
    with tempfile.TemporaryDirectory() as folder, _sink(*responses.canned(Path(folder), responses.small())) as url:
        runs = bench.short(bench.same("evaluations", url, bench.sizes.evaluations))
    nowait = "`bool_variation_nowait`, fixed variation, on the caller"
    return [
        *(row(runs, f"{words}, {part}", ("ours", f"{flag}, {part}"), (_LD, f"{flag}, {part}"),
              summary=f"local evaluation, {words}, {part}" if flag in {"fixed", "rollout", "targeting"} else "")
          for part in ("on the caller", "in all")
          for flag, words in KINDS.items()),
        row(runs, nowait, ("ours", "fixed, without awaiting"), ("ours", "fixed, on the caller"), title="awaited"),
        row(runs, f"`evaluate_all` of {len(PAGE)} flags, and an access of each", ("ours", "a page at once"),
            ("ours", "a page one by one"), title="one by one"),
    ]  # fmt: skip


def remote(bench: Bench) -> list[Row | None]:
    """Remote evaluations, many at once; the gateway responds after 20 ms."""
    with tempfile.TemporaryDirectory() as folder, _sink("--delay", "0.02", *responses.canned(Path(folder))) as url:
        runs = bench.short(bench.both({"ours": Contestant("ours", ("remote", url, str(bench.sizes.waves)))}))
    return [
        row(runs, "10 at once", ("ours", "10"), summary="remote evaluation, 10 at once"),
        row(runs, "defaults, 10 at once", ("ours", "10, defaults"), unit="", pick=max),
        row(runs, "defaults, 100 at once", ("ours", "100, defaults"), unit="", pick=max),
        row(runs, "100 at once", ("ours", "100"), ("ours", "10"), title="10 at once",
            summary="remote evaluation, 100 at once"),
    ]  # fmt: skip


def start(bench: Bench) -> list[Row | None]:
    """Import in a new process, and the start of a client while nothing listens."""
    imports = {
        "import": Contestant("imports", ("bucketeer_async",)),
        "import after httpx": Contestant("imports", ("httpx", "bucketeer_async")),
        "start": Contestant("life", ("start", "bucketeer_async")),
    }
    rivals = {
        f"{_LD}: import": Contestant("imports", ("ldclient.async_client",)),
        f"{_LD}: start": Contestant("life", ("start", "launchdarkly")),
    }
    runs = bench.alone(bench.both(imports, rivals))
    httpx = ("import after httpx", "httpx")
    return [
        row(runs, "import", ("import", "bucketeer_async"), (f"{_LD}: import", "ldclient.async_client"), unit="ms",
            summary="import, with all dependencies"),
        row(runs, "`Client.start()`", ("start", "cpu"), (f"{_LD}: start", "cpu"), unit="ms", summary="`Client.start()`"),
        row(runs, "import and `Client.start()`", ("start", "with import"), (f"{_LD}: start", "with import"), unit="ms",
            summary="import and `Client.start()`"),
        row(runs, "`Client.start()`, by the clock", ("start", "wall"), (f"{_LD}: start", "wall"), unit="ms"),
        row(runs, "import after httpx", ("import after httpx", "bucketeer_async"), httpx, unit="ms",
            title="`import httpx`"),
        row(runs, "`Client.start()`", ("start", "cpu"), httpx, unit="ms", title="`import httpx`"),
    ]  # fmt: skip


def stall(bench: Bench) -> list[Row | None]:
    """Worst stalls of the event loop, medians."""
    with _sink() as url:
        arguments = (url, str(bench.sizes.burst // 2))
        ours = {"ours": Contestant("life", ("stall", "bucketeer_async", *arguments))}
        rival = {_LD: Contestant("life", ("stall", "launchdarkly", *arguments))}
        runs = bench.alone(bench.both(ours, rival))
    figures = {"worst": "worst of all", "start": "in the start", "burst": "in the burst", "close": "in the close"}
    return [
        row(runs, f"{words}{clock}", ("ours", f"{figure}{clock}"), (_LD, f"{figure}{clock}"), unit="ms",
            pick=statistics.median,
            summary="worst stall in start, burst and close" if figure == "worst" and not clock else "")
        for clock in ("", ", by the clock")
        for figure, words in figures.items()
    ]  # fmt: skip


def memory(bench: Bench) -> list[Row | None]:
    """Memory of waiting events, medians."""
    runs = in_turns(bench.same("memory", bench.sizes.waiting), processes=bench.sizes.processes)
    pick = statistics.median
    return [
        row(runs, "a waiting event", ("ours", "bytes"), (_LD, "bytes"), unit="bytes", pick=pick,
            summary="memory of a waiting event"),
        row(runs, "of that, its JSON", ("ours", "body"), unit="bytes", pick=pick),
    ]  # fmt: skip


def posts(bench: Bench) -> list[Row | None]:
    """A post of 500 events, without the cost of the events."""
    with _sink() as url:
        arguments = ("posts", url, str(bench.sizes.posts), "500")
        contestants = {"ours": Contestant("ours", arguments), "httpx": Contestant("bare", arguments)}
        if bench.speed:
            contestants["speed"] = Contestant("ours", arguments, packages=bench.speed)
        runs = bench.short(bench.both(contestants))
    return [
        row(runs, "a post of 500 events", ("ours", "post"), ("httpx", "post"), title="httpx alone"),
        row(runs, "with the extra `speed`", ("speed", "post"), ("httpx", "post"), title="httpx alone"),
    ]


def growth(bench: Bench) -> list[Row | None]:
    """Events when many wait at once, with Python's garbage collector on and off."""
    least, *deeper = bench.sizes.depths
    with _sink() as url:
        contestants = {
            f"{depth}, {collector}": Contestant("ours", ("growth", url, str(depth), collector))
            for collector in ("on", "off")
            for depth in bench.sizes.depths
        }
        runs = in_turns(bench.both(contestants), processes=min(3, bench.sizes.processes))
    works = (("push", "on", "push"), ("push", "off", "push, garbage collector off"), ("delivery", "on", "delivery"))
    return [
        row(runs, f"{words}, {_spaced(depth)} at once", (f"{depth}, {collector}", figure),
            (f"{least}, {collector}", figure), title=f"{_spaced(least)} at once")
        for figure, collector, words in works
        for depth in deeper
    ] + [
        row(runs, f"lost, {_spaced(depth)} at once", (f"{depth}, on", "lost"), unit="events", pick=max)
        for depth in bench.sizes.depths
    ]  # fmt: skip


def traffic(bench: Bench) -> list[Row | None]:
    """Steady traffic, slow responses, and an outage: CPU of the whole process for each event, and lost events."""
    seconds = bench.sizes.seconds
    scenarios: dict[str, tuple[int, tuple[str, ...]]] = {
        "1 000 events/s": (1_000, ()),
        "10 000 events/s": (10_000, ()),
        "10 000 events/s, responses after 200 ms": (10_000, ("--delay", "0.2")),
        f"1 000 events/s, all posts fail for {seconds:g} of {2 * seconds:g} s":
            (1_000, ("--outage-after", str(seconds / 5), "--outage-for", str(seconds))),
    }  # fmt: skip
    found: list[Row | None] = []
    for words, (rate, options) in scenarios.items():
        lasting = 2 * seconds if "--outage-for" in options else seconds
        runs: Runs = {}
        for _ in range(min(3, bench.sizes.processes)):
            for name in bench.same("traffic"):
                with _sink(*options) as url:  # of its own: an outage happens once
                    one = bench.same("traffic", url, int(rate * lasting), rate)[name]
                    runs.setdefault(name, []).extend(in_turns({name: one})[name])
        found += [
            row(runs, words, ("ours", "cpu"), (_LD, "cpu")),
            row(runs, f"events lost, {words}", ("ours", "lost"), (_LD, "lost"), unit="", pick=max),
        ]
    return found


def environment(bench: Bench) -> list[Row | None]:
    """A large environment: 5 000 flags, and two segments of 100 000 users each."""
    count, interval = bench.sizes.flags, bench.sizes.interval
    with (
        tempfile.TemporaryDirectory() as folder,
        _sink(*responses.canned(Path(folder), *responses.large(count, 20 * count))) as url,
    ):
        contestant = Contestant("ours", ("environment", url, str(count), str(interval)))
        runs = in_turns(bench.both({"ours": contestant}), processes=min(3, bench.sizes.processes))
    return [
        row(runs, words, ("ours", figure), unit=unit)
        for figure, words, unit in (
            ("ready", "from `start()` until `wait_ready()` returns", "s"),
            ("memory", "memory growth until then", "MB"),
            ("stall until ready", "worst stall until then, by the clock", "ms"),
            ("stall of polls", "worst stall during three polls that fetch everything again, by the clock", "ms"),
            ("first", "first evaluation of a flag, which compiles the flag", "us"),
            ("later", "later evaluations of a flag", "us"),
        )
    ]


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


#: What is measured by default, and what in addition with ``--long``.
SECTIONS: Final[dict[str, Callable[[Bench], list[Row | None]]]] = {
    "pushes": pushes,
    "burst": burst,
    "evaluations": evaluations,
    "remote": remote,
    "start": start,
    "stall": stall,
    "memory": memory,
    "posts": posts,
    "growth": growth,
}
LONG: Final[dict[str, Callable[[Bench], list[Row | None]]]] = {"traffic": traffic, "environment": environment}


def measure(name: str, bench: Bench) -> dict[str, Any]:
    """Measure a section; return it for JSON."""
    return {"rows": [each for each in (SECTIONS | LONG)[name](bench) if each]}
