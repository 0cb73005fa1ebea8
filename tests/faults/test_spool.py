"""Events that outlive their process, on good disks and bad ones; real time, real files, real kills."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketeer_async import ApiClient, Fate, Processor, RetryPolicy, Spool, User
from bucketeer_async._events import _spool_writer as spooling
from bucketeer_async._events._spool_access import SpoolError
from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile
from bucketeer_async.gateway import Fault, LocalGateway
from tests.faults.matrix import FULL
from tests.faults.spools import CONFIG, DAY, all_recovered, events_in, fill, life, push, stored, until, warnings
from tests.faults.world import KEY, USER, Sky, answer, fair, refused
from tests.integrations.children import python

Measured = Callable[[str], None]

KILLS = 200 if FULL else 2
MEGABYTES = 100 if FULL else 10
SAFE_AFTER = 0.1 if FULL else 0.3  # seconds; a machine that runs a whole suite may be busy elsewhere
# From one process to the next


async def test_what_a_drain_leaves_is_delivered_by_the_next_process(sky: Sky, tmp_path: Path) -> None:
    sky.weather = refused
    async with life(sky, Spool(tmp_path)) as processor:
        receipts = [processor.push_goal_event_nowait(USER, f"goal-{number}", 1.5) for number in range(200)]
        ids = [receipt.event_id for receipt in receipts] + push(processor, 100)
    report = await processor.aclose()
    assert report.total.spooled == processor.statistics().total.spooled == 300
    assert report.complete  # nothing is lost
    assert {receipt.outcome.fate for receipt in receipts if receipt.outcome} == {Fate.SPOOLED}

    sky.weather = fair
    async with life(sky, Spool(tmp_path)) as processor:
        await until(lambda: processor.statistics().total.delivered == 300)
        total = processor.statistics().total
        assert (total.pushed, total.recovered, total.accepted) == (0, 300, 300)
    assert sorted(stored(sky)) == sorted(ids)
    assert events_in(tmp_path) == 0

    async with life(sky, Spool(tmp_path)) as processor:
        assert processor.statistics().total.recovered == 0
    assert len(stored(sky)) == 300


async def test_nothing_is_written_while_all_goes_well(sky: Sky, tmp_path: Path) -> None:
    async with life(sky, Spool(tmp_path)) as processor:
        push(processor, 300)
        await processor.flush()

    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        (greatest,) = connection.execute("SELECT max(row) FROM events").fetchone()
    connection.close()
    assert greatest is None
    assert len(stored(sky)) == 300


async def test_events_from_the_spool_leave_half_of_the_queue_to_pushes(sky: Sky, tmp_path: Path) -> None:
    fill(tmp_path, 1_000)
    sky.weather = refused
    async with life(sky, Spool(tmp_path), queue_capacity=100, drain_timeout=10.0) as processor:
        await until(lambda: processor.statistics().total.recovered >= 50)
        await asyncio.sleep(0.05)
        assert processor.statistics().total.recovered == 50
        assert all(processor.push_goal_event_nowait(USER, "goal").accepted for _ in range(50))
        assert not processor.push_goal_event_nowait(USER, "goal").accepted

        sky.weather = fair
        await until(lambda: processor.statistics().total.delivered == 1_050)
    assert len(set(stored(sky))) == 1_050
    assert events_in(tmp_path) == 0


async def test_closing_amid_recovery_leaves_the_rest_for_later(sky: Sky, tmp_path: Path) -> None:
    ids = fill(tmp_path, 1_000)
    sky.weather = refused
    async with life(sky, Spool(tmp_path), queue_capacity=100, drain_timeout=0.0) as processor:
        await until(lambda: processor.statistics().total.recovered >= 50)
    assert processor.statistics().total.spooled == 50
    assert events_in(tmp_path) == 1_000

    sky.weather = fair
    async with life(sky, Spool(tmp_path)) as processor:
        await until(lambda: processor.statistics().total.delivered == 1_000)
    assert sorted(stored(sky)) == ids


@pytest.mark.fault("F62")
async def test_events_that_are_too_old_expire_and_are_not_sent(sky: Sky, tmp_path: Path, measured: Measured) -> None:
    fill(tmp_path, 500, age=31 * DAY)
    async with life(sky, Spool(tmp_path), event_lifetime=31 * DAY) as processor:
        await until(lambda: processor.statistics().total.recovered == 500)
        await processor.flush()

        assert processor.statistics().total.dropped_by == {"expired": 500}
    assert sky.posts == []
    assert events_in(tmp_path) == 0
    measured("31 days old: 500 of 500 `expired`, none sent")


async def test_an_event_keeps_its_age(sky: Sky, tmp_path: Path) -> None:
    fill(tmp_path, 10, age=3_599.7)
    sky.weather = refused
    async with life(sky, Spool(tmp_path), event_lifetime=3_600.0) as processor:
        await until(lambda: processor.statistics().total.dropped_by == {"expired": 10})


async def test_an_event_from_the_spool_expires_also_behind_younger_ones(sky: Sky, tmp_path: Path) -> None:
    fill(tmp_path, 10, age=3_599.5)
    sky.weather = refused
    async with life(
        sky, Spool(tmp_path), event_lifetime=3_600.0, retry=RetryPolicy(initial=0.5, maximum=0.5)
    ) as processor:
        push(processor, 10)
        await until(lambda: processor.statistics().total.recovered == 10)
        await asyncio.sleep(0.6)
        sky.weather = fair
        await processor.flush()

        assert processor.statistics().total.dropped_by == {"expired": 10}
    assert len(stored(sky)) == 10


# Kills


@pytest.mark.fault("F61")
async def test_a_durable_spool_holds_what_waits_and_nothing_else(sky: Sky, tmp_path: Path, measured: Measured) -> None:
    sky.weather = refused
    async with life(sky, Spool(tmp_path, durable=True), drain_timeout=10.0) as processor:
        began = time.perf_counter()
        push(processor, 1_000)
        await until(lambda: processor.statistics().spool.events == 1_000)  # type: ignore[union-attr]
        seconds = time.perf_counter() - began
        sky.weather = fair
        await processor.flush()
        await until(lambda: processor.statistics().spool.events == 0)  # type: ignore[union-attr]
    assert events_in(tmp_path) == 0
    assert sorted(stored(sky)) == sorted(set(stored(sky)))
    measured(f"1 000 events on disk {seconds * 1000:.0f} ms after the first push")


DOOMED = """
import asyncio, os, sys, time
from bucketeer_async import ApiClient, Processor, ProcessorConfig, RetryPolicy, Spool, User

