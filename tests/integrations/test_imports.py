"""What an import loads, and that nothing is loaded on the event loop, where an import would be a stall."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bucketeer_async

#: Notes the modules that the thread of the loop loads, from when it runs.
RECORDER = """
import asyncio, logging, sys, tempfile, threading

class Recorder:
    def __init__(self):
        self.names, self.thread = [], threading.get_ident()

    def find_spec(self, name, path=None, target=None):
        if threading.get_ident() == self.thread:
            self.names.append(name)

async def answer(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        length = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0].split(b":")[1]))
        body = BODIES[head.split()[1]]
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body))
        writer.write(body)

BODIES = {
    b"/register_events": b'{"errors":{}}',
    b"/get_evaluation": b'{"evaluation":{"featureId":"flag","variationId":"v","variationValue":"true","reason":{}}}',
    b"/get_feature_flags": b'{"featureFlagsId":"1","features":[],"archivedFeatureFlagIds":[],"requestedAt":"1"}',
    b"/get_segment_users": b'{"segmentUsers":[],"deletedSegmentIds":[],"requestedAt":"1"}',
}
logging.disable()
"""
LIFE = """
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    recorder = Recorder()
    sys.meta_path.insert(0, recorder)
    async with {made} as client:
        await client.bool_variation(User("user"), "flag", False)
        await client.track(User("user"), "purchase")
        assert await client.flush(30), "the events were not delivered"
        assert client.statistics().total.delivered > 1
    print(*[name for name in recorder.names if name in sys.modules])
    server.close()

asyncio.run(main())
"""
CLIENTS = {
    "remote": ("Client, User", 'Client(endpoint=endpoint, api_key="key", tag="shop")'),
    "local": (
        "Client, LocalEvaluation, User",
        'Client(endpoint=endpoint, api_key="key", tag="shop", local_evaluation=LocalEvaluation())',
    ),
    "spool": (
        "Client, ProcessorConfig, Spool, User",
        'Client(endpoint=endpoint, api_key="key", tag="shop", events=ProcessorConfig(spool=Spool(tempfile.mkdtemp())))',
    ),
}


def printed_by(code: str) -> list[str]:
    """Return the words that a fresh process prints."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.parametrize(("names", "made"), CLIENTS.values(), ids=CLIENTS)
def test_nothing_is_imported_on_the_event_loop(names: str, made: str) -> None:
    code = f"from bucketeer_async import {names}\n{RECORDER}\n{LIFE.format(made=made)}"

    assert printed_by(code) == []


def loaded_by(code: str) -> set[str]:
    """Return the modules of the package that a statement loads in a fresh process."""
    names = printed_by(f"{code}\nimport sys; print(*[name for name in sys.modules if name.startswith('bucketeer_')])")
    return {name.removeprefix("bucketeer_async.") for name in names}


@pytest.mark.parametrize("code", ["import bucketeer_async", "from bucketeer_async import Client, ProcessorConfig"])
def test_an_import_leaves_out_what_not_every_client_needs(code: str) -> None:
    loaded = loaded_by(code)

    assert {"_client", "_events._batch", "_flags._remote", "_transport._http"} <= loaded
    assert {name for name in loaded if name.startswith("_evaluation.")} == {"_evaluation._errors"}
    assert not loaded & {"_flags._local", "_flags._poller", "_flags._sync", "_flags._snapshot_file"}
    assert not {name for name in loaded if name.startswith(("_events._spool", "_proto", "gateway"))}


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("from bucketeer_async import LocalEvaluation", {"_flags._local", "_flags._poller", "_evaluation._evaluate"}),
        ("import bucketeer_async; bucketeer_async.LocalEvaluation", {"_flags._local", "_flags._poller"}),
        ("from bucketeer_async import Spool", {"_events._spool_writer", "_events._spool_file"}),
        ("from bucketeer_async import Explanation", {"_evaluation._explanation"}),
        ("from bucketeer_async import *", {"_flags._local", "_events._spool_writer"}),
    ],
)
def test_naming_options_loads_what_they_are_for(code: str, modules: set[str]) -> None:
    assert modules <= loaded_by(code)


def test_a_spool_can_be_named_where_there_is_no_sqlite() -> None:
    assert printed_by("import sys; sys.modules['_sqlite3'] = None\nfrom bucketeer_async import Spool; print('named')")


def test_names_that_are_not_loaded_are_listed() -> None:
    assert {"LocalEvaluation", "Spool", "Client"} <= set(printed_by("import bucketeer_async as b; print(*dir(b))"))


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'bucketeer_async' has no attribute 'Missing'"):
        bucketeer_async.Missing  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'bucketeer_async\._evaluation' has no attribute 'missing'"):
        bucketeer_async._evaluation.missing  # type: ignore[attr-defined] # noqa: B018
