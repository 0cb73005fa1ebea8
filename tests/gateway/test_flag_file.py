"""Flags from a file: valid content, reloads on changes, and invalid files, which change nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bucketeer_async import ApiClient, ConfigurationError, EventKind, User
from bucketeer_async._proto._pool import message_class
from bucketeer_async.gateway import GatewayState, GoalCounts, LocalGateway, RecordedEvent, experiment, flag
from bucketeer_async.gateway._flag_file import FlagFile

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "examples" / "flags.yaml"
TIME = 1_800_000_000
TIMES = itertools.count(1_000_000_000)
EXPERIMENT = experiment("e", feature_id="a", goal_ids=["goal"])
EVALUATION = message_class("bucketeer.event.client.EvaluationEvent")(
    timestamp=TIME, feature_id="a", feature_version=1, variation_id="on", user_id="user"
)
GOAL = message_class("bucketeer.event.client.GoalEvent")(timestamp=TIME, goal_id="goal", user_id="user")


class Turns:
    """A fake sleep that the test ends, and that reports the next sleep to the test."""

    def __init__(self) -> None:
        self.intervals: list[float] = []
        self._asleep = asyncio.Event()
        self._wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.intervals.append(seconds)
        self._asleep.set()
        await self._wake.wait()
        self._wake.clear()

    async def turn(self) -> None:
        """Wait for one check of the file."""
        await self._asleep.wait()
        self._asleep.clear()
        self._wake.set()
        await self._asleep.wait()


def write(path: Path, *flags: dict[str, Any], segments: Any = (), experiments: Any = ()) -> None:
    write_text(path, json.dumps({"flags": flags, "segments": segments, "experiments": experiments}))


def write_text(path: Path, text: str) -> None:
    """Write a file as an editor does, with a new modification time even if the file system's clock is coarse."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.utime(draft, (next(TIMES),) * 2)
    draft.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flags.json"


@pytest.fixture
def state() -> GatewayState:
    return GatewayState(now=lambda: TIME)


@contextlib.asynccontextmanager
async def followed(path: Path, state: GatewayState) -> AsyncIterator[Turns]:
    turns = Turns()
    async with FlagFile(path, state, interval=0.5, sleep=turns.sleep).followed():
        yield turns
    assert set(turns.intervals) <= {0.5}


async def test_a_change_of_the_file_is_a_change_of_the_flags(path: Path, state: GatewayState) -> None:
    write(path, flag("a"), flag("b"), flag("c"), segments=[{"segmentId": "s"}, {"segmentId": "t"}])
    async with followed(path, state) as turns:
        segment = state.environment.segments["s"]
        write(
            path, flag("a"), flag("b", enabled=False), segments=[{"segmentId": "s"}, {"segmentId": "t", "users": ["u"]}]
        )
        assert state.flag("b")["enabled"] is True
        await turns.turn()

        assert {each: state.flag(each)["version"] for each in state.environment.flags} == {"a": 1, "b": 2}
        assert state.environment.segments["s"] is segment
        assert state.environment.segments["t"].compiled.members == {"u"}


async def test_a_file_that_does_not_change_is_not_read(path: Path, state: GatewayState) -> None:
    write(path, flag("a"))
    async with followed(path, state) as turns:
        state.update_flag("a", enabled=False)
        await turns.turn()

        assert state.flag("a")["enabled"] is False
        write(path, flag("b"))
        await turns.turn()
        assert state.environment.flags.keys() == {"b"}


async def test_a_change_of_the_file_is_a_change_of_the_experiments(path: Path, state: GatewayState) -> None:
    write(path, flag("a"), experiments=[EXPERIMENT, EXPERIMENT | {"id": "f"}])
    async with followed(path, state) as turns:
        assert state.experiments() == {"e": {}, "f": {}}
        state.record([RecordedEvent("1", EventKind.EVALUATION, EVALUATION), RecordedEvent("2", EventKind.GOAL, GOAL)])
        write(path, flag("a", enabled=False), experiments=[EXPERIMENT | {"stopAt": TIME}, EXPERIMENT | {"id": "f"}])
        await turns.turn()

        assert state.experiments() == {"e": {}, "f": {"on": GoalCounts(linked=1)}}


def break_syntax(path: Path) -> None:
    write_text(path, '{"flags": [')


def break_flag(path: Path) -> None:
    write(path, flag("a", default="maybe"))


