"""The matrix itself: every row is tested."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.matrix import MATRIX

MARK = re.compile(r"pytest\.mark\.fault\((.+?)\)")


def test_every_row_has_a_test() -> None:
    marks = " ".join(
        mark for path in Path(__file__).parent.glob("test_*.py") for mark in MARK.findall(path.read_text())
    )

    assert set(re.findall(r"F\d+", marks)) == MATRIX.keys()
