"""The page "What can be lost" shows what `nox -s faults` has measured, for every row of the matrix."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.matrix import MATRIX

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "delivery.md"


def test_every_row_is_shown_and_holds() -> None:
    rows = [re.split(r" \| ", line.strip("| ")) for line in PAGE.read_text().splitlines() if line.startswith("| F")]

    assert {number: tuple(words) for number, *words, _, _ in rows} == {
        number: tuple(row) for number, row in MATRIX.items()
    }
    assert {number for number, *_, holds in rows if holds == "yes"} == MATRIX.keys()