def break_experiment(path: Path) -> None:
    write(path, flag("b"), experiments=[EXPERIMENT])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_syntax, "flags.json: Expecting value: line 1 column 12"),
        (break_flag, "flags.json: flags[0]: flag 'a': defaultStrategy.fixedStrategy.variation must be one of off, on"),
        (
            break_experiment,
            "flags.json: experiment 'e': featureId must be the id of a flag of this gateway, not 'a'",
        ),
        (Path.unlink, "flags.json: No such file or directory"),
    ],
)
async def test_a_broken_file_changes_nothing_and_says_once_what_is_wrong(
    path: Path,
    state: GatewayState,
    spoil: Callable[[Path], object],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(path, flag("a"))
    async with followed(path, state) as turns:
        spoil(path)
        await turns.turn()
        await turns.turn()

        assert state.flag("a")["version"] == 1
        assert message in state.flags_problem
        assert len(caplog.messages) == 1
        assert message in caplog.text

        write(path, flag("a", enabled=False))
        await turns.turn()
        assert state.flag("a")["version"] == 2
        assert state.flags_problem == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("flags.json", "[]", "the content must be an object, not list"),
        ("flags.json", '{"flag": []}', "flag is not a field; did you mean flags?"),
        ("flags.json", '{"flags": {}}', "flags must be a list, not dict"),
        ("flags.json", '{"experiments": {}}', "experiments must be a list, not dict"),
        ("flags.json", '{"experiments": [{"id": "e"}]}', "experiments[0]: experiment 'e': featureId is missing"),
        ("flags.json", "[" * 500, "Expecting value"),
        ("flags.json", "[" * 501 + "]" * 501, "the content is nested more than 500 levels deep"),
        ("flags.json", "[" * 100_000, "the content is nested more than 500 levels deep"),
        ("flags.yaml", "[" * 100 + "]" * 100, "the content must be an object, not list"),
        ("flags.yaml", "[" * 101 + "]" * 101, "the content is nested more than 100 levels deep"),
        ("flags.yaml", "".join(f"{' ' * depth}a:\n" for depth in range(200)), "nested more than 100 levels deep"),
        ("flags.yaml", "flags: [", "while parsing a flow node"),
        ("flags.yaml", "", "the content must be an object, not NoneType"),
        (
            "flags.yaml",
            "segments: [{segmentId: 5}]",
            "segments[0]: segment 5: segmentId must be a str, not int; quote it",
        ),
        (
            "flags.yml",
            "flags:\n- id: a\n  variations: [{id: on, value: true}]",
            "variations[0].value must be a str, not bool",
        ),
        ("flags.toml", "", "the suffix of a flag file must be .json, .yaml or .yml, not '.toml'"),
        ("flags.json", "\udcff", "codec can't decode"),
    ],
)
@pytest.mark.usefixtures("recursion_limit")
async def test_a_file_that_is_wrong_from_the_start_is_an_error(
    tmp_path: Path, state: GatewayState, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ConfigurationError, match=f"{re.escape(name)}: .*{re.escape(message)}"):
        await FlagFile(path, state).load()
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        async with LocalGateway(flags_file=path):
            pass


async def test_yaml_without_pyyaml_says_what_to_install(
    tmp_path: Path, state: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bucketeer_async.gateway._flag_yaml", None)
    path = tmp_path / "flags.yaml"
    path.write_text("flags: []")

    with pytest.raises(ConfigurationError, match=re.escape('pip install "bucketeer-async[gateway,yaml]"')):
        await FlagFile(path, state).load()


async def test_on_and_off_are_text_in_yaml_and_so_are_dates(tmp_path: Path, state: GatewayState) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(
        "flags:\n- id: 2026-01-02\n  enabled: true\n  archived: false\n  variations: [{id: on}, {id: No}]\n"
        "  defaultStrategy: {fixedStrategy: {variation: on}}\n"
    )

    await FlagFile(path, state).load()

    fields = state.flag("2026-01-02")
    assert (fields["enabled"], fields["archived"]) == (True, False)
    assert [each["id"] for each in fields["variations"]] == ["on", "No"]


async def test_the_example_is_served() -> None:
    async with LocalGateway(flags_file=EXAMPLE) as gateway:
        async with ApiClient(endpoint=gateway.url, api_key="client-key") as api:
            served = {}
            for user in (User("alice"), User("user-7"), User("x", {"email": "x@example.com"})):
                answers = [await api.get_evaluation(user, each, tag="shop") for each in ("new-checkout", "banner")]
                served[user.id] = [answer.evaluation.variation_id for answer in answers if answer.evaluation]

    assert gateway.state.experiments() == {"checkout-test": {}}
    assert served == {"alice": ["on", "loud"], "user-7": ["off", "plain"], "x": ["on", "loud"]}


def test_a_file_stands_for_all_definitions(path: Path) -> None:
    with pytest.raises(ValueError, match="give either these, or flags_file"):
        LocalGateway(flags=[flag("a")], flags_file=path)
    with pytest.raises(ValueError, match="give either these, or flags_file"):
        LocalGateway(experiments=[EXPERIMENT], flags_file=path)
