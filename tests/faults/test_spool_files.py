"""What may become of the file of a spool: rows of another version, damage, removal, forks, other programs' files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bucketeer_async import Fate, Spool, User, spool
from bucketeer_async._events import _spool_rows, _spool_salvage
from bucketeer_async._events import _spool_writer as spooling
from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile
from bucketeer_async._models import EventKind
from tests.faults.spools import DAY, all_recovered, body, events_in, fill, life, push, stored, until, warnings
from tests.faults.world import USER, Sky, fair, refused

Measured = Callable[[str], None]

SMALL = 64 * 1024


def fill_mixed(directory: Path, count: int) -> dict[EventKind, list[str]]:
    """Write a spool with events of all classes."""
    now = time.time()
    kinds = list(EventKind)
    ids = [f"00000000-0000-4000-8000-{number:012x}" for number in range(count)]
    file = SpoolFile(directory, 2**30)
    file.insert([(kinds[number % 3], each, now, body(each, now)) for number, each in enumerate(ids)])
    file.close()
    return {kind: ids[number::3] for number, kind in enumerate(kinds)}


def damage(directory: Path, share: float = 2 / 3) -> None:
    """Cut the file off."""
    path = directory / FILE_NAME
    os.truncate(path, int(path.stat().st_size * share))


# Rows of a newer version


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Be a version that does not know metrics events, until it is undone."""
    monkeypatch.delitem(_spool_rows._KINDS, "metrics")
    return monkeypatch


@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_events_of_an_unknown_class_wait_for_a_version_that_knows_them(
    sky: Sky, tmp_path: Path, durable: bool, older: pytest.MonkeyPatch
) -> None:
    ids = fill_mixed(tmp_path, 3_000)
    known = ids[EventKind.GOAL] + ids[EventKind.EVALUATION]

    for _ in range(2):
        # The bound of recovered events is smaller than what is unknown.
        async with life(sky, Spool(tmp_path, durable=durable), queue_capacity=200, drain_timeout=10.0) as processor:
            await until(lambda processor=processor: all_recovered(processor))
            assert processor.statistics().spool.unknown == 1_000  # type: ignore[union-attr]
        assert sorted(stored(sky)) == sorted(known)

    older.undo()
    async with life(sky, Spool(tmp_path, durable=durable)) as processor:
        await until(lambda: processor.statistics().total.delivered == 1_000)
        await until(lambda: all_recovered(processor))
        assert processor.statistics().spool.unknown == 0  # type: ignore[union-attr]
    assert sorted(stored(sky)) == sorted(known + ids[EventKind.METRICS])


@pytest.mark.usefixtures("older")
async def test_events_of_an_unknown_class_outlive_their_age_and_damage(sky: Sky, tmp_path: Path) -> None:
    file = SpoolFile(tmp_path, 2**30)
    file.insert([(EventKind.METRICS, f"id-{number}", 0.0, b"{}" * 100) for number in range(1_000)])
    file.close()
    damage(tmp_path)

    async with life(sky, Spool(tmp_path)) as processor:
        await until(lambda: processor.statistics().spool.ready)  # type: ignore[union-attr]
        unknown = processor.statistics().spool.unknown  # type: ignore[union-attr]

    assert 400 < unknown < 1_000
    assert stored(sky) == []
    file = SpoolFile(tmp_path, 2**30)
    assert (len(file), file.unknown) == (0, unknown)
    file.close()


# Damage


@pytest.mark.fault("F62")
@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_what_fits_of_a_damaged_file_is_delivered_and_the_rest_can_be_salvaged(
    sky: Sky,
    tmp_path: Path,
    durable: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    measured: Measured,
) -> None:
    ids = fill(tmp_path, 5_000)
    damage(tmp_path)
    limited = Spool(tmp_path, durable=durable, max_bytes=SMALL)

    async with life(sky, limited) as processor:
        await until(lambda: all_recovered(processor))
        state = processor.statistics().spool
    assert state is not None
    fitted = stored(sky)
    assert 100 < len(fitted) < 400
    assert state.corrupt >= 1
    assert 2_500 < len(fitted) + state.left < 5_000
    salvage = f"python -m bucketeer_async.spool {tmp_path} salvage"
    told = f"{state.left} events of a damaged file did not fit into the spool: {salvage}"
    assert [words for words in warnings(caplog) if "did not fit" in words] == [told]

    assert spool.main([str(tmp_path)]) == 0
    told = "events.damaged, a damaged file, from which the command salvage takes these events over:\ngoal       "
    assert f"{told}{state.left} events" in capsys.readouterr().out
    assert spool.main([str(tmp_path), "salvage"]) == 0
    assert (
        capsys.readouterr().out == f"events.damaged: {state.left} events were taken over, 0 are damaged, 0 are left\n"
    )

    async with life(sky, limited, drain_timeout=10.0) as processor:
        await until(lambda: all_recovered(processor))
        assert processor.statistics().spool.left == 0  # type: ignore[union-attr]
    assert len(stored(sky)) == len(fitted) + state.left
    assert len(set(stored(sky))) == len(stored(sky))
    assert set(stored(sky)) <= set(ids)

    assert spool.main([str(tmp_path), "salvage"]) == 0  # nothing is taken over twice
    assert capsys.readouterr().out == "events.damaged: 0 events were taken over, 0 are damaged, 0 are left\n"
    assert events_in(tmp_path) == 0
    measured(f"torn, for {SMALL // 1024} kB: {len(fitted)} of 5 000 delivered, {state.left} more after `salvage`")


