"""How each SDK is used: as its documentation says, with room for every event of a burst unless its defaults are measured."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

USERS: Final = 1000
_READY: Final = 100_000  # events that the floor has ready; with more pushes it begins again
ATTRIBUTES: Final = {"plan": "pro", "country": "JP", "appVersion": "4.12.0"}
#: Told apart by the event's id, or by a number that we put into it.
OURS: Final = r'"id":"([0-9a-f-]{36})","event"'
NUMBERED: Final = r"seq-(\d{7})"
SPEED: Final = os.environ.get("BUCKETEER_BENCH_SPEED", "")


class Contestant(Protocol):
    """One SDK during one run.

    Attributes:
        pattern: As `sink.Counted.pattern`.
        awaited: Whether ``push`` returns something to await.
        push: Records the event of this number.
    """

    pattern: str
    awaited: bool
    push: Callable[[int], Any]

    def load(self) -> None:
        """Import what is needed: that is no part of the start."""

    async def start(self, url: str, room: int | None) -> None:
        """Begin to deliver to ``url``; with room for so many events, or as configured by default."""

    async def hundred(self) -> None:
        """Another hundred events were pushed."""

    async def finish(self) -> None:
        """Deliver everything, and end."""


def user_id(number: int) -> str:
    """Return the id of the user that the event of this number is about."""
    return f"user-{number % USERS:06d}"


def new_evaluation() -> Any:
    """Return the evaluation that events are about; an event with it is 452 bytes long."""
    from bucketeer_async import Evaluation, Reason, ReasonType

    return Evaluation(
        feature_id="new-checkout",
        feature_version=12,
        variation_id="8d0c2a5e-3f3b-4a7b-9b6e-0f9d5c1a2b3c",
        reason=Reason(ReasonType.RULE, "0b1f6d2c-7a7e-4a55-8f0e-5d9a3c4b2e1f"),
    )


class Ours:
    """`bucketeer_async.Processor`.

    Args:
        awaited: Whether pushes are awaited.
        receipts: Whether every receipt is awaited in the end.
        durable: Whether events are spooled.
        speed: Where the extra ``speed`` is installed; "" to do without.
        attributes: How many attributes each user has.
        users: How many different users there are.
        options: Options of `ProcessorConfig`.
    """

    pattern = OURS

    def __init__(
        self,
        *,
        awaited: bool = True,
        receipts: bool = False,
        durable: bool = False,
        speed: str = "",
        attributes: dict[str, str] = ATTRIBUTES,
        users: int = USERS,
        **options: Any,
    ) -> None:
        self.awaited = awaited
        self._receipts: list[Any] | None = [] if receipts else None
        self._durable = durable
        self._speed = speed
        self._attributes = attributes
        self._users = users
        self._options = options

    def load(self) -> None:
        from bucketeer_async import User

        if self._speed:
            sys.path.append(self._speed)
        self._about = [User(f"user-{number:06d}", self._attributes) for number in range(self._users)]

    async def start(self, url: str, room: int | None) -> None:
        from bucketeer_async import ApiClient, Processor, ProcessorConfig, Spool

        options = dict(self._options)
        if room is not None:
            options["queue_capacity"] = max(room, 100_000)
            options["queue_max_bytes"] = max(room * 1000, 128 * 2**20)
        if self._durable:
            self._folder = tempfile.TemporaryDirectory()
            options["spool"] = Spool(self._folder.name, durable=True)
        self._api = ApiClient(endpoint=url, api_key="key")
        self._processor = Processor(self._api, ProcessorConfig(tag="shop", **options))
        shown = new_evaluation()
        processor, receipts, users, count = self._processor, self._receipts, self._about, self._users
        if receipts is not None:

            async def push_and_keep(number: int) -> None:
                receipts.append(await processor.push_evaluation_event(users[number % count], shown))

            self.push: Callable[[int], Any] = push_and_keep
        elif self.awaited:
            self.push = lambda number: processor.push_evaluation_event(users[number % count], shown)
        else:
            self.push = lambda number: processor.push_evaluation_event_nowait(users[number % count], shown)
        await self._processor.start()

    async def hundred(self) -> None: ...

    async def flush(self) -> None:
        """Have everything delivered."""
        assert await self._processor.flush()

    async def finish(self) -> None:
        if self._receipts is not None:
            await self.flush()
            for receipt in self._receipts:
                assert (await receipt.settled()).fate == "delivered"
        await self._processor.aclose()
        await self._api.aclose()


class Floor:
    """Bytes that are ready, joined and written to one connection: what no SDK can go below."""

    pattern = OURS
    awaited = False

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._ending = False

    def load(self) -> None:
        from bucketeer_async import User
        from bucketeer_async._events._encoder import EventFactory

        factory = EventFactory(tag="shop", source_id=0, sdk_version="1.0.0")
        shown = new_evaluation()
        self._ready = [factory.evaluation(User(user_id(n), ATTRIBUTES), shown) for n in range(_READY)]

    async def start(self, url: str, room: int | None) -> None:
        address = urlsplit(url)
        self._reader, self._writer = await asyncio.open_connection(address.hostname, address.port)
        self._sending = asyncio.create_task(self._send())
        ready, queue, wake = self._ready, self._queue, self._wake

        def push(number: int) -> None:
            queue.append(ready[number % _READY])
            if len(queue) == 500:
                wake.set()

        self.push = push

    async def _send(self) -> None:
        while True:
            batch = [self._queue.popleft() for _ in range(min(500, len(self._queue)))]
            if not batch and self._ending:
                return
            if not batch or (len(batch) < 100 and not self._ending):
                self._queue.extendleft(reversed(batch))
                self._wake.clear()
                await self._wake.wait()
                continue
            body = b'{"events":[' + b",".join(batch) + b"]}"
            self._writer.write(b"POST /register_events HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))

    async def hundred(self) -> None:
        self._wake.set()

    async def finish(self) -> None:
        self._ending = True
        self._wake.set()
        await self._sending
        self._writer.close()


class LaunchDarklyAsync:
    """``AsyncLDClient``, told to flush after every hundred events."""

    pattern = NUMBERED
    awaited = False

    def load(self) -> None:
        import ldclient.async_client  # noqa: F401 - the start finds it loaded

    async def start(self, url: str, room: int | None) -> None:
        from ldclient.async_client import AsyncLDClient
        from ldclient.async_config import AsyncConfig

        options = {} if room is None else {"events_max_pending": 2 * room}
        config = AsyncConfig("key", events_uri=url, use_ldd=True, diagnostic_opt_out=True, **options)
        self._client = AsyncLDClient(config)
        self.push = launchdarkly_push(self._client)
        await self._client.start()

    async def hundred(self) -> None:
        await self._client.flush()

    async def finish(self) -> None:
        await self._client.close()


class LaunchDarklySync:
    """``LDClient``, told to flush after every hundred events; it has threads of its own."""

    pattern = NUMBERED
    awaited = False

    def load(self) -> None:
        import ldclient.client  # noqa: F401 - the start finds it loaded

    async def start(self, url: str, room: int | None) -> None:
        from ldclient.client import LDClient
        from ldclient.config import Config

        options = {} if room is None else {"events_max_pending": 2 * room}
        config = Config("key", events_uri=url, use_ldd=True, diagnostic_opt_out=True, **options)
        self._client = await asyncio.to_thread(LDClient, config)
        self.push = launchdarkly_push(self._client)

    async def hundred(self) -> None:
        self._client.flush()

    async def finish(self) -> None:
        await asyncio.to_thread(self._client.close)


def launchdarkly_push(client: Any) -> Callable[[int], None]:
    """Return how an event is recorded: a custom event with a value."""
    from ldclient import Context

    contexts = []
    for number in range(USERS):
        builder = Context.builder(user_id(number))
        for name, value in ATTRIBUTES.items():
            builder.set(name, value)
        contexts.append(builder.build())

    def push(number: int) -> None:
        client.track("purchase", contexts[number % USERS], {"seq": f"seq-{number:07d}"}, 49.9)

    return push


class PostHogAsync:
    """``posthog.AsyncClient``."""

    pattern = NUMBERED
    awaited = False

    def load(self) -> None:
        import posthog.async_client  # noqa: F401 - the start finds it loaded

    async def start(self, url: str, room: int | None) -> None:
        from posthog.async_client import AsyncClient

        options = {} if room is None else {"max_queue_size": room}
        self._client = AsyncClient("key", host=url, **options)
        await self._client.__aenter__()
        client = self._client

        def push(number: int) -> None:
            properties = {**ATTRIBUTES, "seq": f"seq-{number:07d}"}
            client.capture("purchase", distinct_id=user_id(number), properties=properties)

        self.push = push

    async def hundred(self) -> None: ...

    async def finish(self) -> None:
        await self._client.flush(None)
        await self._client.shutdown()


class OpenTelemetryLogs:
    """OpenTelemetry's log records over OTLP/HTTP; it has a thread of its own."""

    pattern = NUMBERED
    awaited = False

    def load(self) -> None:
        import opentelemetry.exporter.otlp.proto.http._log_exporter
        import opentelemetry.sdk._logs.export  # noqa: F401 - the start finds them loaded

    async def start(self, url: str, room: int | None) -> None:
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        options = {} if room is None else {"max_queue_size": max(room, 2048)}
        self._provider = LoggerProvider()
        exporter = OTLPLogExporter(endpoint=f"{url}/v1/logs")
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter, **options))
        logger = self._provider.get_logger("benchmark")

        def push(number: int) -> None:
            logger.emit(
                LogRecord(
                    severity_number=SeverityNumber.INFO,
                    body="purchase",
                    attributes={**ATTRIBUTES, "user": user_id(number), "seq": f"seq-{number:07d}"},
                )
            )

        self.push = push

    async def hundred(self) -> None: ...

    async def finish(self) -> None:
        await asyncio.to_thread(self._provider.shutdown)


CONTESTANTS: Final[dict[str, Callable[[], Contestant]]] = {
    "raw asyncio": Floor,
    "ours, awaited": Ours,
    "ours, nowait": lambda: Ours(awaited=False),
    "ours, receipts awaited": lambda: Ours(receipts=True),
    "ours, durable spool": lambda: Ours(durable=True),
    "ours, bodies of 100": lambda: Ours(max_batch_size=100),
    **({"ours, extra speed": lambda: Ours(speed=SPEED)} if SPEED else {}),
    "LaunchDarkly async": LaunchDarklyAsync,
    "LaunchDarkly sync": LaunchDarklySync,
    "PostHog async": PostHogAsync,
    "OpenTelemetry logs": OpenTelemetryLogs,
}


#: Those who are driven at a pace, made to wait, or led through an outage; the variants of ours differ in bursts alone.
RACING: Final = tuple(
    name for name in CONTESTANTS if not name.startswith("ours, ") or name in {"ours, awaited", "ours, nowait"}
)


def be_quiet() -> None:
    """Log nothing: what the SDKs say about full queues and outages is counted, not read."""
    logging.disable(logging.CRITICAL)
