"""The command line that shows, checks, salvages and purges a spool."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from bucketeer_async import spool
from bucketeer_async._events._spool_access import SpoolError
from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile
from bucketeer_async._models import EventKind

LARGE = 2**26
SECRET = b"user-of-the-test"


def write(directory: Path, count: int = 1_000, max_bytes: int = LARGE) -> Path:
    file = SpoolFile(directory, max_bytes)
    kinds = list(EventKind)
    try:
        file.insert([(kinds[n % 2], f"id-{n}", 60.0 * n, b'{"userId":"%s"}' % SECRET) for n in range(count)])
    finally:
        file.close()
    return directory / FILE_NAME


def test_it_shows_what_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 3)

    assert spool.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "goal       2 events, 58 bytes, pushed 1970-01-01 00:00:00+00:00 to 1970-01-01 00:02:00+00:00",
        "evaluation 1 events, 29 bytes, pushed 1970-01-01 00:01:00+00:00 to 1970-01-01 00:01:00+00:00",
        "metrics    0 events, 0 bytes",
    ]


def test_showing_and_checking_take_nothing_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    before = path.read_bytes()

    assert spool.main([str(tmp_path)]) == spool.main([str(tmp_path), "check"]) == 0

    assert capsys.readouterr().out.endswith("1000 events can be read, 0 are damaged\n")
    assert path.read_bytes() == before


def test_a_flipped_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"id-500")] ^= 1
    path.write_bytes(content)

    assert spool.main([str(tmp_path), "check"]) == 1
    assert capsys.readouterr().out == "999 events can be read, 1 are damaged\n"


def test_a_file_that_was_cut_off_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    assert spool.main([str(tmp_path), "check"]) == 1
    assert "the file is damaged" in capsys.readouterr().out
    assert spool.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("the file is damaged: run the command check for details\n")


def test_purging_leaves_nothing_of_what_was_in_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    file = SpoolFile(tmp_path, LARGE)
    file.delete(range(1, 500))  # deleted events stay in free pages
    file.close()
    (tmp_path / "events.damaged").write_bytes(path.read_bytes())

    assert spool.main([str(tmp_path), "purge"]) == 0

    assert capsys.readouterr().out == "501 events were removed\n"
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]
    assert SECRET not in path.read_bytes()


def test_a_damaged_spool_can_be_purged(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:10_000])

    assert spool.main([str(tmp_path), "purge"]) == 0

    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]
    assert SECRET not in path.read_bytes()


@pytest.mark.parametrize("command", ["show", "check", "salvage", "purge"])
def test_a_spool_that_cannot_be_used_is_left_alone(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spool.main([str(tmp_path / "none"), command]) == 2
    assert "the directory has no spool" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

    write(tmp_path)
    owner = SpoolFile(tmp_path, LARGE)
    assert spool.main([str(tmp_path), command]) == 2
    assert "another process uses it" in capsys.readouterr().err
    assert len(owner) == 1_000
    owner.close()


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    write(tmp_path)

    ran = subprocess.run(
        [sys.executable, "-m", "bucketeer_async.spool", str(tmp_path), "check"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert (ran.stdout, ran.stderr) == ("1000 events can be read, 0 are damaged\n", "")


def write_unknown(directory: Path) -> None:
    file = SpoolFile(directory, LARGE)
    file.insert([("survey", f"id-{n}", 60.0 * n, b"{}") for n in range(2)])
    file.close()


def test_events_of_an_unknown_class_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 3)
    write_unknown(tmp_path)

    assert spool.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "metrics    0 events, 0 bytes",
        "unknown    2 events, 4 bytes, pushed 1970-01-01 00:00:00+00:00 to 1970-01-01 00:01:00+00:00",
    ]
    assert spool.main([str(tmp_path), "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 events can be read, 0 are damaged",
        "2 of them wait for a version of bucketeer_async that knows their class",
    ]
    assert spool.main([str(tmp_path), "purge"]) == 0
    assert capsys.readouterr().out == "5 events were removed\n"


def damage(directory: Path, max_bytes: int = LARGE) -> int:
    """Have a processor replace a file that was cut off; return the number of events that did not fit."""
    path = write(directory, 2_000)
    path.write_bytes(path.read_bytes()[:80_000])
    file = SpoolFile(directory, max_bytes)
    file.delete(range(2_000))
    left = file.left
    file.close()
    return left


def test_a_damaged_file_is_shown_with_what_is_left_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = damage(tmp_path, 64 * 1024)
    assert left > 100
    (tmp_path / FILE_NAME).unlink()  # also without a spool beside it

    assert spool.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "events.damaged, a damaged file, from which the command salvage takes these events over:"
    assert sum(int(line.split()[1]) for line in lines[4:]) == left

    assert spool.main([str(tmp_path), "salvage"]) == 0
    assert capsys.readouterr().out == f"events.damaged: {left} events were taken over, 0 are damaged, 0 are left\n"
    file = SpoolFile(tmp_path, LARGE)
    assert (len(file), file.left) == (left, 0)
    file.close()

    assert spool.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("events.damaged, a damaged file: no events are left in it\n")


def test_what_a_salvage_has_no_room_for_stays_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = damage(tmp_path, 64 * 1024)
    others = 0
    with contextlib.suppress(SpoolError):
        while write(tmp_path, 100, 64 * 1024):
            others += 100
    monkeypatch.setattr(spool, "_LARGEST", 64 * 1024)  # in place of a disk that is full

    assert spool.main([str(tmp_path), "salvage"]) == 1

    taken = int(capsys.readouterr().out.split()[1])
    assert taken < left
    file = SpoolFile(tmp_path, LARGE)
    assert (len(file), file.left) == (others + taken, left - taken)
    file.close()


def test_a_damaged_file_of_an_older_version_can_be_salvaged(tmp_path: Path) -> None:
    damage(tmp_path)
    (tmp_path / "events.damaged.left").unlink()  # which did not write down what it has left

    assert spool.main([str(tmp_path), "salvage"]) == 0

    file = SpoolFile(tmp_path, LARGE)
    assert len(file) > 500
    file.close()


def test_a_damaged_file_in_use_keeps_what_is_left_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = damage(tmp_path, 64 * 1024)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "events.damaged")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"

    assert spool.main([str(tmp_path), "salvage"]) == 2
    assert "another process uses it" in capsys.readouterr().err
    holder.communicate()

    file = SpoolFile(tmp_path, LARGE)
    assert file.left == left
    file.close()


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA writable_schema = ON")
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_times_of_a_clock_that_was_wrong_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = SpoolFile(tmp_path, LARGE)
    file.insert([(EventKind.GOAL, "id", pushed, b"{}") for pushed in (-1e18, float("inf"))])
    file.close()

    assert spool.main([str(tmp_path)]) == 0
    assert "pushed at -1000000000000000000 s to at inf s" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "check", "salvage", "purge"])
def test_a_directory_that_may_not_be_read_is_told(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)  # whoever runs the tests may be allowed everything
    status = spool.main([str(tmp_path), command])
    monkeypatch.undo()

    assert status == 2
    assert f"Permission denied: {tmp_path}" in capsys.readouterr().err
