"""What strangers and careless clients send: answered at once, with 4xx, and then forgotten."""

import asyncio
import gc
import io
import json
import random
from collections.abc import AsyncIterator

import pytest

from kproxy.simulator.api import apiserver
from tests.simulator.api_client import SERVICES, Api
from tests.simulator.objects import new_registry

ONE = f"{SERVICES}/web"
YAML, JSON = "application/yaml", "application/json"
MILLION = 1_000_000


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    objects = new_registry()
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
        made = Api(server, objects)
        made.make("web")
        async with made.session:
            yield made


def _bomb() -> bytes:
    """Nine levels of nine aliases: 400 bytes that stand for 3.5 GB."""
    lines = ["a: &a [" + ",".join("x" * 9) + "]"]
    for level in range(9):
        inner, outer = "abcdefghij"[level], "abcdefghij"[level + 1]
        lines.append(f"{outer}: &{outer} [" + ",".join([f"*{inner}"] * 9) + "]")
    return "\n".join(lines).encode()


def _with_port(number: str) -> bytes:
    return b'{"metadata":{"name":"x"},"spec":{"ports":[{"port":%s}]}}' % number.encode()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        pytest.param(_bomb(), YAML, "aliases counted in full", id="alias bomb"),
        pytest.param(
            b"a: &a " + b"x" * MILLION + b"\nb: [" + b"*a," * 2000 + b"]",
            YAML,
            "aliases counted in full",
            id="aliases of one long string",
        ),
        pytest.param(b"[" * 100_000, YAML, "error converting YAML to JSON", id="deep YAML"),
        pytest.param(b"[" * 100_000, JSON, "must be of type JSON", id="deep JSON"),
        pytest.param(
            b'{"metadata":{"annotations":' + b"[" * 500 + b"]" * 500 + b"}}",
            JSON,
            "nested more than 100 deep",
            id="deep and complete",
        ),
        pytest.param(_with_port("NaN"), JSON, "must be of type JSON", id="NaN"),
        pytest.param(_with_port("1e999"), JSON, "must be of type JSON", id="infinity"),
        pytest.param(_with_port("9" * 30), JSON, "", id="30 digits"),
        pytest.param(_with_port("9" * 5000), JSON, "must be of type JSON", id="5000 digits"),
        pytest.param(
            b"!!python/object:os.system {}", YAML, "error converting YAML to JSON", id="a tag"
        ),
        pytest.param(b'{"metadata":{"name":"\\ud800"}}', JSON, "", id="half a surrogate pair"),
        pytest.param(b"\xff\x00", YAML, "", id="bytes"),
        pytest.param(b"", YAML, "not an object", id="nothing"),
        pytest.param(b"null", JSON, "not an object", id="null"),
    ],
)
@pytest.mark.parametrize("path", [SERVICES, "/apis/apps/v1/namespaces/default/deployments"])
async def test_bodies(api: Api, path: str, body: bytes, kind: str, words: str) -> None:
    headers = {"Content-Type": kind}
    code, answer = await api.ask("POST", path, data=body, headers=headers)
    assert (code, answer["kind"]) == (400, "Status")
    assert words in answer["message"]


@pytest.mark.parametrize(
    "text",
    ["a: 9" + "9" * 30, "a: 1\na: 2", "a: 22:30:" + "1:" * 200_000],
    ids=["30 digits", "a key twice", "sexagesimal"],
)
async def test_yaml_that_is_odd_is_read_at_once(api: Api, text: str) -> None:
    headers = {"Content-Type": YAML}
    async with asyncio.timeout(60):
        code, _ = await api.ask("POST", SERVICES, data=text.encode(), headers=headers)
    assert code in (400, 422)