async def main():
    config = ProcessorConfig(
        flush_interval=0.05, request_timeout=1.0, retry=RetryPolicy(initial=0.02, maximum=0.1),
        spool=Spool(sys.argv[1], durable=True),
    )
    async with ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key") as api_client:
        async with Processor(api_client, config) as processor:
            while True:
                for _ in range(5):
                    receipt = await processor.push_goal_event(User("user"), "goal")
                    print(receipt.event_id, time.time())
                sys.stdout.flush()
                await asyncio.sleep(0.005)

asyncio.run(main())
"""
WEATHERS = [Fault(status=503), Fault(delay=0.05), Fault(delay=3.0), Fault(partial=0.3)]


@pytest.mark.fault("F61")
@pytest.mark.timeout(900)
async def test_sigkill_loses_nothing_that_is_older_than_100_ms(tmp_path: Path, measured: Measured) -> None:
    dice = random.Random(0)
    safe: set[str] = set()
    pushed = 0
    async with LocalGateway() as gateway:
        for _ in range(KILLS):
            gateway.state.clear_faults()
            gateway.fail(replace(dice.choice(WEATHERS)))
            environment = {"BUCKETEER_API_ENDPOINT": gateway.url}
            async with python("-c", DOOMED, str(tmp_path), environment=environment) as child:
                await child.has_written(r"\d\n")
                await asyncio.sleep(dice.uniform(0.0, 0.6))
                killed = time.time()
                await child.kill()
            whole, _, _torn = child.output.rpartition("\n")
            accepted = re.findall(r"^([\da-f-]{36}) ([\d.]+)$", whole, re.MULTILINE)
            pushed += len(accepted)
            safe |= {event_id for event_id, at in accepted if float(at) <= killed - SAFE_AFTER}

        gateway.state.clear_faults()
        await deliver_the_rest(gateway, tmp_path)

        arrived = {event.id for event in gateway.events}
        counts = gateway.state.counts()["goal"]
    assert safe - arrived == set()
    assert counts["unique"] >= len(safe) > 0
    measured(
        f"{KILLS} kills during {pushed} pushes: lost 0 of the {len(safe)} that were older than {SAFE_AFTER * 1000:.0f} ms; "
        f"{counts['accepted'] - counts['unique']} delivered again, with the same id"
    )


async def deliver_the_rest(gateway: LocalGateway, directory: Path) -> None:
    async with ApiClient(endpoint=gateway.url, api_key=KEY) as api_client:
        async with Processor(api_client, replace(CONFIG, spool=Spool(directory), drain_timeout=30.0)) as processor:
            await until(lambda: all_recovered(processor))


# Bad disks


@pytest.mark.parametrize("drain_timeout", [0, 0.3])
async def test_a_drain_whose_tasks_are_cancelled_again_and_again_spools_what_is_left(
    sky: Sky, tmp_path: Path, drain_timeout: float
) -> None:
    async with httpx.AsyncClient(transport=sky) as http:
        before = asyncio.all_tasks()
        api_client = ApiClient(endpoint="http://127.0.0.1", api_key=KEY, http=http)
        config = replace(CONFIG, spool=Spool(tmp_path), drain_timeout=drain_timeout)
        processor = Processor(api_client, config)
        await processor.start()
        sky.weather = refused
        pushed = push(processor, 2500)
        for _ in range(6):
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await asyncio.sleep(0.01)
        report = await processor.aclose()
        await api_client.aclose()

        assert report.total.spooled == len(pushed)
        assert events_in(tmp_path) == len(pushed)
        assert asyncio.all_tasks() == before


@pytest.mark.fault("F62")
async def test_a_second_owner_works_without_and_takes_over_later(
    sky: Sky, tmp_path: Path, caplog: pytest.LogCaptureFixture, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "_RETRY", 0.05)
    async with life(sky, Spool(tmp_path, durable=True)):
        other = life(sky, Spool(tmp_path, durable=True))
        second = await other.__aenter__()
        assert second.statistics().spool.ready is False  # type: ignore[union-attr]
        push(second, 100)
        await second.flush()
        assert len(stored(sky)) == 100
        assert warnings(caplog) == [
            "the spool cannot be used (another process uses it); events are kept in memory alone until it can"
        ]
    await until(lambda: second.statistics().spool.ready)  # type: ignore[union-attr]
    await other.__aexit__(None, None, None)
    measured("in use: 1 warning, 100 of 100 delivered from memory, taken over once it is released")


@pytest.mark.fault("F62")
@pytest.mark.parametrize("way", ["a file", "below a file", "read-only"])
@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_a_bad_disk_costs_one_warning(
    sky: Sky,
    tmp_path: Path,
    way: str,
    durable: bool,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spooling, "_RETRY", 0.05)
    path = tmp_path
    if way in {"a file", "below a file"}:
        (tmp_path / "file").write_text("here")
        path = tmp_path / "file" if way == "a file" else tmp_path / "file" / "spool"
    elif way == "read-only":
        monkeypatch.setattr(SpoolFile, "insert", read_only)
    sky.weather = refused
    async with life(sky, Spool(path, durable=durable), drain_timeout=0.2) as processor:
        push(processor, 600)
        if durable or way.endswith("file"):
            await until(lambda: len(warnings(caplog)) == 1)
            await asyncio.sleep(0.2)
        assert len(warnings(caplog)) <= 1
        if durable:
            sky.weather = fair
            await processor.flush()
            assert processor.statistics().total.delivered == 600
    report = await processor.aclose()
    assert len(warnings(caplog)) == 1
    assert report.total.spooled == 0
    assert report.total.undelivered + report.total.unconfirmed == (0 if durable else 600)
    measured(f"{way}: 1 warning, the service continues")


@pytest.mark.fault("F62")
@pytest.mark.parametrize("durable", [False, True], ids=["drain", "durable"])
async def test_a_full_spool_takes_what_fits(
    sky: Sky, tmp_path: Path, durable: bool, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    sky.weather = refused
    async with life(sky, Spool(tmp_path, durable=durable, max_bytes=128 * 1024), drain_timeout=0.2) as processor:
        push(processor, 600)
        if durable:
            await until(lambda: len(warnings(caplog)) == 1)
    report = await processor.aclose()

    assert [words for words in warnings(caplog) if "spool" in words.partition("(")[0]] == [
        "the spool cannot be used (database or disk is full); events are kept in memory alone until it can"
    ]
    assert 250 < report.total.spooled == events_in(tmp_path) < 600
    assert report.total.spooled + report.total.undelivered + report.total.unconfirmed == 600
    measured(f"full: {report.total.spooled} of 600 fit, 1 warning")


@pytest.mark.fault("F62")
async def test_what_is_reported_as_spooled_is_in_the_file(sky: Sky, tmp_path: Path) -> None:
    """Also if the event without room comes first."""
    ids = fill(tmp_path, 200)
    sky.weather = refused
    large = User("user", {"attribute": "x" * 20_000})
    async with life(sky, Spool(tmp_path, durable=True, max_bytes=96 * 1024), drain_timeout=0.2) as processor:
        receipts = [processor.push_goal_event_nowait(large, "goal") for _ in range(5)]
        await until(lambda: processor.statistics().total.recovered == 200)
    report = await processor.aclose()

    written = [receipt for receipt in receipts if receipt.outcome and receipt.outcome.fate is Fate.SPOOLED]
    assert report.total.spooled == 200 + len(written) < 205
    assert events_in(tmp_path) == report.total.spooled
    sky.weather = fair
    async with life(sky, Spool(tmp_path)) as processor:
        await until(lambda: processor.statistics().total.delivered == report.total.spooled)
    assert sorted(stored(sky)) == sorted([*ids, *(receipt.event_id for receipt in written)])


@pytest.mark.fault("F62")
async def test_a_spool_that_cannot_be_used_does_not_fill_the_memory(
    sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "_RETRY", 0.05)
    (tmp_path / "file").write_text("here")
    async with life(sky, Spool(tmp_path / "file", durable=True)) as processor:
        push(processor, 1_000)
        await processor.flush()
        spooler = processor._pipeline.spooler
        assert spooler is not None
        await until(lambda: not spooler._accepted and not spooler._settled)


CLAIM = """
import sys
from pathlib import Path
from bucketeer_async._events._spool_access import SpoolError
from bucketeer_async._events._spool_file import SpoolFile
try:
    SpoolFile(Path(sys.argv[1]), 2**20)
    print("taken")
