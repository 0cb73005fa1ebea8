"""Faults of the network, on real sockets: silence, resets, names, certificates, proxies; real time, small numbers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import os
import socket
import ssl
import sys
import threading
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from bucketeer_async import ApiClient, ApiError, ConfigurationError, Processor, RetryPolicy
from bucketeer_async.gateway import LocalGateway
from tests.faults.matrix import FULL, spaced
from tests.faults.proxy import Conduct, End, FaultProxy, PasswordProxy, until
from tests.faults.world import KEY, REFERENCE, Sky, World

Measured = Callable[[str], None]

N = 10_000 if FULL else 200
MANY = spaced(N)
#: As for all faults, but with shorter pauses between tries.
HASTY = replace(REFERENCE, flush_interval=30.0, retry=RetryPolicy(initial=0.01, maximum=0.05))
#: One connection at a time.
SINGLE = replace(HASTY, num_flush_workers=1)
#: Seconds instead of 20, where the timeout ends a post; a post without a fault is in time even on a busy machine.
TIMEOUT = 2.0
#: The same, where a late post is only tried again.
SHORT_TIMEOUT = 0.3

PASSWORD = "password-of-the-proxy"
WRONG = "forgotten-password"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxies that the environment of the tests names."""
    for name in list(os.environ):
        if name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"}:
            monkeypatch.delenv(name)


LIBRARIES = ["own", "httpx2"]
with_both_libraries = pytest.mark.parametrize("http", LIBRARIES, indirect=True)


