"""The API client over mock transports of both HTTP libraries: construction, requests, responses, errors, lifecycle."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import trustme

import bucketeer_async
from bucketeer_async import (
    ApiClient,
    ApiError,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    ReasonType,
    RequestTimeoutError,
    StatusError,
    User,
    WrongLoopError,
)
from bucketeer_async._transport._error_responses import retry_after_seconds
from tests.clock import VirtualLoop
from tests.flag_server import flags_response, segments_response

in_virtual_time = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual-time"]
)
USER = User("user-1", {"plan": "pro"})
KEY = "secret-key"
ANYTHING = flags_response([]) | segments_response()  # a body that every endpoint may respond with


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def client(**options: Any) -> ApiClient:
    return ApiClient(**{"endpoint": "gateway.test", "api_key": KEY} | options)


async def ask(
    library: ModuleType, answer: Callable[[Any], Any], call: Callable[[ApiClient], Awaitable[Any]], **options: Any
) -> Any:
    async with (
        library.AsyncClient(transport=library.MockTransport(answer)) as http,
        client(http=http, **options) as api,
    ):
        return await call(api)


# Construction


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        ("api.example.com", "https://api.example.com"),
        ("API.example.com/", "https://api.example.com"),
        ("api.example.com:9000", "https://api.example.com:9000"),
        ("https://api.example.com//", "https://api.example.com"),
        ("http://localhost:9000", "http://localhost:9000"),
        ("http://127.8.0.1", "http://127.8.0.1"),
        ("http://[::1]:80/", "http://[::1]:80"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_an_endpoint_is_normalised(endpoint: str, base: str) -> None:
    assert repr(client(endpoint=endpoint)) == f"<ApiClient {base} new>"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        " ",
        None,
        5,
        "https://",
        "ftp://api.example.com",
        "http://api.example.com",
        "https://api.example.com/path",
        "https://user:pass@api.example.com",
        "https://api.example.com?x=1",
        "https://api.example.com#x",
        "https://api.example.com:99999",
        "https://api.example.com:0",
        "api.example.com\n",
        "api.exämple.com",
        "api example.com",
        "https://[::1",
        "a<b>.com",
    ],
)
def test_a_wrong_endpoint_is_refused_with_the_accepted_form(endpoint: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"ApiClient\.endpoint must "):
        client(endpoint=endpoint)


def test_http_beyond_loopback_needs_permission() -> None:
    assert "http://10.0.0.1" in repr(client(endpoint="http://10.0.0.1", allow_http=True))


@pytest.mark.parametrize("key", ["", " ", "key\n", "kéy", "a key", "key\t", None, b"key", 5])
def test_a_wrong_key_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"ApiClient\.api_key must be") as caught:
        client(api_key=key)

    assert "kéy" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 0}, r"ApiClient\.timeout must be more than 0 seconds"),
        ({"source_id": "5"}, r"ApiClient\.source_id must be an int"),
        ({"source_id": 2**31}, r"ApiClient\.source_id must be from"),
        ({"sdk_version": "1\n"}, r"ApiClient\.sdk_version must be printable ASCII"),
        ({"sdk_version": ""}, r"ApiClient\.sdk_version must be a non-empty str"),
        ({"max_connections": 0}, r"ApiClient\.max_connections must be an int of at least 1"),
        ({"max_connections": "9"}, r"ApiClient\.max_connections must be an int of at least 1, not '9'"),
        ({"timeout": 10**400}, r"ApiClient\.timeout must be a finite number of seconds, not 1000"),
        ({"allow_http": "no"}, r"ApiClient\.allow_http must be a bool, not 'no'"),
        ({"ssl_context": False}, r"ApiClient\.ssl_context must be an ssl\.SSLContext, not False"),
        ({"proxy": 3128}, r"ApiClient\.proxy must be a URL, a str, not int"),
        ({"http": httpx.Client()}, r"ApiClient\.http must be an httpx\.AsyncClient, not <httpx\.Client object"),
        ({"http": httpx.AsyncClient(), "proxy": "http://proxy"}, "belong to the client given as http"),
    ],
    ids=str,
)
def test_wrong_options_name_the_field(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        client(**options)


def test_the_key_shows_nowhere() -> None:
    api = client()

    shown = [repr(api), repr(vars(api)), str(vars(api)["_key"]), repr(pickle.dumps(vars(api)["_key"]))]

    assert not any(KEY in each for each in shown)


# Requests


Call = Callable[[ApiClient], Awaitable[Any]]
CALLS: dict[str, tuple[Call, str, Any]] = {
    "register_events": (
        lambda api: api.register_events([b'{"id":"1"}', b'{"id":"2"}']),
        "/register_events",
        {"events": [{"id": "1"}, {"id": "2"}], "sdkVersion": "1.2.3", "sourceId": 0},
    ),
    "get_evaluation": (
        lambda api: api.get_evaluation(USER, "flag", tag="shop"),
        "/get_evaluation",
        {"tag": "shop", "user": {"id": "user-1", "data": {"plan": "pro"}}, "featureId": "flag", "sdkVersion": "1.2.3"},
    ),
    "get_evaluations": (
        lambda api: api.get_evaluations(USER, tag="shop", user_evaluations_id="9", evaluated_at=1767225600),
        "/get_evaluations",
        {
            "tag": "shop",
            "user": {"id": "user-1", "data": {"plan": "pro"}},
            "userEvaluationsId": "9",
            "userEvaluationCondition": {"evaluatedAt": "1767225600"},
            "sdkVersion": "1.2.3",
        },
    ),
    "get_feature_flags": (
        lambda api: api.get_feature_flags(tag="shop", feature_flags_id="9", requested_at=1767225600),
        "/get_feature_flags",
        {
            "tag": "shop",
            "featureFlagsId": "9",
            "requestedAt": "1767225600",
            "sourceId": 1000,
            "sdkVersion": "1.2.3",
        },
    ),
    "get_segment_users": (
        lambda api: api.get_segment_users(segment_ids=["a", "b"], requested_at=1767225600),
        "/get_segment_users",
        {"segmentIds": ["a", "b"], "requestedAt": "1767225600", "sourceId": 1000, "sdkVersion": "1.2.3"},
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_requests(library: ModuleType, name: str) -> None:
    call, path, body = CALLS[name]
    requests = []

    def answer(request: Any) -> Any:
        requests.append(request)
        return library.Response(200, json=ANYTHING)

    await ask(library, answer, call, sdk_version="1.2.3")

    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", f"https://gateway.test{path}")
    assert json.loads(request.content) == body
    assert request.headers["authorization"] == KEY


async def test_a_configured_source_id_is_sent_with_everything(library: ModuleType) -> None:
    sources = []

    def answer(request: Any) -> Any:
        sources.append(json.loads(request.content)["sourceId"])
        return library.Response(200, json=ANYTHING)

    async def call_all(api: ApiClient) -> None:
        for call, _, _ in CALLS.values():
            await call(api)

    await ask(library, answer, call_all, source_id=7)

    assert sources == [7] * 5


# Responses

EVALUATION = {
    "id": "flag:3:user-1",
    "featureId": "flag",
    "featureVersion": 3,
    "userId": "user-1",
    "variationId": "on",
    "variation": None,
    "reason": {"type": "RULE", "ruleId": "rule-1"},
    "variationValue": "true",
    "variationName": "On",
    "somethingNew": [1, {"x": None}],
}


def json_answer(body: Any) -> Callable[[Any], httpx.Response]:
    return lambda _request: httpx.Response(200, json=body)


async def test_an_evaluation_is_read() -> None:
    answer = await ask(httpx, json_answer({"evaluation": EVALUATION}), CALLS["get_evaluation"][0])

    assert answer.evaluation == bucketeer_async.Evaluation(
        feature_id="flag",
        feature_version=3,
        user_id="user-1",
        variation_id="on",
        variation_name="On",
        variation_value="true",
        reason=bucketeer_async.Reason(ReasonType.RULE, "rule-1"),
    )
    assert answer.size_byte > 100


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(None, 0), ({}, 0), ({"type": "CLIENT"}, 4), ({"type": "NEWER"}, 3), ({"type": 6}, 6), ({"type": 99}, 3)],
    ids=str,
)
async def test_reasons_are_read_by_name_and_number(reason: Any, expected: int) -> None:
    answer = await ask(httpx, json_answer({"evaluation": EVALUATION | {"reason": reason}}), CALLS["get_evaluation"][0])

    assert answer.evaluation.reason.type == expected


async def test_a_missing_evaluation_is_none() -> None:
    assert (await ask(httpx, json_answer({"evaluation": None}), CALLS["get_evaluation"][0])).evaluation is None


async def test_evaluations_are_read() -> None:
    body = {
        "state": "FULL",
        "evaluations": {
            "evaluations": [EVALUATION],
            "createdAt": "1767225600",
            "archivedFeatureIds": ["old"],
            "forceUpdate": True,
        },
        "userEvaluationsId": "42",
    }

    answer = await ask(httpx, json_answer(body), CALLS["get_evaluations"][0])

    assert [each.feature_id for each in answer.evaluations] == ["flag"]
    assert (answer.created_at, answer.archived_feature_ids) == (1767225600, ["old"])
    assert (answer.force_update, answer.user_evaluations_id) == (True, "42")


async def test_polls_are_read() -> None:
    flags = flags_response([{"id": "f"}], featureFlagsId="9", requestedAt="5")
    segments = segments_response([{"segmentId": "s"}], deletedSegmentIds=["gone"], requestedAt=5, forceUpdate=False)

    flags_answer = await ask(httpx, json_answer(flags), CALLS["get_feature_flags"][0])
    segments_answer = await ask(httpx, json_answer(segments), CALLS["get_segment_users"][0])

    assert (flags_answer.features, flags_answer.requested_at, flags_answer.force_update) == ([{"id": "f"}], 5, True)
    assert (flags_answer.feature_flags_id, flags_answer.archived_feature_flag_ids) == ("9", [])
    assert (segments_answer.segment_users, segments_answer.requested_at) == ([{"segmentId": "s"}], 5)
    assert (segments_answer.deleted_segment_ids, segments_answer.force_update) == (["gone"], False)


async def test_a_long_answer_is_read_off_the_loop() -> None:
    flags = flags_response([{"id": "x" * 1000}] * 500)

    answer = await ask(httpx, json_answer(flags), CALLS["get_feature_flags"][0])

    assert len(answer.features) == 500


async def test_ping_gives_the_time_of_the_server(library: ModuleType) -> None:
    def answer(request: Any) -> Any:
        assert (request.method, request.url.path) == ("GET", "/ping")
        return library.Response(200, json={"time": "1767225600"})

    assert await ask(library, answer, lambda api: api.ping()) == 1767225600


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b'{"errors":null}', b'{"errors":{}}', b'{"new":1}'])
async def test_register_events_without_errors(body: bytes) -> None:
    answer = await ask(httpx, lambda _: httpx.Response(200, content=body), CALLS["register_events"][0])

    assert answer.errors == {}


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", 1767225600),
        ("Thu, 01 Jan 2026 09:00:00 +0900", 1767225600),
        ("Thu, 01 Jan 2026 00:00:00 -0000", None),
        ("2026-01-01", None),
        ("Thu, 99 Jan 99999 00:00:00 GMT", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
async def test_register_events_gives_the_time_of_the_server(
    library: ModuleType, date: str | None, time: int | None
) -> None:
    headers = {} if date is None else {"date": date}

    answer = await ask(
        library, lambda _: library.Response(200, headers=headers, content=b"{}"), CALLS["register_events"][0]
    )

    assert answer.server_time == time


async def test_register_events_with_errors() -> None:
    errors = {"1": {"retriable": True, "message": "Failed to publish event"}, "2": {"message": "gateway: no"}, "3": {}}

    answer = await ask(httpx, json_answer({"errors": errors}), CALLS["register_events"][0])

    found = {event_id: (error.retriable, error.message) for event_id, error in answer.errors.items()}
    assert found == {"1": (True, "Failed to publish event"), "2": (False, "gateway: no"), "3": (False, "")}


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"null",
        b'"x"',
        b'{"errors"',
        b'{"errors":[]}',
        b'{"errors":{"1":null}}',
        b'{"errors":{"1":[]}}',
        b'{"errors":{"1":{"retriable":"yes"}}}',
        b'{"errors":{"1":{"message":5}}}',
        b'{"errors":5}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"errors":' + b"1" * 10_000 + b"}",
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
async def test_an_unreadable_answer_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        await ask(httpx, lambda _: httpx.Response(200, content=body), CALLS["register_events"][0])


@pytest.mark.parametrize(
    "change",
    [{"featureId": 5}, {"featureId": ""}, {"featureVersion": "x"}, {"featureVersion": True}, {"reason": "RULE"}],
    ids=str,
)
async def test_an_unusable_evaluation_is_a_decode_error(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        await ask(httpx, json_answer({"evaluation": EVALUATION | change}), CALLS["get_evaluation"][0])


async def test_a_list_with_a_wrong_entry_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="features has an entry that is not dict"):
        await ask(httpx, json_answer({"features": [None]}), CALLS["get_feature_flags"][0])


@pytest.mark.parametrize("name", ["register_events", "get_evaluation"])
async def test_an_endless_answer_is_not_read_to_its_end(library: ModuleType, name: str) -> None:
    sent = 0

    class Endless(library.AsyncByteStream):  # type: ignore[name-defined, misc]
        async def __aiter__(self) -> Any:
            nonlocal sent
            while True:
                sent += 65536
                yield b" " * 65536

    with pytest.raises(DecodeError, match="longer than 1048576 bytes"):
        await ask(library, lambda _: library.Response(200, stream=Endless()), CALLS[name][0])

    assert sent <= 2**20 + 2 * 65536


async def test_a_compressed_answer_is_refused_unread(library: ModuleType) -> None:
    def answer(_: Any) -> Any:
        return library.Response(
            200, headers={"content-encoding": "gzip"}, stream=library.ByteStream(b"\x1f\x8b not really")
        )

    with pytest.raises(DecodeError, match="compressed"):
        await ask(library, answer, CALLS["register_events"][0])


async def test_other_tasks_run_while_a_response_of_tiny_chunks_is_read(library: ModuleType) -> None:
    class Tiny(library.AsyncByteStream):  # type: ignore[name-defined, misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(10_000):
                yield b" "
            yield b"{}"

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turns = 0
    counting = asyncio.create_task(count_turns())
    await ask(library, lambda _: library.Response(200, stream=Tiny()), CALLS["register_events"][0])
    counting.cancel()

    assert turns > 100


# Errors


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b'{"code":3,"message":"gateway: missing events","details":[]}', 3, "gateway: missing events"),
        (b'{"code":"3","message":"x"}', None, ""),
        (b'{"code":true,"message":"x"}', None, ""),
        (b'{"code":3}', None, ""),
        (b"[]", None, ""),
        (b"<html>400</html>", None, ""),
        (b"", None, ""),
        (b"x" * 100_000, None, ""),
    ],
    ids=range(8),
)
async def test_a_status_error_has_the_words_of_the_gateway(
    library: ModuleType, body: bytes, code: int | None, detail: str
) -> None:
    with pytest.raises(StatusError) as caught:
        await ask(library, lambda _: library.Response(400, content=body), CALLS["get_evaluation"][0])

    assert (caught.value.status_code, caught.value.code, caught.value.detail) == (400, code, detail)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(library: ModuleType, status: int) -> None:
    requests = []

    def answer(request: Any) -> Any:
        requests.append(request)
        return library.Response(status, headers={"location": "https://elsewhere.test/"})

    with pytest.raises(StatusError):
        await ask(library, answer, CALLS["register_events"][0])

    assert len(requests) == 1


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 2.5 ", 2.5),
        ("0", 0.0),
        ("86400", 300.0),
        ("-5", None),
        ("inf", None),
        ("1e999", None),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("5 apples", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", None),
        ("Wed, 21 Oct 2215 07:27:00 GMT", 300.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, DATE) == seconds


def test_a_retry_after_date_is_read_by_our_clock_without_a_date() -> None:
    assert retry_after_seconds("Wed, 21 Oct 2215 07:27:00 GMT", None) == 300.0


async def test_retry_after_reaches_the_error(library: ModuleType) -> None:
    with pytest.raises(StatusError) as caught:
        await ask(library, lambda _: library.Response(429, headers={"retry-after": "7"}), CALLS["register_events"][0])

    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("name", "expected", "maybe_sent"),
    [
        ("ConnectError", ConnectionFailedError, False),
        ("ConnectTimeout", RequestTimeoutError, False),
        ("PoolTimeout", RequestTimeoutError, False),
        ("ReadTimeout", RequestTimeoutError, True),
        ("WriteTimeout", RequestTimeoutError, True),
        ("ReadError", ConnectionFailedError, True),
        ("WriteError", ConnectionFailedError, True),
        ("RemoteProtocolError", ConnectionFailedError, True),
        ("ProxyError", ConnectionFailedError, False),
        ("DecodingError", DecodeError, None),
    ],
)
async def test_errors_of_the_library_become_ours(
    library: ModuleType, name: str, expected: type[ApiError], maybe_sent: bool | None
) -> None:
    def answer(_: Any) -> Any:
        raise getattr(library, name)("it broke")

    with pytest.raises(expected, match="it broke") as caught:
        await ask(library, answer, CALLS["get_evaluation"][0])

    assert type(caught.value) is expected
    assert isinstance(caught.value.__cause__, getattr(library, name))
    assert getattr(caught.value, "maybe_sent", None) == maybe_sent


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), ssl.SSLError("tls"), UnicodeError("x")])
async def test_errors_of_the_socket_become_ours(error: Exception) -> None:
    def answer(_: Any) -> Any:
        raise error

    with pytest.raises(ConnectionFailedError):
        await ask(httpx, answer, CALLS["get_evaluation"][0])


async def test_a_bug_stays_a_bug() -> None:
    def answer(_: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await ask(httpx, answer, CALLS["get_evaluation"][0])


async def test_a_borrowed_client_that_was_closed_is_a_connection_error(library: ModuleType) -> None:
    http = library.AsyncClient()
    await http.aclose()

    async with client(http=http) as api:
        with pytest.raises(ConnectionFailedError, match="closed"):
            await api.ping()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda api: api.get_evaluation(USER, "flag", tag=""), ValueError),
        (lambda api: api.get_evaluation(USER, "", tag="shop"), ValueError),
        (lambda api: api.get_evaluation("user", "flag", tag="shop"), TypeError),
        (lambda api: api.get_evaluation(USER, "flag", tag=" "), ValueError),
        (lambda api: api.get_evaluations(USER, tag=""), ValueError),
        (lambda api: api.get_evaluations(USER, tag="a\nb"), ValueError),
        (lambda api: api.get_feature_flags(tag="\u3000"), ValueError),
        (lambda api: api.get_segment_users(segment_ids=[5]), TypeError),
        (lambda api: api.ping(timeout=-1), ConfigurationError),
    ],
    ids=range(9),
)
async def test_wrong_arguments_raise_before_anything_is_sent(call: Call, error: type[Exception]) -> None:
    requests: list[Any] = []

    with pytest.raises(error):
        await ask(httpx, requests.append, call)

    assert not requests


# Lifecycle


async def slow(_request: Any) -> httpx.Response:
    await asyncio.sleep(0.05)
    return httpx.Response(200, json={"time": "1"})


async def test_a_request_starts_the_client_and_close_is_final() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = client(http=http)
        assert await api.ping() == 1

        await asyncio.gather(api.aclose(), api.aclose())
        await api.aclose()

        for call in (api.ping, api.start):
            with pytest.raises(ClosedError, match="closed"):
                await call()
        assert not http.is_closed


async def test_a_client_that_was_never_started_closes() -> None:
    api = client()
    await api.aclose()

    with pytest.raises(ClosedError):
        await api.start()


async def test_our_own_client_is_made_once_and_closed() -> None:
    api = client()
    await asyncio.gather(api.start(), api.start(), api.start())
    (pool,) = api._connections.get()._pools._pools
    http: Any = pool.http
    assert not http.is_closed

    await api.aclose()

    assert http.is_closed
    request = http.build_request("GET", "https://gateway.test/ping")
    with pytest.raises(RuntimeError, match="closed"):
        await http.send(request)


async def test_a_proxy_that_cannot_be_used_is_a_configuration_error() -> None:
    api = client(proxy="nonsense://proxy")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the HTTP client cannot be made"):
            await api.start()
    await api.aclose()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_missing_certificates_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, "/nowhere/ca.pem")
    api = client()

    with pytest.raises(ConfigurationError, match=f"{variable} names '/nowhere/ca.pem'"):
        await api.start()
    monkeypatch.setenv(variable, str(tmp_path))
    if variable == "SSL_CERT_FILE":
        garbage = tmp_path / "ca.pem"
        garbage.write_text("no certificate\n")
        monkeypatch.setenv(variable, str(garbage))
        with pytest.raises(ConfigurationError, match=r"the certificates of SSL_CERT_FILE .* cannot be loaded"):
            await api.start()
    else:
        await api.start()
    await api.aclose()


@pytest.mark.parametrize("entry", ["[::1]", "fd00::/8", "[::1]:9000", "*.example.com"])
async def test_an_entry_of_no_proxy_that_httpx_cannot_read_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", entry)

    async with client():
        assert not caplog.messages


async def test_entries_of_no_proxy_that_nobody_can_read_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "[::1,other.test,exa$mple")

    async with client() as api:
        for pools in (api._connections.get()._pools, api._connections.get().event_pools):
            pools.add()

    assert caplog.messages == ["NO_PROXY has entries that cannot be read and are ignored: ['[::1', 'exa$mple']"]


@pytest.mark.parametrize(
    ("least", "expected"), [("TLSv1", "TLSv1_2"), ("MINIMUM_SUPPORTED", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")]
)
async def test_our_own_client_speaks_at_least_tls_1_2(
    monkeypatch: pytest.MonkeyPatch, least: str, expected: str
) -> None:
    context = ssl.create_default_context()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion[least]  # as the configuration of OpenSSL may have it
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: context)

    async with client():
        assert context.minimum_version is ssl.TLSVersion[expected]


class Contexts:
    """Makes SSL contexts as httpx does, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        monkeypatch.setattr(httpx, "create_ssl_context", self.make)

    def make(self) -> ssl.SSLContext:
        self.made += 1
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def test_clients_of_a_process_share_one_ssl_context(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts(monkeypatch)

    async with client(), client() as api:
        api._connections.get().event_pools.add()

    assert contexts.made == 1


async def test_a_client_sees_new_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contexts, file = Contexts(monkeypatch), tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    async with client():
        pass
    os.utime(file, (0, 0))
    async with client(), client():
        pass

    assert contexts.made == 2


async def test_plain_http_loads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts(monkeypatch)

    async with client(endpoint="http://127.0.0.1:1"):
        pass

    assert not contexts.made


async def test_a_request_under_way_is_ended_by_close() -> None:
    async def never(_request: Any) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as http:
        api = client(http=http)
        asking = asyncio.create_task(api.ping())
        await anyio.wait_all_tasks_blocked()

        await api.aclose()

        with pytest.raises(ClosedError, match="while the request was under way"):
            await asking


async def test_the_deadline_is_over_the_whole_request() -> None:
    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                await asyncio.sleep(0.01)
                yield b" "

    with pytest.raises(RequestTimeoutError, match=r"longer than 0\.1 s"):
        await ask(httpx, lambda _: httpx.Response(200, stream=Dripping()), lambda api: api.ping(timeout=0.1))


async def test_a_request_that_gets_no_connection_in_time_was_not_sent() -> None:
    async def never(_request: Any) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(never)) as http,
        client(http=http, max_connections=1) as api,
    ):
        first = asyncio.create_task(api.ping(timeout=0.2))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RequestTimeoutError, match="no connection was free") as caught:
            await api.ping(timeout=0.05)
        assert not caught.value.maybe_sent
        with pytest.raises(RequestTimeoutError):
            await first