except SpoolError as error:
    print(error)
"""


async def test_a_second_processor_does_not_take_the_spool_from_the_first(sky: Sky, tmp_path: Path) -> None:
    """Closing any handle of a file releases all locks that the process has on it."""
    async with life(sky, Spool(tmp_path, durable=True)), life(sky, Spool(tmp_path, durable=True)) as second:
        assert second.statistics().spool.ready is False  # type: ignore[union-attr]
        async with python("-c", CLAIM, str(tmp_path)) as child:
            await child.ended()

        assert child.output == "another process uses it\n"


def read_only(_file: SpoolFile, events: Any) -> int:
    if not events:
        return 0
    raise SpoolError("attempt to write a readonly database")


@pytest.mark.fault("F62")
@pytest.mark.parametrize("damage", ["torn", "flipped", "garbage"])
async def test_what_can_be_read_of_a_damaged_file_is_delivered(
    sky: Sky, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    ids = fill(tmp_path, 2_000)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    if damage == "torn":
        del content[len(content) * 2 // 3 :]
    elif damage == "flipped":
        content[content.index(ids[1_000].encode())] ^= 1
    else:
        content[:] = random.Random(0).randbytes(len(content))
    path.write_bytes(content)

    async with life(sky, Spool(tmp_path)) as processor:
        push(processor, 10)
        await until(lambda: all_recovered(processor))
        corrupt = processor.statistics().spool.corrupt  # type: ignore[union-attr]
        recovered = processor.statistics().total.recovered
    assert len(stored(sky)) == recovered + 10
    assert corrupt >= 1
    assert {"torn": 1_000 < recovered < 2_000, "flipped": recovered == 1_999, "garbage": recovered == 0}[damage]
    told = [words for words in warnings(caplog) if "damaged" in words]
    assert len(told) == 1
    measured(f"{damage}: {recovered} of 2 000 delivered, 1 warning")


class StuckFile:
    """A disk that does not respond: the file opens, and every later call hangs until it is released."""

    corrupt = size = unknown = left = 0
    let_go = threading.Event()

    def __init__(self, directory: Path, *_: object, **__: object) -> None:
        self.directory = directory
        self.let_go.clear()

    def __len__(self) -> int:
        return 0

    def check_in_place(self) -> None: ...

    def earlier_events(self, _after: int) -> list[Any]:
        return []

    def delete(self, _rows: object) -> None: ...

    def insert(self, events: Any) -> int:
        if events:
            self.let_go.wait(20)
        return 1

    def close(self) -> None: ...


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spooling, "SpoolFile", StuckFile)
    yield
    StuckFile.let_go.set()


@pytest.mark.fault("F62")
@pytest.mark.usefixtures("stuck")
async def test_a_disk_that_does_not_answer_is_not_waited_for(
    sky: Sky, tmp_path: Path, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    sky.weather = refused
    async with life(sky, Spool(tmp_path), drain_timeout=0.1) as processor:
        push(processor, 100)
        began = time.perf_counter()
    seconds = time.perf_counter() - began
    report = await processor.aclose()

    assert report.total.undelivered + report.total.unconfirmed == 100
    assert [words for words in warnings(caplog) if "spool" in words.partition("(")[0]] == [
        "the spool cannot be used (the disk does not respond); events are kept in memory alone until it can"
    ]
    measured(f"unresponsive: 1 warning, closed {seconds - 0.1:.1f} s after the deadline")


async def test_what_was_written_too_late_is_not_sent_by_the_next_process(
    sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was reported as not delivered is not delivered later."""
    insert = SpoolFile.insert

    def slow(file: SpoolFile, events: Any) -> int:
        time.sleep(0.5)
        return insert(file, events)

    monkeypatch.setattr(SpoolFile, "insert", slow)
    monkeypatch.setattr(spooling, "_PATIENCE", 0.1)
    sky.weather = refused
    async with life(sky, Spool(tmp_path), drain_timeout=0.0) as processor:
        push(processor, 10)
        thread = processor._pipeline.spooler._thread  # type: ignore[union-attr]
    assert processor.statistics().total.dropped == 10
    await asyncio.to_thread(thread.join)

    assert events_in(tmp_path) == 0


