"""The file of a spool: written events can be read again, also from a damaged file."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketeer_async._events._spool_access import SpoolError
from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile, read_events
from bucketeer_async._events._spool_salvage import copies
from bucketeer_async._models import EventKind

LARGE = 2**26


def event(number: int) -> tuple[EventKind, str, float, bytes]:
    return EventKind.GOAL, f"id-{number}", 1_000.5 + number, b'{"number":%d}' % number


def written(directory: Path, count: int = 2_500) -> Path:
    spool = SpoolFile(directory, LARGE)
    spool.insert([event(number) for number in range(count)])
    spool.close()
    return directory / FILE_NAME


def read_all(spool: SpoolFile) -> list[str]:
    ids: list[str] = []
    last = 0
    while events := spool.earlier_events(last):
        for found in events:
            assert found[1:5] == event(int(found.event_id.removeprefix("id-")))
            ids.append(found.event_id)
        last = events[-1].row
    return ids


def test_what_was_written_comes_back_in_its_order(tmp_path: Path) -> None:
    written(tmp_path)

    spool = SpoolFile(tmp_path, LARGE)

    assert read_all(spool) == [f"id-{number}" for number in range(2_500)]
    assert len(spool) == 2_500
    spool.close()


def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    written(tmp_path, 3)
    spool = SpoolFile(tmp_path, LARGE)
    first, second, third = spool.earlier_events(0)
    spool.delete([first.row, third.row, 999])
    spool.close()

    spool = SpoolFile(tmp_path, LARGE)

    assert [found.event_id for found in spool.earlier_events(0)] == [second.event_id]
    assert len(spool) == 1
    spool.close()


def test_events_of_this_life_are_not_earlier_ones(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, LARGE)
    spool.insert([event(1)])

    assert spool.earlier_events(0) == []
    spool.close()


def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "spool"
    spool = SpoolFile(directory, LARGE)
    spool.insert([event(1)])

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    spool.close()


def test_a_second_owner_is_told_and_may_come_later(tmp_path: Path) -> None:
    first = SpoolFile(tmp_path, LARGE)
    with pytest.raises(SpoolError, match="another process uses it"):
        SpoolFile(tmp_path, LARGE)
    first.close()

    SpoolFile(tmp_path, LARGE).close()


def test_a_full_spool_takes_no_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, 64 * 1024)
    spool.insert([event(1)])
    with pytest.raises(SpoolError, match="full"):
        spool.insert([(EventKind.GOAL, "large", 0.0, bytes(100_000))])

    spool.insert([event(2)])

    assert len(spool) == 2
    assert spool.size <= 64 * 1024
    spool.close()


def test_an_empty_spool_gives_its_space_back(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, LARGE)
    first = spool.insert([(EventKind.GOAL, str(number), 0.0, bytes(1_000)) for number in range(3_000)])
    spool.delete(range(first, first + 3_000))
    spool.close()

    assert (tmp_path / FILE_NAME).stat().st_size < 100_000


def test_a_place_that_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")

    with pytest.raises(SpoolError):
        SpoolFile(tmp_path / "file", LARGE)


def test_a_changed_event_is_not_believed_and_the_others_are(tmp_path: Path) -> None:
    path = written(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = X'00' WHERE id = 'id-7'")
    connection.close()

    spool = SpoolFile(tmp_path, LARGE)

    assert read_all(spool) == [f"id-{number}" for number in range(2_500) if number != 7]
    assert spool.corrupt == 1
    assert len(spool) == 2_499
    spool.close()


def test_a_page_that_is_gone_costs_what_was_on_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 8192 * 4096
    damaged[middle : middle + 4096] = bytes(4096)
    path.write_bytes(damaged)

    spool = SpoolFile(tmp_path, LARGE)
    found = read_all(spool)

    assert 2_300 < len(found) < 2_500
    assert len(set(found)) == len(found)
    assert spool.corrupt >= 1
    assert (tmp_path / "events.damaged").exists()
    spool.close()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 300], ids=["empty", "text"])
def test_a_file_that_is_no_spool_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)

    spool = SpoolFile(tmp_path, LARGE)
    spool.insert([event(1)])

    assert len(spool) == 1
    spool.close()


@pytest.mark.parametrize("seed", range(60))
def test_damage_of_any_kind_is_survived_and_what_comes_back_is_true(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = written(tmp_path, 300)
    content = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    for _ in range(rng.randrange(1, 30) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)

    spool = SpoolFile(tmp_path, LARGE)
    found = read_all(spool)
    spool.insert([(EventKind.METRICS, "new", time.time(), b"{}")])

    assert len(set(found)) == len(found)
    assert len(spool) == len(found) + 1
    spool.close()


def test_an_event_that_has_failed_alone_is_remembered(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, 2**20)
    first = spool.insert([event(number) for number in range(3)])
    spool.mark_suspects([first + 1])
    spool.close()

    spool = SpoolFile(tmp_path, 2**20)
    events = spool.earlier_events(0)
    assert [each.is_suspect for each in events] == [False, True, False]
    spool.delete([first + 1])
    spool.close()
    assert [each is not None and each.is_suspect for each in read_events(tmp_path)] == [False, False]


def test_a_file_of_an_older_version_has_no_suspects(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, 2**20)
    spool.insert([event(number) for number in range(3)])
    spool.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("DROP TABLE suspects")
        connection.commit()

    assert [each is not None and each.is_suspect for each in read_events(tmp_path)] == [False] * 3
    spool = SpoolFile(tmp_path, 2**20)
    assert [each.is_suspect for each in spool.earlier_events(0)] == [False] * 3
    spool.close()


# What others have put there


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """Let a test change the file as another program would."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


