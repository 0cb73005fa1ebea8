"""A spool on real file systems: one that is full, one that takes no more, one that is read-only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Measured = Callable[[str], None]

ROOT = Path(__file__).parents[2]

#: Runs as root of a namespace of its own, where it may mount.
DISK = """
import asyncio, json, logging, os, resource, subprocess, sys
from pathlib import Path
from bucketeer_async import Spool
from bucketeer_async._events import _spool_writer
from bucketeer_async._events._spool_file import FILE_NAME
from bucketeer_async.gateway import GatewayState
from tests.faults.spools import all_recovered, fill, life, push, stored, until
from tests.faults.world import Sky, fair, refused

directory, way, durable = sys.argv[1], sys.argv[2], sys.argv[3] == "durable"
_spool_writer._RETRY = 0.1
spool = Spool(directory, durable=durable)
sky = Sky(GatewayState())
lines = []
told = logging.Handler(logging.WARNING)
told.emit = lambda record: lines.append(record.getMessage()) if record.getMessage().startswith("the spool") else None
logging.getLogger("bucketeer_async").addHandler(told)

def mount(options, *more):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, *more, "spool", directory], check=True)

def narrow():
    if way == "tmpfs":
        mount("size=900k")
    elif way == "RLIMIT_FSIZE":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, resource.RLIM_INFINITY))
    else:
        mount("size=64m")

def widen():
    if way == "RLIMIT_FSIZE":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        mount("remount,rw,size=64m")

async def full():
    sky.weather = refused
    narrow()
    async with life(sky, spool, drain_timeout=0.5) as processor:
        pushed = push(processor, 6_000)
        if durable:
            await until(lambda: lines)
    total = (await processor.aclose()).total
    widen()
    sky.weather = fair
    async with life(sky, spool) as processor:
        await until(lambda: all_recovered(processor))
    return pushed, total.spooled, total.undelivered + total.unconfirmed, processor.statistics().spool.corrupt

async def full_for_a_while():
    narrow()
    sky.weather = refused
    async with life(sky, spool, drain_timeout=0.5) as processor:
        pushed = push(processor, 6_000)
        await until(lambda: lines)
        widen()
        await until(lambda: processor.statistics().spool.events == 6_000)
    total = (await processor.aclose()).total
    sky.weather = fair
    async with life(sky, spool) as processor:
        await until(lambda: all_recovered(processor))
    return pushed, total.spooled, 0, processor.statistics().spool.corrupt

async def damaged():
    narrow()
    fill(Path(directory), 1_500)
    os.truncate(Path(directory) / FILE_NAME, 300_000)
    (Path(directory) / "other").write_bytes(bytes(400_000))  # there is no room for two such files
    async with life(sky, spool) as processor:
        await until(lambda: lines)
        assert not processor.statistics().spool.ready
        await until(lambda: sorted(os.listdir(directory)) == [FILE_NAME, "other"])  # between two tries the disk is as it was
        widen()
        await until(lambda: all_recovered(processor))
        state = processor.statistics().spool
    return stored(sky), len(stored(sky)), state.left, state.corrupt

async def read_only():
    narrow()
    sky.weather = refused
    async with life(sky, spool, drain_timeout=0.0) as processor:
        pushed = push(processor, 60)
    mount("remount,ro")
    sky.weather = fair
    async with life(sky, spool) as processor:  # the spool cannot be used, everything else can
        pushed += push(processor, 60)
        await processor.flush()
        assert len(stored(sky)) == 60, len(stored(sky))
        assert not processor.statistics().spool.ready
        mount("remount,rw")
        await until(lambda: all_recovered(processor))
    return pushed, 60, 0, processor.statistics().spool.corrupt

pushed, spooled, lost, corrupt = asyncio.run({"read-only": read_only, "again": full_for_a_while, "damaged": damaged}.get(sys.argv[4], full)())
assert set(stored(sky)) <= set(pushed)
print(json.dumps({
    "pushed": len(pushed), "spooled": spooled, "lost": lost, "corrupt": corrupt,
    "delivered": len(set(stored(sky))), "twice": len(stored(sky)) - len(set(stored(sky))), "lines": lines,
}))
"""


def run(directory: Path, way: str, durable: str, story: str) -> dict[str, Any]:
    directory.mkdir()
    command = [sys.executable, "-c", DISK, str(directory), way, durable, story]
    if way != "RLIMIT_FSIZE":
        namespace = ["unshare", "--user", "--map-root-user", "--mount"]
        if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
            pytest.skip("file systems can be mounted by everybody on Linux alone")
        probe = subprocess.run(
            [*namespace, "mount", "-t", "tmpfs", "spool", str(directory)], capture_output=True, text=True, check=False
        )
        if probe.returncode:
            pytest.skip(f"this machine lets nobody mount a file system: {probe.stderr.strip()}")
        command = [*namespace, *command]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


@pytest.mark.fault("F62")
@pytest.mark.parametrize("durable", ["drain", "durable"])
@pytest.mark.parametrize("way", ["tmpfs", "RLIMIT_FSIZE"])
def test_a_disk_that_is_full_keeps_what_fits_and_says_so(
    tmp_path: Path, way: str, durable: str, measured: Measured
) -> None:
    result = run(tmp_path / "disk", way, durable, "full")

    assert 300 < result["spooled"] < 6_000
    assert result["spooled"] + result["lost"] == result["pushed"] == 6_000
    assert result["delivered"] == result["spooled"]
    assert result["twice"] == result["corrupt"] == 0
    assert len(result["lines"]) == 1
    measured(f"full disk ({way}): {result['spooled']} of 6 000 fit, 1 warning")


@pytest.mark.parametrize("way", ["tmpfs", "RLIMIT_FSIZE"])
def test_a_disk_that_was_full_for_a_while_takes_the_rest_later(tmp_path: Path, way: str) -> None:
    result = run(tmp_path / "disk", way, "durable", "again")

    assert result["spooled"] == result["delivered"] == 6_000
    assert result["twice"] == result["corrupt"] == 0
    assert len(result["lines"]) == 1


def test_a_damaged_file_waits_for_a_disk_with_room_for_what_can_be_read(tmp_path: Path) -> None:
    result = run(tmp_path / "disk", "tmpfs", "drain", "damaged")

    assert 1_000 < result["delivered"] < 1_500
    assert (result["twice"], result["lost"]) == (0, 0)
    assert result["corrupt"] >= 1
    assert "full" in result["lines"][0]


@pytest.mark.fault("F62")
@pytest.mark.parametrize("durable", ["drain", "durable"])
def test_a_disk_that_is_read_only_for_a_while(tmp_path: Path, durable: str, measured: Measured) -> None:
    result = run(tmp_path / "disk", "read-only", durable, "read-only")

    assert result["delivered"] == result["pushed"] == 120
    assert result["twice"] == result["corrupt"] == 0
    assert len(result["lines"]) == 1
    assert "Read-only file system" in result["lines"][0]
    measured("read-only for a while: 120 of 120 delivered")
