"""The command line that shows, checks and purges a spool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bucketeer_async import spool
from bucketeer_async._events._spool_file import FILE_NAME, SpoolFile
from bucketeer_async._models import EventKind

LARGE = 2**26
SECRET = b"user-of-the-test"


def write(directory: Path, count: int = 1_000) -> Path:
    file = SpoolFile(directory, LARGE)
    kinds = list(EventKind)
    file.insert([(kinds[n % 2], f"id-{n}", 60.0 * n, b'{"userId":"%s"}' % SECRET) for n in range(count)])
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


@pytest.mark.parametrize("command", ["show", "check", "purge"])
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