@in_virtual_time
async def test_waiting_for_a_connection_counts_in_the_deadline() -> None:
    async def slowly(_request: Any) -> httpx.Response:
        await asyncio.sleep(3.0)
        return httpx.Response(200, json={"time": "1"})

    now = asyncio.get_running_loop().time
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(slowly)) as http,
        client(http=http, max_connections=1) as api,
    ):
        first = asyncio.create_task(api.ping(timeout=4.0))
        await asyncio.sleep(1.0)
        with pytest.raises(RequestTimeoutError):  # waits for 2 seconds, and would need 3 more
            await api.ping(timeout=4.0)

        assert now() == pytest.approx(5.0)
        assert await first == 1


async def test_a_cancelled_caller_does_not_cancel_the_request() -> None:
    answered = asyncio.Event()

    async def answer(_request: Any) -> httpx.Response:
        await asyncio.sleep(0.02)
        answered.set()
        raise httpx.ReadError("nobody is there to hear it")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http, client(http=http) as api:
        asking = asyncio.create_task(api.ping())
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        await asyncio.wait_for(answered.wait(), 5)


class Draining:
    def __init__(self) -> None:
        self.begun = 0

    def begin_closing(self) -> None:
        self.begun += 1


async def test_a_lease_is_told_to_drain_and_holds_the_connections_until_it_is_released() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        api = client(http=http)
        await api.start()
        processor = Draining()
        lease = api.lease(processor.begin_closing)
        closing = asyncio.create_task(api.aclose())
        await asyncio.sleep(0.01)

        assert processor.begun == 1
        assert (await lease.register_events([b"{}"], timeout=1.0)).errors == {}
        assert not closing.done()
        lease.release()
        await closing

        with pytest.raises(ConnectionFailedError, match="the lease is released"):
            await lease.register_events([b"{}"], timeout=1.0)


async def test_a_processor_that_is_gone_does_not_hold_up_the_closing() -> None:
    api = client()
    await api.start()
    api.lease(Draining().begin_closing)

    await asyncio.wait_for(api.aclose(), 5)


async def test_a_cancelled_closer_stops_waiting_and_the_closing_goes_on() -> None:
    api = client()
    await api.start()
    processor = Draining()
    lease = api.lease(processor.begin_closing)
    http: Any = api._connections.get()._pools._pools[0].http
    with anyio.move_on_after(0.01):
        await api.aclose()
    assert not http.is_closed

    lease.release()
    await api.aclose()

    assert http.is_closed


def test_another_loop_gets_a_wrong_loop_error() -> None:
    async def start() -> ApiClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(slow))
        api = client(http=http)
        await api.start()
        return api

    api = asyncio.run(start())

    for call in (api.ping, api.aclose, api.start):
        with pytest.raises(WrongLoopError, match="another event loop"):
            asyncio.run(call())  # type: ignore[arg-type]


async def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bucketeer_async")

    with pytest.raises(StatusError):
        await ask(httpx, lambda _: httpx.Response(500), CALLS["get_evaluation"][0])

    assert KEY not in caplog.text
    assert "user-1" not in caplog.text