async def test_a_large_event_does_not_keep_small_ones_out(sky: Sky, tmp_path: Path) -> None:
    now = time.time()
    file = SpoolFile(tmp_path, 2**30)
    file.insert([(EventKind.GOAL, "large", now, body("large", now, 2 * SMALL))])
    file.close()
    ids = fill(tmp_path, 500)
    damage(tmp_path, 0.95)

    async with life(sky, Spool(tmp_path, max_bytes=SMALL)) as processor:
        await until(lambda: all_recovered(processor))

    assert len(stored(sky)) > 100
    assert set(stored(sky)) <= set(ids)


async def test_a_large_event_does_not_keep_small_ones_out_of_a_spool_that_is_full(sky: Sky, tmp_path: Path) -> None:
    sky.weather = refused
    async with life(sky, Spool(tmp_path, max_bytes=SMALL), drain_timeout=0.0) as processor:
        large = processor.push_goal_event_nowait(User("user", {"attribute": "x" * SMALL}), "goal")
        small = [processor.push_goal_event_nowait(USER, "goal") for _ in range(50)]

    assert large.outcome is not None
    assert large.outcome.fate is Fate.DROPPED
    assert {receipt.outcome.fate for receipt in small if receipt.outcome} == {Fate.SPOOLED}


async def test_a_copy_with_events_in_it_is_not_overwritten(tmp_path: Path) -> None:
    for _ in range(3):
        fill(tmp_path, 2_000)
        damage(tmp_path)
        SpoolFile(tmp_path, SMALL).close()
        (tmp_path / FILE_NAME).unlink()

    names = ["events.damaged", "events.damaged-2", "events.damaged-3"]
    assert [copy.name for copy in _spool_salvage.copies(tmp_path)] == names
    left = [len(_spool_salvage.rows_left(copy) or ()) for copy in _spool_salvage.copies(tmp_path)]
    assert min(left) > 500
    file = SpoolFile(tmp_path, 2**30)
    assert file.left == sum(left)
    file.take_over(tmp_path / "events.damaged-2")
    assert file.left == left[0] + left[2]
    file.close()


