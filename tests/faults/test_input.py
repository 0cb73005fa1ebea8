"""Bad input, from strange text to objects that raise: at most the bad event is lost, and never a batch."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import fractions
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bucketeer_async import (
    ApiClient,
    ApiId,
    Client,
    ConfigurationError,
    Evaluation,
    EventKind,
    Fate,
    LocalEvaluation,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    RefusedReason,
    RequestTimeoutError,
    StatusError,
    User,
)
from bucketeer_async.gateway import GatewayState, create_app, flag
from tests.clock import VirtualLoop
from tests.faults.world import EVALUATION, USER, Way, Weather, World, world

Measured = Callable[[str], None]

MIB = 2**20
TEXTS = [
    "🦊👩‍👩‍👧‍👦🏳️‍🌈",
    "שלום \u202eعالم\u202c",
    "\x00",
    "a\x00b",
    "\x01\x1f\x7f\x85\u2028\u2029\ufeff\ufffe\uffff",
    "\U0010ffff𠜎",
    "e\u0301 ≠ é",
    '"\\/\b\f\n\r\t{}[]</script>',
    "$type @type true null",
    " ",
]
LONE_SURROGATES = ["\ud800", "\udfff", "a\udc80b", "\ude00\ud83d"]
NUMBERS: list[Any] = [
    0.0,
    -0.0,
    5e-324,
    -1.7976931348623157e308,
    0.1,
    1e16,
    1e-7,
    2**53 + 1,
    -(2**70),
    10**300,
    10**308,
]
NUMBERS += [decimal.Decimal("49.90"), decimal.Decimal("-0"), fractions.Fraction(1, 3)]
NOT_FINITE: list[Any] = [math.nan, math.inf, -math.inf, 1e309, 10**309, -(10**5000)]
NOT_FINITE += [
    fractions.Fraction(10**400),
    decimal.Decimal("sNaN"),
    decimal.Decimal("-Infinity"),
    decimal.Decimal("1e400"),
]


class CountingLoop(VirtualLoop):
    """An event loop that counts its turns."""

    turn = 0

    def _run_once(self) -> None:
        self.turn += 1
        super()._run_once()  # type: ignore[misc]


class Nasty:
    """Raises an exception on every access."""

    def _raise(self, *_args: object) -> Any:
        raise RuntimeError("nasty")

    __str__ = __repr__ = __len__ = __bool__ = __hash__ = __iter__ = __eq__ = __format__ = _raise  # type: ignore[assignment]
    __int__ = __float__ = __index__ = __bytes__ = __getattr__ = __getitem__ = __contains__ = _raise


class LazyProxy(Nasty):
    """A proxy without an object, like a web framework's proxy outside a request."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("working outside of a request")


class NastyError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nasty")

    __repr__ = __str__


class NastyValueError(ValueError, NastyError):
    """An error like one of our own, whose text cannot be had."""


class NastyProxy(Nasty):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise NastyValueError


class NastierProxy(Nasty):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise ValueError(Nasty())


class NastyInt(int):
    def __format__(self, _spec: str) -> str:
        raise RuntimeError("nasty")

    __str__ = __repr__ = lambda self: self.__format__("")


class NastyFloat(float):
    def __float__(self) -> float:
        raise RuntimeError("nasty")

    def __repr__(self) -> str:
        raise RuntimeError("nasty")