@pytest.mark.parametrize("columns", ["user TEXT", "row INTEGER PRIMARY KEY, kind TEXT"])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, columns: str) -> None:
    path = tmp_path / FILE_NAME
    with changed(path) as connection:
        connection.execute(f"CREATE TABLE events ({columns})")
        connection.execute("CREATE TABLE users (name TEXT)")
    path.chmod(0o644)
    before = path.read_bytes()

    with pytest.raises(SpoolError, match="a database of another program"):
        SpoolFile(tmp_path, LARGE)
    with pytest.raises(SpoolError, match="a database of another program"):
        list(read_events(tmp_path))

    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_a_format_that_is_newer_is_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, 10)
    with changed(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    before = path.read_bytes()

    with pytest.raises(SpoolError, match="a newer version of bucketeer_async has written the file"):
        SpoolFile(tmp_path, LARGE)
    assert path.read_bytes() == before


def test_columns_of_a_newer_version_are_kept_out_of_the_way(tmp_path: Path) -> None:
    with changed(written(tmp_path, 10)) as connection:
        connection.execute("ALTER TABLE events ADD COLUMN priority INTEGER DEFAULT 1")

    spool = SpoolFile(tmp_path, LARGE)
    spool.insert([event(10)])

    assert read_all(spool) == [f"id-{number}" for number in range(10)]
    spool.close()


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_directory_in_the_place_of_a_file_is_told_and_not_touched(tmp_path: Path, suffix: str) -> None:
    directory = tmp_path / (FILE_NAME + suffix)
    directory.mkdir()
    mode = directory.stat().st_mode

    with pytest.raises(SpoolError):
        SpoolFile(tmp_path, LARGE)

    assert directory.stat().st_mode == mode
    directory.rmdir()
    SpoolFile(tmp_path, LARGE).close()


@pytest.mark.parametrize("where", ["the file", "the directory"])
def test_a_file_that_may_not_be_written_is_named(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 10)
    refused = path if where == "the file" else tmp_path
    opened, access = os.open, os.access

    def open_(name: Any, *arguments: Any) -> int:
        if name == refused and not arguments[0] & os.O_EXCL:
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, *arguments)

    monkeypatch.setattr(os, "open", open_)  # whoever runs the tests may be allowed everything
    monkeypatch.setattr(os, "access", lambda name, mode: name != refused and access(name, mode))
    with pytest.raises(SpoolError, match=f"Permission denied: {refused}$"):
        SpoolFile(tmp_path, LARGE)
    monkeypatch.undo()

    SpoolFile(tmp_path, LARGE).close()