@pytest.mark.fault("F62")
async def test_a_large_spool_does_not_hold_up_the_start(sky: Sky, tmp_path: Path, measured: Measured) -> None:
    count = MEGABYTES * 1_000
    fill(tmp_path, count, size=900)
    megabytes = (tmp_path / FILE_NAME).stat().st_size / 2**20
    sky.weather = refused
    began = time.perf_counter()
    async with life(sky, Spool(tmp_path), drain_timeout=0.0):
        seconds = time.perf_counter() - began

    assert events_in(tmp_path) == count
    measured(f"start with {megabytes:.0f} MB: {seconds:.2f} s")


# Forks

FORK = """
import asyncio, os, sys
from bucketeer_async import ApiClient, Processor, ProcessorConfig, Spool, User

async def push(processor, count):
    for _ in range(count):
        await processor.push_goal_event(User("user"), "goal")

async def parent():
    await processor.start()
    await push(processor, 90)  # not enough for a batch: they wait
    while processor.statistics().spool.events < 90:
        await asyncio.sleep(0.01)

async def child():
    async with api_client, processor:
        print("child:", processor.statistics().spool.ready, flush=True)
        await push(processor, 10)
    print("child:", processor.statistics().total.delivered, "delivered", flush=True)

api_client = ApiClient(endpoint=os.environ["BUCKETEER_API_ENDPOINT"], api_key="client-key")
processor = Processor(api_client, ProcessorConfig(spool=Spool(sys.argv[1], durable=True)))
loop = asyncio.new_event_loop()
loop.run_until_complete(parent())
pid = os.fork()
if not pid:
    asyncio.run(child())
    os._exit(0)
assert os.waitpid(pid, 0) == (pid, 0)
loop.run_until_complete(processor.aclose())
loop.run_until_complete(api_client.aclose())
loop.close()
total = processor.statistics().total
print("parent:", total.recovered, "recovered,", total.delivered, "delivered", flush=True)
"""