async def test_a_key_given_twice_in_json_counts_the_last_time(api: Api) -> None:
    """As in Go's encoding/json."""
    body = b'{"metadata":{"name":"a","name":"b"},"spec":{"ports":[{"port":80}]}}'
    headers = {"Content-Type": JSON}
    code, made = await api.ask("POST", SERVICES, data=body, headers=headers)
    assert (code, made["metadata"]["name"]) == (201, "b")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_body_of_ten_megabytes(api: Api, method: str) -> None:
    path = SERVICES if method == "POST" else ONE
    headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else JSON}
    code, answer = await api.ask(
        method, path, data=io.BytesIO(b" " * 10 * MILLION), headers=headers
    )
    assert (code, answer["reason"]) == (413, "RequestEntityTooLarge")


PARAMETERS = (
    *("limit", "continue", "resourceVersion", "resourceVersionMatch", "timeoutSeconds"),
    *("allowWatchBookmarks", "sendInitialEvents", "labelSelector", "fieldSelector", "dryRun"),
    *("gracePeriodSeconds", "propagationPolicy", "includeObject", "pretty", "fieldManager"),
)
VALUES = (
    *("", "0", "-1", "9" * 5000, "-" + "9" * 5000, "abc", "\u0665", "NaN", "1e9", "\0", "%00"),
    *("{}", "!", "=", "a in (", "spec.foo=1", "e30", "W10", "Exact", "true", "a" * 7000),
)
PATHS = (SERVICES, ONE, f"{ONE}/status", "/api/v1/services", "/simulator/faults", "/openapi/v3/x")


@pytest.mark.parametrize("name", PARAMETERS)
async def test_query_parameters(api: Api, name: str) -> None:
    for path in PATHS:
        for value in VALUES:
            code, answer = await api.get(path, **{name: value})
            assert code < 500 or code == 504, (path, name, value[:20], answer)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "timeoutSeconds"])
async def test_query_parameters_of_watches(api: Api, name: str) -> None:
    for value in VALUES:
        query = {"watch": "1", "timeoutSeconds": "-1", name: value}
        async with api.session.get(api.server.url + SERVICES, params=query) as answer:
            await answer.read()
        assert answer.status < 500, (name, value[:20])


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "POST"])
async def test_query_parameters_of_writes(api: Api, method: str) -> None:
    kind = "application/merge-patch+json" if method == "PATCH" else JSON
    for name in ("dryRun", "gracePeriodSeconds", "propagationPolicy", "fieldValidation"):
        for value in VALUES:
            options = {"params": {name: value}, "headers": {"Content-Type": kind}}
            code, answer = await api.ask(method, f"{SERVICES}/none", data=b"{}", **options)
            assert 400 <= code < 500, (name, value[:20], answer)


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(HEAD + b"A: " + b"a" * MILLION + b"\r\n\r\n", id="a header of 1 MB"),
        pytest.param(
            HEAD + b"A: aaaaaaaaa\r\n" * 70_000 + b"\r\n",
            id="70,000 headers",
            marks=pytest.mark.extra,
        ),
        pytest.param(
            b"GET /" + b"a" * MILLION + b" HTTP/1.1\r\n\r\n",
            id="a URL of 1 MB",
            marks=pytest.mark.extra,
        ),
        pytest.param(random.Random(1).randbytes(MILLION), id="noise", marks=pytest.mark.extra),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"a" * MILLION,
            id="a body of 1 MB without a token",
        ),
    ],
)
async def test_nothing_is_left_of_a_request_that_is_refused(api: Api, request_: bytes) -> None:
    """With the collector off: what is in a cycle stays, megabytes of buffers too."""

    async def send() -> None:
        reader, writer = await asyncio.open_connection(api.server.address, api.server.port)
        try:
            writer.write(request_)
            await writer.drain()
            await reader.read(4096)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    await send()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await send()
        async with asyncio.timeout(60):
            while _connections(api):  # noqa: ASYNC110  # nothing tells when
                await asyncio.sleep(0.01)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        held = sum(_size(each) for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert held < 100_000


def _connections(api: Api) -> int:
    runner = api.server._runner
    assert runner is not None
    assert runner.server is not None
    return len(runner.server.connections)


def _size(value: object) -> int:
    """Bytes of a text, a buffer or a collection of them."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, tuple | list | dict):
        return len(json.dumps(value, default=lambda each: repr(each)[:100], skipkeys=True))
    return 0
