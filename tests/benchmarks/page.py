"""Writes the tables of the page "Performance" from the figures beside it, ``performance.json``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_GUIDE: Final = Path(__file__).parents[2] / "docs" / "guide"
PAGE: Final = _GUIDE / "performance.md"
FIGURES: Final = _GUIDE / "performance.json"
_BEGIN: Final = "<!-- measured: {}: begin -->\n"
_END: Final = "<!-- measured: {}: end -->\n"

#: The sections of the page, in its order: title, and what the figures are.
_SECTIONS: Final = {
    "pushes": ("Pushes", "CPU time of the caller, without delivery."),
    "burst": ("A burst of events, delivered", "CPU time of the whole process for each event, close included."),
    "evaluations": (
        "Local evaluation",
        "`bool_variation` with its events: CPU time of the caller, and in all, with the delivery of the events.",
    ),
    "remote": ("Remote evaluation", "CPU time of an evaluation; responses take 20 ms."),
    "start": ("Import and start", "CPU time if nothing else is said; imports in a new process."),
    "stall": (
        "Stalls of the event loop",
        "Medians. CPU time of this process during the stall, or its duration by the clock.",
    ),
    "memory": ("Memory of waiting events", "Medians of the growth of the process."),
    "posts": ("A post", "CPU time of a post of 500 events."),
    "growth": ("Many waiting events", "CPU time of an event."),
    "traffic": ("Steady traffic", "CPU time of the whole process for each event."),
    "environment": (
        "A large environment",
        "5 000 flags, and two segments of 100 000 users each, all of which are fetched again in each poll.",
    ),
}
_DIGITS: Final = {"us": 2, "ms": 1, "s": 1, "MB": 1, "bytes": 0, "events": 0, "": 0}


class Results:
    """What was measured, by machine and Python.

    Attributes:
        environments: The contents of ``performance.json``.
    """

    def __init__(self, environments: dict[str, Any]) -> None:
        self.environments = environments

    def add(self, described: Mapping[str, Any], section: str, found: Mapping[str, Any]) -> None:
        """Add the rows of a section, in place of earlier ones."""
        title = ", ".join(described[key] for key in ("python", "build", "machine"))
        environment = self.environments.setdefault(title, {"sections": {}})
        environment |= described
        environment["sections"][section] = found

    def save(self) -> None:
        """Write figures and page."""
        FIGURES.write_text(json.dumps(self.environments, indent=1) + "\n")
        text = PAGE.read_text()
        for part, written in (("summary", self.summary()), ("details", self.details())):
            head, begin, rest = text.partition(_BEGIN.format(part))
            _, end, tail = rest.partition(_END.format(part))
            text = f"{head}{begin}\n{written}\n\n{end}{tail}"
        PAGE.write_text(text)

    def tables(self) -> str:
        """Return everything."""
        return f"{self.summary()}\n\n{self.details()}"

    def summary(self) -> str:
        """Return the first tables of the page, one for each Python."""
        return "\n\n".join(f"### {title}\n\n{_summary(found)}" for title, found in self._optimized_first())

    def details(self) -> str:
        """Return the tables of all sections."""
        return "\n\n".join(_details(title, found) for title, found in self._optimized_first())

    def _optimized_first(self) -> list[tuple[str, Any]]:
        return sorted(self.environments.items(), key=lambda item: "unoptimized build" in item[0])


def load() -> Results:
    """Return what was measured before."""
    return Results(json.loads(FIGURES.read_text()) if FIGURES.exists() else {})


def _summary(environment: Mapping[str, Any]) -> str:
    """Return the table with what a user wants to know."""
    found = [each for section in _ordered(environment) for each in section["rows"] if "summary" in each]
    rows = []
    for each in found:
        beside = each.get("beside", {})
        compared = _compared(each, "beside") if beside.get("title") == "LaunchDarkly" else ["", "", ""]
        rows.append([each["summary"], _value(each, "ours"), *compared])
    parts = [table(["", "bucketeer_async", *_head("LaunchDarkly")], rows)]
    if any("before" in each for each in found):
        revisions = sorted({section["before"] for section in _ordered(environment) if section["before"]})
        changed = [
            [each["summary"], _value(each, "ours"), *_compared(each, "before")] for each in found if "before" in each
        ]
        parts.append(table(["compared with an earlier revision", "now", *_head(" or ".join(revisions))], changed))
    parts.append(_versions(environment))
    return "\n\n".join(parts)


def _versions(environment: Mapping[str, Any]) -> str:
    reasons = sorted({section["left_out"] for section in _ordered(environment) if section["left_out"]})
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return f"Measured with {packages}.{''.join(f' LaunchDarkly was left out: {reason}.' for reason in reasons)}"


def _details(title: str, environment: Mapping[str, Any]) -> str:
    parts = [f"## All figures of {title}"]
    for name, (heading, what) in _SECTIONS.items():
        if name in environment["sections"]:
            rows = environment["sections"][name]["rows"]
            parts += [f"### {heading}", what]
            parts += [_rows(beside, list(group)) for beside, group in itertools.groupby(rows, _beside)]
    return "\n\n".join(parts)


def _rows(beside: str, rows: Sequence[Mapping[str, Any]]) -> str:
    with_before = any("before" in each for each in rows)
    head = ["", "bucketeer_async", *(_head(beside) if beside else []), *(_head("before") if with_before else [])]
    return table(
        head,
        [
            [
                each["what"],
                _value(each, "ours"),
                *(_compared(each, "beside") if beside else []),
                *(_compared(each, "before") if with_before else []),
            ]
            for each in rows
        ],
    )


def _compared(row: Mapping[str, Any], key: str) -> list[str]:
    """Return what the row is compared with, the ratio, and the ratios of neighboring rounds."""
    if key not in row:
        return ["", "", ""]
    other = row[key]
    if "ratio" not in other:
        return [_value(row, key), "", ""]
    near = other["neighbors"]
    spread = f"{near['median']:.2f} ({near['least']:.2f} to {near['most']:.2f})"
    return [_value(row, key), f"{other['ratio']:.2f}", spread]


def _value(row: Mapping[str, Any], key: str) -> str:
    unit = row["unit"]
    return f"{row[key]['value']:.{_DIGITS[unit]}f} {unit}".rstrip()


def _head(name: str) -> list[str]:
    return [name, "ratio", "of neighboring rounds"]


def _beside(row: Mapping[str, Any]) -> str:
    title: str = row.get("beside", {}).get("title", "")
    return title


def _ordered(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [environment["sections"][name] for name in _SECTIONS if name in environment["sections"]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