def test_a_process_that_ends_amid_a_salvage_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(tmp_path, 2_000)
    damage(tmp_path, 0.9)
    replace, left = Path.replace, 0

    class Killed(BaseException):
        pass

    def renamed(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", renamed)
    for allowed in range(7):
        left = allowed
        with contextlib.suppress(Killed):
            SpoolFile(tmp_path, 2**30).close()
    file = SpoolFile(tmp_path, 2**30)

    assert 1_500 < len(file) < 2_000
    assert {event.event_id for event in file.earlier_events(0)} <= set(ids)
    assert sorted(os.listdir(tmp_path)) == [  # noqa: PTH208 - names are enough
        "events.damaged",
        "events.damaged.left",
        FILE_NAME,
        f"{FILE_NAME}-wal",
    ]
    file.close()


# A file that goes while it is in use


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def remove_file(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def remove_log(directory: Path) -> None:
    (directory / f"{FILE_NAME}-wal").unlink()


def rename(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def replace_file(directory: Path) -> None:
    remove_file(directory)
    fill(directory, 20, age=3.0)


def truncate(directory: Path) -> None:
    os.truncate(directory / FILE_NAME, 0)


def truncate_log(directory: Path) -> None:
    os.truncate(directory / f"{FILE_NAME}-wal", 0)


WAYS = [remove, remove_file, remove_log, rename, replace_file, truncate, truncate_log]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_what_is_called_spooled_is_there_although_the_file_went(
    sky: Sky, tmp_path: Path, way: Callable[[Path], None], durable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "spool"
    recovered = fill(directory, 100)
    sky.weather = refused
    async with life(sky, Spool(directory, durable=durable), drain_timeout=0.0) as processor:
        receipts = [processor.push_goal_event_nowait(USER, f"goal-{number}") for number in range(300)]
        await until(lambda: processor.statistics().total.recovered == 100)
        if durable:
            await until(lambda: processor.statistics().spool.events == 400)  # type: ignore[union-attr]
        way(directory)
    assert processor.statistics().total.spooled == 400
    assert len([words for words in warnings(caplog) if "cannot be used" in words]) <= 1

    sky.weather = fair
    async with life(sky, Spool(directory)) as processor:
        await until(lambda: all_recovered(processor))
    expected = {receipt.event_id for receipt in receipts} | set(recovered)
    assert sorted(stored(sky)) == sorted(expected)


@pytest.mark.parametrize("recovered", [0, 50])
async def test_what_goes_with_a_file_that_is_removed_is_counted(
    sky: Sky, tmp_path: Path, recovered: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "_RETRY", 0.05)
    fill(tmp_path / "spool", 1_000)
    sky.weather = refused
    async with life(sky, Spool(tmp_path / "spool"), queue_capacity=100, drain_timeout=0.0) as processor:
        if not recovered:
            push(processor, 60)  # half of the queue is for events from the spool
        await until(lambda: processor.statistics().total.recovered == recovered)
        remove(tmp_path / "spool")
        await until(lambda: processor.statistics().spool.corrupt > 0)  # type: ignore[union-attr]
        assert processor.statistics().spool.corrupt == 1_000 - recovered  # type: ignore[union-attr]
    assert f"the spool was damaged or removed: at least {1_000 - recovered} events were lost" in warnings(caplog)
    assert processor.statistics().total.spooled == (recovered or 60)


@pytest.mark.parametrize("way", WAYS)
async def test_a_durable_spool_whose_file_went_is_durable_again(
    sky: Sky, tmp_path: Path, way: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a push or a post: the process may be killed before there is one."""
    monkeypatch.setattr(spooling, "_RETRY", 0.05)
    directory = tmp_path / "spool"
    sky.weather = refused
    async with life(sky, Spool(directory, durable=True), flush_interval=60.0, drain_timeout=10.0) as processor:
        ids = push(processor, 99)
        await until(lambda: processor.statistics().spool.events == 99)  # type: ignore[union-attr]
        way(directory)

        def is_written_again() -> bool:
            with contextlib.suppress(OSError, sqlite3.Error):
                shutil.rmtree(tmp_path / "killed", ignore_errors=True)
                shutil.copytree(directory, tmp_path / "killed")  # as a kill would leave it
                with contextlib.closing(sqlite3.connect(tmp_path / "killed" / FILE_NAME)) as connection:
                    found = {row[0] for row in connection.execute("SELECT id FROM events")}
                return set(ids) <= found
            return False

        await until(is_written_again)
        sky.weather = fair
        await processor.flush()
        others = 20 if way is replace_file else 0  # for the next process
        await until(lambda: processor.statistics().spool.events == others)  # type: ignore[union-attr]
    assert sorted(stored(sky)) == sorted(ids)


# Clocks


@pytest.mark.fault("F48")
@pytest.mark.parametrize("days", [-400, -0.1, 0.1, 400])
@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_a_wall_clock_that_jumps_while_a_process_runs_costs_no_event(
    sky: Sky, tmp_path: Path, days: float, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump = 0.0
    monkeypatch.setattr(spooling, "Spooler", partial(spooling.Spooler, wall=lambda: time.time() + jump))
    sky.weather = refused
    async with life(sky, Spool(tmp_path, durable=durable), drain_timeout=0.0) as processor:
        jump = days * DAY
        ids = push(processor, 300)
    assert processor.statistics().total.spooled == 300

    async with life(sky, Spool(tmp_path), drain_timeout=10.0) as processor:
        await until(lambda: processor.statistics().total.recovered == 300)
        jump = -jump  # again, while they wait
        sky.weather = fair
        await processor.flush()
    assert sorted(stored(sky)) == sorted(ids)


@pytest.mark.parametrize(
    ("days", "fate"), [(-400, "delivered"), (-1, "delivered"), (0.5, "delivered"), (400, "expired")]
)
async def test_an_event_is_as_old_as_the_wall_clock_of_the_next_process_says(
    sky: Sky, tmp_path: Path, days: float, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(tmp_path, 100)
    monkeypatch.setattr(spooling, "Spooler", partial(spooling.Spooler, wall=lambda: time.time() + days * DAY))
    async with life(sky, Spool(tmp_path)) as processor:
        await until(lambda: all_recovered(processor))
        total = processor.statistics().total

    assert (total.delivered, total.dropped_by.get("expired", 0)) == ((100, 0) if fate == "delivered" else (0, 100))
    assert stored(sky) == (ids if fate == "delivered" else [])


async def test_a_relative_path_stays_where_it_was(sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spooling, "_RETRY", 0.01)
    (tmp_path / "elsewhere").mkdir()
    sky.weather = refused
    async with life(sky, Spool("spool", durable=True), drain_timeout=0.0) as processor:
        monkeypatch.chdir(tmp_path / "elsewhere")
        push(processor, 100)
        await until(lambda: processor.statistics().spool.events == 100)  # type: ignore[union-attr]
        await asyncio.sleep(0.1)
    assert processor.statistics().total.spooled == events_in(tmp_path / "spool") == 100
    assert list((tmp_path / "elsewhere").iterdir()) == []
