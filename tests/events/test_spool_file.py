"""The file of a spool: written events can be read again, also from a damaged file."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from bucketeer_async._events._spool_file import FILE_NAME, SpoolError, SpoolFile, read_events
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