WRONG: list[Any] = [
    None,
    b"bytes",
    5,
    5.5,
    decimal.Decimal(1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    ["list"],
    {"a": "mapping"},
    object(),
    str,
    lambda: "",
    Nasty(),
    LazyProxy(),
]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": CountingLoop}


def noting(statuses: Counter[int]) -> Weather:
    """No faults; count the responses by status."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        answer = await way(request)
        statuses[answer.status_code] += 1
        return answer

    return weather


def stored(here: World) -> dict[str, Any]:
    return {event.id: event.message for event in here.state.events}


def refusals(receipts: list[Receipt]) -> Counter[str]:
    return Counter(receipt.outcome.reason for receipt in receipts if receipt.outcome)


# Text


@pytest.mark.fault("F50")
async def test_strange_text_arrives_as_it_is(measured: Measured) -> None:
    statuses: Counter[int] = Counter()
    async with world(ProcessorConfig(tag="tag", flush_interval=1.0)) as here:
        here.sky.weather = noting(statuses)
        push = here.processor
        sent: dict[str, str] = {}
        for text in TEXTS:
            user = User(text, {text: text, "name": text})
            evaluation = Evaluation(feature_id=text, variation_id=text, reason=Reason(ReasonType.RULE, text))
            pushed = [
                await push.push_goal_event(user, text),
                await push.push_evaluation_event(user, evaluation),
                await push.push_default_evaluation_event(user, text),
                await push.push_error_metrics_event(ValueError(text), ApiId.GET_EVALUATION),
            ]
            here.receipts += pushed
            sent |= {receipt.event_id: text for receipt in pushed[:3]}
        await here.processor.flush()

        arrived = stored(here)
        for event_id, text in sent.items():
            message = arrived[event_id]
            assert (message.user.id, message.user_id) == (text, text)
            assert dict(message.user.data) == {text: text, "name": text}
            assert getattr(message, "goal_id", "") == text or message.feature_id == text
        assert here.lost == here.repeated == 0
        assert statuses.keys() == {200}
        measured(f"{len(TEXTS)} unusual texts arrive unchanged, no 400")


@pytest.mark.fault("F50")
@pytest.mark.parametrize("text", LONE_SURROGATES, ids=ascii)
async def test_a_lone_surrogate_is_refused_where_the_value_is_made(text: str) -> None:
    made: list[Callable[[], object]] = [
        lambda: User(text),
        lambda: User("user", {text: "value"}),
        lambda: User("user", {"name": text}),
        lambda: Evaluation(feature_id=text, variation_id="on", reason=Reason(ReasonType.DEFAULT)),
        lambda: Evaluation(feature_id="flag", variation_id=text, reason=Reason(ReasonType.DEFAULT)),
        lambda: Reason(ReasonType.RULE, text),
        lambda: ProcessorConfig(tag=text),
    ]
    statuses: Counter[int] = Counter()
    async with world() as here:
        here.sky.weather = noting(statuses)
        for make in made:
            with pytest.raises(ValueError, match="surrogate"):
                make()
        bad = [
            await here.processor.push_goal_event(USER, text),
            await here.processor.push_default_evaluation_event(USER, text),
        ]
        here.receipts += bad
        error = await here.processor.push_error_metrics_event(ValueError(text), ApiId.GET_EVALUATION)
        here.receipts.append(error)
        await here.push(10)
        await here.processor.flush()

        assert refusals(bad) == {RefusedReason.INVALID: 2}
        assert error.accepted
        assert here.lost == here.repeated == 0
        assert statuses == {200: 1}


# Numbers


@pytest.mark.fault("F51")
async def test_a_finite_number_arrives_exactly_and_others_are_refused(measured: Measured) -> None:
    statuses: Counter[int] = Counter()
    async with world() as here:
        here.sky.weather = noting(statuses)
        good = [(number, await here.processor.push_goal_event(USER, "goal", number)) for number in NUMBERS]
        bad = [await here.processor.push_goal_event(USER, "goal", number) for number in NOT_FINITE]
        bad += [await here.processor.push_latency_metrics_event(each, ApiId.GET_EVALUATION) for each in NOT_FINITE]
        here.receipts += [receipt for _, receipt in good] + bad
        await here.processor.flush()

        arrived = stored(here)
        for number, receipt in good:
            value = arrived[receipt.event_id].value
            assert value == float(number)
            assert math.copysign(1.0, value) == math.copysign(1.0, float(number))
        assert refusals(bad) == {RefusedReason.INVALID: len(bad)}
        assert statuses == {200: 1}
        measured(f"{len(good)} numbers arrive exactly, {len(bad)} refused, no 400")


@pytest.mark.fault("F55")
async def test_a_number_beyond_its_range_is_refused(measured: Measured) -> None:
    statuses: Counter[int] = Counter()
    async with world() as here:
        here.sky.weather = noting(statuses)
        push = here.processor
        bad = [
            await push.push_size_metrics_event(2**31, ApiId.GET_EVALUATION),
            await push.push_size_metrics_event(-1, ApiId.GET_EVALUATION),
            await push.push_get_evaluation_size_metrics_event(2**31),
            await push.push_get_evaluation_size_metrics_event(-1),
            await push.push_latency_metrics_event(-1e-9, ApiId.GET_EVALUATION),
            await push.push_latency_metrics_event(1e12, ApiId.GET_EVALUATION),
            await push.push_get_evaluation_latency_metrics_event(-1.0),
            await push.push_get_evaluation_latency_metrics_event(1e12),
            await push.push_latency_metrics_event(1.0, 99),  # type: ignore[arg-type]
            await push.push_default_evaluation_event(USER, "flag", 99),  # type: ignore[arg-type]
        ]
        good = [
            await push.push_size_metrics_event(2**31 - 1, ApiId.GET_EVALUATION),
            await push.push_size_metrics_event(0, ApiId.GET_EVALUATION),
            await push.push_latency_metrics_event(0.0, ApiId.GET_EVALUATION),
            await push.push_get_evaluation_latency_metrics_event(315_576_000_000.0),
        ]
        here.receipts += [*bad, *good]
        await here.processor.flush()

        assert refusals(bad) == {RefusedReason.INVALID: len(bad)}
        assert here.lost == here.repeated == 0
        assert statuses == {200: 1}
        measured(f"{len(bad)} refused, the {len(good)} at the limits delivered, no 400")


@pytest.mark.fault("F55")
@pytest.mark.parametrize("version", [-1, 2**31, 10**30])
def test_a_version_beyond_its_range_is_refused_where_it_is_made(version: int) -> None:
    with pytest.raises(ValueError, match="feature_version must be from 0"):
        Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT), feature_version=version)


# Size


@pytest.mark.fault("F52")
async def test_what_is_larger_than_a_batch_is_refused_and_no_turn_handles_more(measured: Measured) -> None:
    posted: Counter[int] = Counter()

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        posted[turn()] += len(request.content)
        return await way(request)

    huge = [
        User("user", {"attribute": "x" * MIB}),
        User("user", {f"attribute-{number}": "x" * 100 for number in range(10_000)}),
    ]
    large = [
        User("user", {"attribute": "x" * 1_000_000}),
        User("user", {f"attribute-{number}": "x" for number in range(10_000)}),
    ]
    config = ProcessorConfig(num_flush_workers=8, flush_interval=1.0)
    async with world(config) as here:
        here.sky.weather = weather
        too_large = [here.processor.push_goal_event_nowait(user, "goal") for user in huge]
        here.receipts += too_large
        here.receipts += [here.processor.push_goal_event_nowait(user, "goal") for user in large * 20]
        await here.push(500)
        await here.processor.flush()

        assert refusals(too_large) == {RefusedReason.TOO_LARGE: 2}
        assert here.lost == here.repeated == 0
        assert max(posted.values()) <= 1.001 * MIB
        measured(f"2 refused, 540 others delivered; at most {max(posted.values()) / MIB:.2f} MiB in a turn")


@pytest.mark.fault("F52")
async def test_a_tight_loop_of_large_pushes_gives_the_loop_a_turn_for_every_mib() -> None:
    user = User("user", {"attribute": "x" * 100_000})
    pushed: Counter[int] = Counter()
    async with world(ProcessorConfig(queue_max_bytes=256 * MIB)) as here:
        for _ in range(100):
            receipt = await here.processor.push_goal_event(user, "goal")
            pushed[turn()] += 100_000
            here.receipts.append(receipt)
        await here.processor.flush()

        assert here.lost == 0
        assert max(pushed.values()) <= 1.1 * MIB


def turn() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    return loop.turn


# Types


@pytest.mark.fault("F53")
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_value_of_a_wrong_type_is_refused_where_it_is_made(number: int) -> None:
    wrong = WRONG[number]
    makes: list[Callable[[], object]] = [
        lambda: User(wrong),
        lambda: User("user", {"name": wrong}),
        lambda: Evaluation(feature_id=wrong, variation_id="on", reason=Reason(ReasonType.DEFAULT)),
        lambda: Evaluation(feature_id="flag", variation_id=wrong, reason=Reason(ReasonType.DEFAULT)),
        lambda: Evaluation(feature_id="flag", variation_id="on", reason=wrong),
        lambda: Reason(wrong),
        lambda: Reason(ReasonType.RULE, wrong),
    ]
    for make in makes:
        with pytest.raises((TypeError, RuntimeError)) as caught:
            make()
        assert caught.type is TypeError or type(wrong) is LazyProxy
    if type(wrong) is not dict:
        with pytest.raises((TypeError, RuntimeError)):
            User("user", wrong)


@pytest.mark.fault("F53")
async def test_a_push_of_a_wrong_type_never_raises(measured: Measured) -> None:
    statuses: Counter[int] = Counter()
    async with world() as here:
        here.sky.weather = noting(statuses)
        push = here.processor
        bad: list[Receipt] = []
        for wrong in [*WRONG, NastyProxy(), NastierProxy()]:
            bad += [
                await push.push_goal_event(wrong, "goal"),
                await push.push_goal_event(USER, wrong),
                await push.push_evaluation_event(wrong, EVALUATION),
                await push.push_evaluation_event(USER, wrong),
                await push.push_default_evaluation_event(wrong, "flag"),
                await push.push_default_evaluation_event(USER, wrong),
                await push.push_default_evaluation_event(USER, "flag", wrong),
                await push.push_error_metrics_event(wrong, ApiId.GET_EVALUATION),
                await push.push_error_metrics_event(ValueError(), wrong),
                await push.push_latency_metrics_event(1.0, wrong),
                push.push_goal_event_nowait(wrong, "goal"),
            ]
        for wrong in [
            None,
            b"1",
            "1",
            True,
            datetime.timedelta(1),
            1j,
            [1],
            NastyFloat(1.0),
            Nasty(),
            LazyProxy(),
            NastyProxy(),
        ]:
            bad += [
                await push.push_goal_event(USER, "goal", wrong),
                await push.push_latency_metrics_event(wrong, ApiId.GET_EVALUATION),
                await push.push_get_evaluation_latency_metrics_event(wrong),
            ]
        for wrong in [None, b"1", "1", True, 1.0, decimal.Decimal(1), NastyInt(1), Nasty(), LazyProxy(), NastyProxy()]:
            bad += [
                await push.push_size_metrics_event(wrong, ApiId.GET_EVALUATION),
                await push.push_get_evaluation_size_metrics_event(wrong),
            ]
        here.receipts += bad
        await here.push(100)
        await here.processor.flush()

        assert refusals(bad) == {RefusedReason.INVALID: len(bad)}
        assert here.lost == here.repeated == 0
        assert statuses == {200: 1}
        measured(f"{len(bad)} wrong values: {len(bad)} refused, none raised, no 400")


@pytest.mark.fault("F53")
async def test_an_error_that_cannot_be_shown_is_counted_all_the_same() -> None:
    async with world() as here:
        for error in (NastyError(), StatusError(418), RequestTimeoutError("\ud800"), KeyboardInterrupt()):
            here.receipts.append(await here.processor.push_error_metrics_event(error, ApiId.GET_EVALUATION))
        await here.processor.flush()

        assert here.lost == 0
        assert here.processor.statistics().metrics.delivered == 4


# Later changes


@pytest.mark.fault("F54")
async def test_an_event_stays_as_it_was_when_it_was_pushed(measured: Measured) -> None:
    attributes = {"plan": "pro", "country": "de"}
    bodies: list[bytes] = []

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        bodies.append(request.content)
        return await way(request)

    async with world() as here:
        here.sky.weather = weather
        user = User("user", attributes)
        receipts = [await here.processor.push_goal_event(user, f"goal-{number}") for number in range(100)]
        as_pushed = [receipt._body for receipt in receipts]
        attributes["plan"] = "free"
        attributes["late"] = "yes"
        del attributes["country"]
        with pytest.raises(TypeError):
            user.attributes["plan"] = "free"  # type: ignore[index]
        here.receipts += receipts
        await here.processor.flush()

        assert b",".join(as_pushed) in bodies[0]
        for message in stored(here).values():
            assert dict(message.user.data) == {"plan": "pro", "country": "de"}
        measured(f"{len(stored(here))} events arrive byte for byte as they were pushed")


# Keys, versions, tags


@pytest.mark.fault("F70")
@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nx-injected: 1", "a\x00", "a\tb", "\x7f", "clé", "鍵", "🦊", "\ud800"], ids=ascii
)
async def test_a_key_or_a_version_that_no_header_can_carry_is_refused_where_it_is_made(
    text: str, measured: Measured
) -> None:
    requests: list[httpx.Request] = []
    transport = httpx.MockTransport(lambda request: requests.append(request) or httpx.Response(200))  # type: ignore[func-returns-value]
    good = {"endpoint": "http://127.0.0.1", "api_key": "key", "http": httpx.AsyncClient(transport=transport)}
    for name in ("endpoint", "api_key", "sdk_version"):
        with pytest.raises(ConfigurationError, match=rf"ApiClient\.{name} must ") as caught:
            ApiClient(**good | {name: text})  # type: ignore[arg-type]
        assert text not in str(caught.value)

    assert requests == []
    measured("refused at construction, no request")


@pytest.mark.fault("F70")
@pytest.mark.parametrize(
    "tag", ["a\nb", "a\r\n", "a\x00", "a\tb", "\x7f", "\x85", "\x9f", " ", "\u3000 ", "\ud800"], ids=ascii
)
def test_a_tag_that_is_blank_or_has_control_characters_is_refused_where_it_is_made(tag: str) -> None:
    for name, make in (
        ("ProcessorConfig", lambda: ProcessorConfig(tag=tag)),
        ("Client", lambda: Client(endpoint="127.0.0.1", api_key="key", tag=tag)),
    ):
        with pytest.raises(ConfigurationError, match=rf"{name}\.tag (must be text without|has a lone surrogate)"):
            make()


@pytest.mark.parametrize("tag", ["backend", "web-shop_2.0", "two words", "clé", "決済", "🦊👩‍👩‍👧", "שלום"], ids=ascii)
async def test_any_other_text_is_a_tag_in_events_and_requests(tag: str) -> None:
    state = GatewayState(flags=[flag("new-checkout", tags=[tag])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(state))) as http:
        for key, local in (("client-key", None), ("server-key", LocalEvaluation())):
            async with Client(
                endpoint="http://127.0.0.1", api_key=key, tag=tag, local_evaluation=local, http=http
            ) as client:
                await client.wait_ready()
                assert await client.bool_variation(USER, "new-checkout", False) is True
                await client.track(USER, "purchase")

    assert {event.message.tag for event in state.events if event.kind is not EventKind.METRICS} == {tag}
    assert len([event for event in state.events if event.kind is not EventKind.METRICS]) == 4
    assert ProcessorConfig(tag="").tag == ""


@pytest.mark.fault("F53")
async def test_what_is_wrong_with_a_value_is_told_without_the_value() -> None:
    async with world() as here:
        receipt = await here.processor.push_goal_event(USER, LazyProxy())  # type: ignore[arg-type]
        here.receipts.append(receipt)

        assert receipt.outcome
        assert receipt.outcome.fate is Fate.REFUSED
        assert json.dumps(receipt.outcome.message)
