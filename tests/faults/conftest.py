"""Collects the measurements of the fault tests, and prints the matrix: case, promise, measured, ok."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketeer_async.gateway import GatewayState
from tests.faults.matrix import FULL, MATRIX
from tests.faults.world import Sky

_RESULTS = pytest.StashKey[dict[str, list[tuple[str, bool]]]]()
_BEGIN, _END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


@pytest.fixture
def sky() -> Sky:
    return Sky(GatewayState())


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record the measurement of a fault test, in a few words."""

    def record(words: str) -> None:
        request.node.user_properties.append(("measured", words))

    return record


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    marks = list(item.iter_markers("fault"))
    if marks and (report.when == "call" or report.failed):
        words = "; ".join(str(value) for name, value in item.user_properties if name == "measured")
        for mark in marks:
            for number in mark.args:
                item.config.stash.setdefault(_RESULTS, {}).setdefault(number, []).append((words, report.passed))
    return report


def _rows(results: dict[str, list[tuple[str, bool]]]) -> list[str]:
    lines = ["| # | fault | promise | measured | ok |", "|---|---|---|---|---|"]
    for number, row in MATRIX.items():
        found = results.get(number, [])
        words = "; ".join(dict.fromkeys(words for words, _ in found if words)) or "as promised"
        verdict = ("yes" if all(ok for _, ok in found) else "**no**") if found else "not run"
        lines.append(f"| {number} | {row.fault} | {row.promise} | {words if found else ''} | {verdict} |")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash.get(_RESULTS, None)
    if not FULL or not results:
        return
    lines = _rows(results)
    terminalreporter.write_sep("=", "the fault matrix")
    for line in lines:
        terminalreporter.write_line(line)
    page = os.environ.get("BUCKETEER_FAULT_PAGE")
    if page and results.keys() == MATRIX.keys():
        path = Path(page)
        before, _, rest = path.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        path.write_text("\n".join([before + _BEGIN, "", *lines, "", _END]) + after)