# Damage of the first page, which has the schema


def zeros(content: bytearray) -> None:
    content[:4096] = bytes(4096)


def header(content: bytearray) -> None:
    content[:16] = b"x" * 16


def column(content: bytearray) -> None:
    content[content.index(b"pushed REAL")] ^= 1


def statement(content: bytearray) -> None:
    content[content.index(b"CREATE TABLE events")] ^= 1


@pytest.mark.parametrize("damage", [zeros, header, column, statement])
def test_rows_behind_a_first_page_that_is_damaged_are_found(
    tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)

    spool = SpoolFile(tmp_path, 64 * 1024)
    found = read_all(spool)
    assert (spool.corrupt, len(found) + spool.left) == (1, 2_500)
    spool.close()
    spool = SpoolFile(tmp_path, LARGE)
    assert spool.take_over(tmp_path / "events.damaged") == (2_500 - len(found), 0, [])
    assert (len(spool), spool.left) == (2_500, 0)
    spool.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "events.damaged",
        "events.damaged.left",
        FILE_NAME,
    ]


def test_a_log_without_its_file_is_read(tmp_path: Path) -> None:
    """Somebody has removed one of two files of a process that was killed."""
    written(tmp_path / "killed", 100)
    spool = SpoolFile(tmp_path / "killed", LARGE)
    spool.insert([event(number) for number in range(100, 200)])
    shutil.copytree(tmp_path / "killed", tmp_path / "spool")
    spool.close()
    (tmp_path / "spool" / FILE_NAME).unlink()

    spool = SpoolFile(tmp_path / "spool", LARGE)

    assert set(read_all(spool)) >= {f"id-{number}" for number in range(150, 200)}
    spool.close()


@pytest.mark.parametrize("number", [2**63 - 1, 2**62, 0, -5])
def test_a_row_number_that_is_no_number_of_ours_keeps_no_other_event_out(tmp_path: Path, number: int) -> None:
    with changed(written(tmp_path, 10)) as connection:
        connection.execute("UPDATE events SET row = ? WHERE id = 'id-4'", (number,))

    spool = SpoolFile(tmp_path, LARGE)
    first = spool.insert([event(20)])

    assert first == 11
    assert set(read_all(spool)) >= {f"id-{number}" for number in range(10) if number != 4}
    spool.close()


RACE = """
import sys, time
from pathlib import Path
from bucketeer_async._events._spool_access import SpoolBusyError, SpoolError
from bucketeer_async._events._spool_file import SpoolFile

while True:
    try:
        spool = SpoolFile(Path(sys.argv[1]), 2**26)
    except SpoolError:
        time.sleep(0.001)
        continue
    events = spool.earlier_events(0)
    spool.delete([each.row for each in events])
    print(len(events), sorted(each.event_id for each in events), flush=True)
    spool.close()
    break
"""


@pytest.mark.parametrize("damage", [zeros, "torn"])
def test_processes_that_find_a_damaged_file_together_take_it_over_once(tmp_path: Path, damage: Any) -> None:
    path = written(tmp_path, 900)
    content = bytearray(path.read_bytes())
    if damage == "torn":
        del content[-8192:]
    else:
        damage(content)
    path.write_bytes(content)

    processes = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = sorted(int(process.communicate(timeout=60)[0].split()[0]) for process in processes)

    assert counts[:2] == [0, 0]
    assert 700 < counts[2] <= 900
    assert [each.name for each in copies(tmp_path)] == ["events.damaged"]