@pytest.fixture(params=LIBRARIES if FULL else ["own"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx2.AsyncClient | None]:
    """The HTTP client: the SDK's own, or one of httpx2."""
    if request.param == "own":
        yield None
        return
    async with httpx2.AsyncClient() as client:
        yield client


@asynccontextmanager
async def delivering(gateway: LocalGateway, endpoint: str, config: Any = HASTY, **options: Any) -> AsyncIterator[World]:
    """Deliver to the gateway through ``endpoint``; at the end, close, and check that every event is accounted for."""
    async with ApiClient(endpoint=endpoint, api_key=KEY, **options) as api_client:
        async with Processor(api_client, config) as processor:
            here = World(processor, gateway.state, Sky(gateway.state))  # no faults of its own
            yield here
            here.check()
        here.check()
        total = processor.statistics().total
        assert total.queued == total.in_flight == 0
        assert all(receipt.outcome is not None for receipt in here.receipts)


async def deliver(here: World, count: int) -> set[str]:
    """Push events, and wait until all are delivered; return their ids."""
    receipts = await here.push(count)
    assert await here.processor.flush()
    return {receipt.event_id for receipt in receipts}


def stored_again(gateway: LocalGateway) -> int:
    """Return the number of events that were sent again although the gateway had them."""
    return len(gateway.events) - len({event.id for event in gateway.events})


def lines_of_ours(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return the log lines at ``level`` and above."""
    return [
        record.getMessage() for record in caplog.records if record.name == "bucketeer_async" and record.levelno >= level
    ]


def never_sent(here: World) -> bool:
    """Return whether all waiting events are known not to be at the gateway."""
    return not any(receipt._maybe_stored for receipt in here.receipts if receipt.outcome is None)


# Silence


@pytest.mark.fault("F5")
@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
async def test_posts_that_are_never_answered_are_repeated_with_the_same_ids(
    gateway: LocalGateway, http: httpx2.AsyncClient | None, heard: bool, measured: Measured
) -> None:
    posts = 20 if FULL else 4
    config = replace(HASTY, request_timeout=SHORT_TIMEOUT)
    async with FaultProxy(gateway.url) as proxy:
        # As many connections as posts: if a timeout cost a connection, one would be missing at the end.
        async with delivering(gateway, proxy.url, config, max_connections=4, http=http) as here:
            if heard:
                proxy.conduct = lambda: Conduct(answer=0, end=End.SILENT)
            else:
                proxy.conduct = lambda: Conduct(upload=0, end=End.SILENT)
            await here.push(N)
            await until(lambda: len(proxy.lines) > posts)
            in_the_silence = here.processor.statistics()
            stored_in_the_silence = len(here.stored)
            proxy.conduct = Conduct

            assert await here.processor.flush()

            assert in_the_silence.total.delivered == 0
            assert here.lost == 0
            assert {i for post in proxy.posts for i in post} == here.stored
            assert here.processor.statistics().total.delivered == N
            assert bool(stored_in_the_silence) == heard
            measured(
                f"{'responses' if heard else 'requests'} lost: lost {here.lost} of {MANY} after "
                f"{in_the_silence.posts} posts, {stored_again(gateway)} stored again under the same id"
            )


@pytest.mark.fault("F5")
async def test_an_answer_that_comes_too_late_is_nobodys(gateway: LocalGateway, http: httpx2.AsyncClient | None) -> None:
    config = replace(SINGLE, request_timeout=TIMEOUT)
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, config, http=http) as here:
        proxy.next_conducts.append(Conduct(delay=1.1 * TIMEOUT))
        first = await deliver(here, 50)
        second = await deliver(here, 50)

        late, check, *rest = map(set, proxy.posts)
        assert late == first
        assert check < first  # it is taken, so the others are sent again
        assert rest == [first - check, second]
        assert here.lost == 0
        assert stored_again(gateway) == 50


@pytest.mark.fault("F5")
async def test_a_handshake_that_is_never_answered_sends_nothing(gateway: LocalGateway) -> None:
    async with FaultProxy(gateway.url) as proxy:
        proxy.conduct = lambda: Conduct(upload=0, end=End.SILENT)
        config = replace(HASTY, request_timeout=0.1)
        async with delivering(gateway, f"https://127.0.0.1:{proxy.port}", config) as here:
            await here.push(N)
            await until(lambda: len(proxy.lines) > 3)

            assert never_sent(here)
            assert KEY.encode() not in b"".join(line.upload for line in proxy.lines)
            await here.processor.aclose(0.1)


@pytest.mark.fault("F6")
@pytest.mark.parametrize("heard", [False, True], ids=["swallowed", "the gateway heard it"])
async def test_a_peer_that_is_gone_without_a_word_is_noticed_by_the_timeout(
    gateway: LocalGateway, http: httpx2.AsyncClient | None, heard: bool, measured: Measured
) -> None:
    config = replace(SINGLE, request_timeout=TIMEOUT)
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, config, http=http) as here:
        first = await deliver(here, 50)
        (line,) = proxy.lines
        line.conduct = Conduct(upload=None if heard else 0, answer=0, end=End.SILENT)
        begun = time.monotonic()

        second = await deliver(here, 50)

        seconds = time.monotonic() - begun
        (asked, *rest) = [[set(post) for post in each.posts] for each in proxy.lines]
        assert asked == [first, second]
        assert [[set(), *each][-1] | set().union(*each) for each in rest] == [second]  # a check, and the others
        assert here.lost == 0
        assert stored_again(gateway) == (50 if heard else 0)
        measured(f"lost {here.lost} of 100, delivered after {seconds:.2f} s with a timeout of {TIMEOUT:g} s")


# Resets


def offsets(whole: int, *more: int) -> list[int]:
    """Return the places to cut: regular ones, and the given ones."""
    step = whole // (100 if FULL else 6)
    return sorted({*range(0, whole, step), whole - 1, *more})


async def cut_next(proxy: FaultProxy, conduct: Conduct, *, reused: bool) -> None:
    """Give the next post this conduct, on the open connection or on a new one."""
    if reused:
        proxy.lines[-1].conduct = conduct
        return
    await proxy.end_lines(End.CLOSED)
    proxy.next_conducts.append(conduct)


@pytest.mark.fault("F7")
@with_both_libraries
async def test_a_reset_anywhere_in_an_answer_costs_nothing(
    gateway: LocalGateway, http: httpx2.AsyncClient | None, measured: Measured
) -> None:
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, SINGLE, http=http) as here:
        await deliver(here, 5)
        answer = bytes(proxy.lines[0].answer)
        head = answer.index(b"\r\n\r\n") + 4
        cuts = offsets(len(answer), head - 1, head, head + 1)
        for bytes_through, reused in itertools.product(cuts, [False, True]):
            await cut_next(proxy, Conduct(answer=bytes_through), reused=reused)
            await deliver(here, 5)

            assert here.lost == 0
        assert stored_again(gateway) == 2 * 5 * len(cuts)
        assert here.processor.statistics().total.delivered == 5 * (1 + 2 * len(cuts))
        measured(f"cut at {len(cuts)} positions in the response: lost {here.lost}, each sent again once")


@pytest.mark.fault("F7")
@with_both_libraries
async def test_a_reset_anywhere_in_a_request_costs_nothing(
    gateway: LocalGateway, http: httpx2.AsyncClient | None, measured: Measured
) -> None:
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, SINGLE, http=http) as here:
        await deliver(here, 5)
        request = bytes(proxy.lines[0].upload)
        head = request.index(b"\r\n\r\n") + 4
        cuts = offsets(len(request), head - 1, head, head + 1)
        for bytes_through, reused in itertools.product(cuts, [False, True]):
            await cut_next(proxy, Conduct(upload=bytes_through), reused=reused)
            await deliver(here, 5)

            assert here.lost == 0
        assert stored_again(gateway) == 0
        assert here.processor.statistics().total.delivered == 5 * (1 + 2 * len(cuts))
        measured(f"cut at {len(cuts)} positions in the request: lost {here.lost}, none stored twice")


@pytest.mark.fault("F7")
@with_both_libraries
async def test_a_reset_while_a_long_request_is_being_sent_costs_nothing(
    gateway: LocalGateway, http: httpx2.AsyncClient | None
) -> None:
    config = replace(SINGLE, flush_size=1000, max_batch_size=1000)
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, config, http=http) as here:
        proxy.next_conducts.extend(Conduct(upload=bytes_through) for bytes_through in (1_000, 100_000, 200_000))
        await deliver(here, 1000)

        assert here.lost == 0
        assert len(proxy.lines) == 4
        assert stored_again(gateway) == 0


@pytest.mark.fault("F8")
@with_both_libraries
async def test_an_idle_connection_that_ends_as_it_is_used_is_replaced_at_once(
    gateway: LocalGateway,
    http: httpx2.AsyncClient | None,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
) -> None:
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, SINGLE, http=http) as here:
        await deliver(here, 50)
        conducts = [Conduct(upload=through, end=end) for through in (0, 100) for end in (End.RESET, End.CLOSED)]
        for times, conduct in enumerate(conducts, start=1):
            proxy.lines[-1].conduct = conduct
            sent = await deliver(here, 50)

            assert here.processor.statistics().posts == 1 + 2 * times
            assert [set(post) for post in proxy.lines[-1].posts] == [sent]
        assert here.processor.statistics().circuit == "closed"
        assert here.lost == stored_again(gateway) == 0
    assert lines_of_ours(caplog) == []
    measured("1 extra post each of 4 times, 0 warnings, lost 0 of 250")


@pytest.mark.fault("F63")
@pytest.mark.parametrize("end", End)
async def test_a_process_that_was_frozen_delivers_over_a_new_connection(
    gateway: LocalGateway,
    http: httpx2.AsyncClient | None,
    end: End,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
) -> None:
    config = replace(HASTY, request_timeout=TIMEOUT)
    async with FaultProxy(gateway.url) as proxy, delivering(gateway, proxy.url, config, http=http) as here:
        await deliver(here, 200 if FULL else 100)  # over one connection, or more
        lines = len(proxy.lines)
        await proxy.end_lines(end)  # while the process is frozen
        await deliver(here, 100)

        assert here.lost == 0
        assert len(proxy.lines) == lines + 1
        told = len(lines_of_ours(caplog))
        assert told == (1 if end is End.SILENT else 0)
        measured(f"{end.name.lower()} meanwhile: lost {here.lost}, {told} warnings")


# Names


class Resolver:
    """Resolves names instead of the system's resolver, in a thread as well.

    Attributes:
        answer: Returns the address of every name, or raises.
        asked: Number of calls.
    """

    def __init__(self) -> None:
        self.answer: Callable[[], str] = lambda: "127.0.0.1"
        self.asked = 0

    async def getaddrinfo(self, _host: object, port: object, **_hints: object) -> list[Any]:
        self.asked += 1
        address = await asyncio.get_running_loop().run_in_executor(None, self.answer)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port or 0))]

    def fail(self, code: int) -> None:
        """Fail from now on: the name cannot be resolved."""

        def fails() -> str:
            raise socket.gaierror(code, os.strerror(0))

        self.answer = fails


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    return resolver


@pytest.mark.fault("F34")
@pytest.mark.parametrize("failure", ["EAI_NONAME", "EAI_AGAIN"])
async def test_a_name_that_cannot_be_resolved_costs_nothing(
    gateway: LocalGateway,
    http: httpx2.AsyncClient | None,
    resolver: Resolver,
    failure: str,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
) -> None:
    async with FaultProxy(gateway.url) as proxy:
        async with delivering(gateway, f"http://localhost:{proxy.port}", http=http) as here:
            resolver.fail(getattr(socket, failure))
            await here.push(N)
            await until(lambda: resolver.asked > 5)
            sent_nothing = never_sent(here)
            resolver.answer = lambda: "127.0.0.1"

            assert await here.processor.flush()

            assert sent_nothing
            assert here.lost == stored_again(gateway) == 0
            assert len(lines_of_ours(caplog)) == 1
            measured(f"{failure}: lost {here.lost} of {MANY}, 1 log line")


@pytest.fixture
def hanging(resolver: Resolver) -> Iterator[threading.Event]:
    """The resolver hangs until this is set."""
    over = threading.Event()

    def hangs() -> str:
        over.wait()
        return "127.0.0.1"

    resolver.answer = hangs
    yield over
    over.set()


@pytest.mark.fault("F35")
async def test_a_resolver_that_hangs_does_not_hold_up_the_close(
    gateway: LocalGateway,
    http: httpx2.AsyncClient | None,
    resolver: Resolver,
    hanging: threading.Event,
    measured: Measured,
) -> None:
    allowed = 2.0 if FULL else 0.2
    async with delivering(gateway, "http://localhost:1", replace(HASTY, request_timeout=0.1), http=http) as here:
        await here.push(N)
        await until(lambda: resolver.asked > 4)
        sent_nothing = never_sent(here)
        begun = time.monotonic()

        async with asyncio.timeout(20.0):
            report = await here.processor.aclose(allowed)

        seconds = time.monotonic() - begun
        assert not hanging.is_set()
        assert sent_nothing
        assert report.total.undelivered == N
        measured(f"aclose({allowed:g}) took {seconds:.2f} s")


@pytest.mark.fault("F35")
async def test_a_resolver_that_has_hung_costs_nothing(
    gateway: LocalGateway, resolver: Resolver, hanging: threading.Event
) -> None:
    async with FaultProxy(gateway.url) as proxy:
        config = replace(HASTY, request_timeout=SHORT_TIMEOUT)
        async with delivering(gateway, f"http://localhost:{proxy.port}", config) as here:
            await here.push(N)
            await until(lambda: resolver.asked > 4)
            hanging.set()

            assert await here.processor.flush()

            assert here.lost == 0


@pytest.mark.fault("F36")
@pytest.mark.parametrize("end", End)
async def test_a_name_that_moves_is_followed_once_old_connections_have_ended(
    gateway: LocalGateway, http: httpx2.AsyncClient | None, resolver: Resolver, end: End, measured: Measured
) -> None:
    async with FaultProxy(gateway.url) as old, FaultProxy(gateway.url, host="127.0.0.2", port=old.port) as new:
        config = replace(SINGLE, request_timeout=TIMEOUT)
        async with delivering(gateway, f"http://localhost:{old.port}", config, http=http) as here:
            first = await deliver(here, 50)
            resolver.answer = lambda: "127.0.0.2"
            second = await deliver(here, 50)
            await old.refuse()
            await old.end_lines(end)
            posts = here.processor.statistics().posts
            third = await deliver(here, 50)

            extra = here.processor.statistics().posts - posts - 1
            assert [set(post) for post in old.posts][:2] == [first, second]
            assert set().union(*map(set, new.posts)) == third
            assert here.lost == stored_again(gateway) == 0
            assert extra <= 2  # the post that fails, and one event that shows that the gateway is there
            measured(f"{end.name.lower()}: lost {here.lost} of 150, {extra} extra posts")


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the certificate authority to trust."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def server_context(authority: trustme.CA, name: str = "127.0.0.1", not_after: datetime | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return context


def old_protocol(context: ssl.SSLContext) -> ssl.SSLContext:
    """Support nothing newer than TLS 1.1."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


BAD_TLS: dict[str, Callable[[trustme.CA], ssl.SSLContext]] = {
    "expired": lambda authority: server_context(authority, not_after=datetime(2020, 1, 1, tzinfo=UTC)),
    "another host": lambda authority: server_context(authority, "elsewhere.test"),
    "unknown authority": lambda _: server_context(trustme.CA()),
    "TLS 1.1": lambda authority: old_protocol(server_context(authority)),
}


@pytest.mark.fault("F37")
@pytest.mark.usefixtures("trusted", "refused_handshakes")
@pytest.mark.parametrize("what", BAD_TLS)
async def test_a_server_that_cannot_be_trusted_gets_no_byte_of_a_request(
    gateway: LocalGateway, authority: trustme.CA, what: str, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    async with FaultProxy(gateway.url, tls=BAD_TLS[what](authority)) as proxy:
        async with delivering(gateway, proxy.url) as here:
            await here.push(N)
            await until(lambda: here.processor.statistics().posts > 4)
            untrusted, sent_nothing = list(proxy.lines), never_sent(here)
            queued = here.processor.statistics().total
            await proxy.refuse()
            proxy.tls = server_context(authority)
            await proxy.listen()

            assert await here.processor.flush()

            assert untrusted == []
            assert sent_nothing
            assert queued.queued + queued.in_flight == N
            assert here.lost == stored_again(gateway) == 0
        (line,) = lines_of_ours(caplog)
        assert "SSL" in line
        measured(f"{what}: 0 bytes sent, lost {here.lost} of {MANY}, 1 log line")


@pytest.mark.fault("F38")
async def test_a_private_authority_is_trusted_by_configuration(
    gateway: LocalGateway, authority: trustme.CA, measured: Measured
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with FaultProxy(gateway.url, tls=server_context(authority)) as proxy:
        async with delivering(gateway, proxy.url, ssl_context=context) as here:
            await deliver(here, N)

            assert here.lost == stored_again(gateway) == 0
    measured(f"private authority: lost 0 of {MANY}")


@pytest.mark.fault("F38")
@pytest.mark.usefixtures("refused_handshakes")
async def test_client_certificates_work_by_configuration(
    gateway: LocalGateway, authority: trustme.CA, measured: Measured
) -> None:
    server, with_certificate, without = server_context(authority), *[ssl.create_default_context() for _ in range(2)]
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(with_certificate)
    authority.configure_trust(without)
    authority.issue_cert("client@service.test").configure_cert(with_certificate)
    async with FaultProxy(gateway.url, tls=server) as proxy:
        async with delivering(gateway, proxy.url, ssl_context=without) as stranger:
            await stranger.push(N)
            await until(lambda: stranger.processor.statistics().posts > 4)
            assert proxy.lines == gateway.events == []
            await stranger.processor.aclose(0)
        async with delivering(gateway, proxy.url, ssl_context=with_certificate) as here:
            await deliver(here, N)

            assert here.lost == stored_again(gateway) == 0
    measured(f"client certificate: lost 0 of {MANY}; without one, 0 stored")


# Proxies


def assert_secret(words: str) -> None:
    """Assert that the text has neither the proxy's credentials nor the API key."""
    tokens = [base64.b64encode(f"name-of-mine:{password}".encode()).decode() for password in (PASSWORD, WRONG)]
    for secret in (PASSWORD, WRONG, "name-of-mine", KEY, *tokens):
        assert secret not in words


@asynccontextmanager
async def gateway_by(scheme: str, gateway: LocalGateway, authority: trustme.CA) -> AsyncIterator[FaultProxy]:
    """The gateway without TLS, or behind TLS."""
    async with FaultProxy(gateway.url, tls=server_context(authority) if scheme == "https" else None) as proxy:
        yield proxy


@pytest.fixture
async def password_proxy() -> AsyncIterator[PasswordProxy]:
    async with PasswordProxy("name-of-mine", PASSWORD) as proxy:
        yield proxy


@pytest.mark.fault("F38")
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_with_a_password_works_and_its_credentials_stay_secret(
    gateway: LocalGateway,
    authority: trustme.CA,
    password_proxy: PasswordProxy,
    scheme: str,
    by: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
) -> None:
    caplog.set_level(logging.DEBUG, "bucketeer_async")
    if by == "environment":
        monkeypatch.setenv(f"{scheme}_proxy", password_proxy.url())
    options = {"proxy": password_proxy.url()} if by == "argument" else {}
    async with gateway_by(scheme, gateway, authority) as front, delivering(gateway, front.url, **options) as here:
        await deliver(here, N)

        assert here.lost == stored_again(gateway) == 0
        assert password_proxy.asked
        assert password_proxy.refused == 0
        assert all(asked.startswith(("CONNECT 127.0.0.1:", f"POST {front.url}/")) for asked in password_proxy.asked)
    assert_secret("\n".join(lines_of_ours(caplog, logging.DEBUG)))
    measured(f"{scheme} by proxy, from the {by}: lost 0 of {MANY}")


@pytest.mark.fault("F38")
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_the_password_costs_nothing_and_tells_nobody(
    gateway: LocalGateway,
    authority: trustme.CA,
    password_proxy: PasswordProxy,
    scheme: str,
    caplog: pytest.LogCaptureFixture,
    measured: Measured,
) -> None:
    caplog.set_level(logging.DEBUG, "bucketeer_async")
    proxy = password_proxy.url(WRONG)
    async with gateway_by(scheme, gateway, authority) as front, delivering(gateway, front.url, proxy=proxy) as here:
        await here.push(N)
        await until(lambda: password_proxy.refused > 4)
        sent_nothing = never_sent(here)
        async with ApiClient(endpoint=front.url, api_key=KEY, proxy=proxy) as api_client:
            with pytest.raises(ApiError) as caught:
                await api_client.ping()
        password_proxy.password = WRONG

        assert await here.processor.flush()

        assert sent_nothing
        assert here.lost == stored_again(gateway) == 0
        assert len(lines_of_ours(caplog)) == 1
        assert "407" in lines_of_ours(caplog)[0]
    assert_secret("\n".join([*lines_of_ours(caplog, logging.DEBUG), *traceback.format_exception(caught.value)]))
    measured(f"{scheme}, password refused: lost 0 of {MANY}, 1 log line, no credentials in it")


@pytest.mark.fault("F38")
@pytest.mark.usefixtures("trusted", "refused_handshakes")
async def test_a_server_that_cannot_be_trusted_gets_nothing_through_a_proxy_either(
    gateway: LocalGateway, authority: trustme.CA, password_proxy: PasswordProxy
) -> None:
    async with FaultProxy(gateway.url, tls=server_context(authority, "elsewhere.test")) as front:
        async with delivering(gateway, front.url, proxy=password_proxy.url()) as here:
            await here.push(N)
            await until(lambda: here.processor.statistics().posts > 4)

            assert never_sent(here)
            assert front.lines == []
            await here.processor.aclose(0)


@pytest.mark.fault("F38")
async def test_no_proxy_bypasses_the_proxy_of_the_environment(
    gateway: LocalGateway, password_proxy: PasswordProxy, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, password_proxy.url())
    for bypassed in ("127.0.0.1", "*", "example.com, 127.0.0.1"):
        monkeypatch.setenv("NO_PROXY", bypassed)
        gateway.state.forget_events()
        async with delivering(gateway, gateway.url) as here:
            await deliver(here, 100)

            assert here.lost == stored_again(gateway) == 0
    assert password_proxy.asked == []
    measured("NO_PROXY: lost 0 of 300, the proxy was not used")


BAD_PROXIES = [
    f"http://name-of-mine:{PASSWORD}/@127.0.0.1:3128",
    f"http://name-of-mine:{PASSWORD}@127.0.0.1:port",
    f"http://name-of-mine:{PASSWORD}\n@127.0.0.1:3128",
    f"ftp://name-of-mine:{PASSWORD}@127.0.0.1:3128",
]


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("by", "proxy"),
    [
        *itertools.product(["argument", "environment"], BAD_PROXIES),
        ("argument", f"name-of-mine:{PASSWORD}@127.0.0.1:3128"),  # the environment may omit the scheme
    ],
)
async def test_a_proxy_that_cannot_be_used_is_told_without_its_credentials(
    by: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("all_proxy", proxy)
    api_client = ApiClient(endpoint="127.0.0.1", api_key=KEY, proxy=proxy if by == "argument" else None)

    with pytest.raises(ConfigurationError, match="proxy") as caught:
        await api_client.start()

    await api_client.aclose()
    assert_secret("".join(traceback.format_exception(caught.value)))


@pytest.mark.fault("F38")
async def test_a_proxy_that_needs_another_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    api_client = ApiClient(endpoint="127.0.0.1", api_key=KEY, proxy=f"socks5://name-of-mine:{PASSWORD}@127.0.0.1:1080")

    with pytest.raises(ConfigurationError, match=r"httpx\[socks\]") as caught:
        await api_client.start()

    await api_client.aclose()
    assert_secret("".join(traceback.format_exception(caught.value)))
