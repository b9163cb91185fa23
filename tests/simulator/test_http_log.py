"""Strangers cannot write to the simulator's stderr; bugs are logged."""

import asyncio

import pytest
from aiohttp import web

from kproxy.simulator import http_log
from kproxy.simulator.api import apiserver
from kproxy.simulator.machines import pod_server
from tests.e2e.rig import manifests
from tests.simulator.objects import new_registry

PORT = 8080
NONSENSE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
    b"B@D / HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n\r\n",
)


async def answer(address: str, port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(request)
    async with asyncio.timeout(60):
        answered = await reader.readline()
    writer.close()
    return answered


@pytest.mark.parametrize("request_bytes", NONSENSE)
async def test_nonsense_is_answered_and_not_logged(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pod_ip = manifests.fresh_ip(127)
    pod = pod_server.PodServer(lambda: {"metadata": {}}, [pod_ip], [PORT])
    await pod.open()
    try:
        async with apiserver.ApiServer(new_registry(), tokens={"secret": "admin"}) as api:
            for address, port in ((api.address, api.port), (pod_ip, PORT)):
                assert b" 400 " in await answer(address, port, request_bytes)
    finally:
        pod.abort()
    assert caplog.records == []


async def test_a_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def bug(_: web.BaseRequest) -> web.StreamResponse:
        raise ZeroDivisionError

    server = web.Server(bug, logger=http_log.LOGGER)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        assert b" 500 " in await answer("127.0.0.1", port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    finally:
        listening.close()
        await server.shutdown(0)
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