@pytest.mark.fault("F56", "F62")
async def test_a_forked_child_leaves_the_spool_alone(tmp_path: Path) -> None:
    async with LocalGateway() as gateway:
        environment = {"BUCKETEER_API_ENDPOINT": gateway.url}
        async with python("-c", FORK, str(tmp_path), environment=environment) as child:
            status = await child.ended()

        assert status == 0, child.output
        assert [line for line in child.output.splitlines() if line.startswith(("child", "parent"))] == [
            "child: False",
            "child: 10 delivered",
            "parent: 0 recovered, 90 delivered",
        ]
        assert gateway.state.counts()["goal"] == {"accepted": 100, "unique": 100}
    assert events_in(tmp_path) == 0
    assert os.listdir(tmp_path) == [FILE_NAME]  # noqa: PTH208 - names are enough


@pytest.mark.fault("F76")
@pytest.mark.parametrize("durable", [False, True])
async def test_a_poison_in_the_spool_begins_in_quarantine_at_each_start(
    tmp_path: Path, sky: Sky, durable: bool, measured: Measured
) -> None:
    async def poisoned(request: httpx.Request, way: Any) -> httpx.Response:
        return await (answer(500) if b"poison" in request.content else fair)(request, way)

    sky.weather = poisoned
    spool = Spool(tmp_path, durable=durable)
    slowest = 0.0
    for start in range(4):
        async with life(sky, spool, drain_timeout=2.0) as processor:
            if start == 0:
                processor.push_goal_event_nowait(USER, "poison")
            else:
                await until(lambda processor=processor: processor.statistics().total.recovered == 1)
                assert processor.statistics().total.quarantined + processor.statistics().total.in_flight == 1
            began = time.monotonic()
            good = [processor.push_goal_event_nowait(USER, f"goal-{number}") for number in range(200)]
            for receipt in good:
                assert (await receipt.settled()).fate is Fate.DELIVERED
            slowest = max(slowest, time.monotonic() - began)
            if start == 0:
                await until(lambda processor=processor: processor.statistics().total.quarantined == 1)

    assert slowest < 5.0
    measured(f"{'durable' if durable else 'plain'} spool: the good events of each of 4 starts within {slowest:.1f} s")
