"""Pods over HTTP and HTTPS: what they answer, and on which path."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kproxy.simulator import certificates
from kproxy.simulator.kinds import pods
from kproxy.simulator.kinds.behaviour import answers
from kproxy.simulator.machines import pod_answers, pod_server
from tests.e2e.rig import manifests

ADDRESS = "127.0.0.1"


@contextlib.asynccontextmanager
async def serving(
    program: pod_answers.Program | None = None, /, **annotations: str
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A pod on a free port, a session, and the pod's URL."""
    pod = {
        "metadata": {"name": "web-1", "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": "node-1"},
    }
    port = manifests.free_port(ADDRESS)
    server = pod_server.PodServer(lambda: pod, [ADDRESS], [port], program=program)
    await server.open()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield session, f"http://{ADDRESS}:{port}"
    finally:
        await server.drain()
        await server.close()


async def test_a_path_has_the_answer_that_was_ordered() -> None:
    ordered = {
        "/users": {"body": "[]", "headers": {"Content-Type": "application/json"}},
        "/gone/": {"status": 410},
        "/empty": {"status": 204},
        "/moved": {"status": 301, "headers": {"Location": "/users"}, "body": ""},
    }
    async with serving(**{answers.ANNOTATION_ANSWERS: json.dumps(ordered)}) as (session, url):
        async with session.get(f"{url}/users?q=1") as answer:
            assert (answer.status, await answer.json()) == (200, [])
        async with session.get(f"{url}/gone/a") as answer:
            assert answer.status == 410
            assert "request: GET /gone/a" in await answer.text()
        async with session.get(f"{url}/empty") as answer:
            assert (answer.status, await answer.text()) == (204, "")
        async with session.get(f"{url}/moved", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (301, "/users")


async def test_a_program_answers_and_leaves_to_the_pod_what_is_not_its_own() -> None:
    async def run(pod: dict[str, Any], request: web.BaseRequest) -> web.Response | None:
        if request.path == "/mine":
            return web.Response(status=202, text=pod["metadata"]["name"])
        return None

    async with serving(run) as (session, url):
        async with session.get(f"{url}/mine") as answer:
            assert (answer.status, await answer.text()) == (202, "web-1")
        async with session.get(f"{url}/other") as answer:
            assert "request: GET /other" in await answer.text()


async def test_what_arrived_comes_back_as_json_on_demand() -> None:
    headers = {"Accept": "application/json", "X-Forwarded-For": "10.0.0.1"}
    async with (
        serving() as (session, url),
        session.get(f"{url}/echo", headers=headers) as answer,
    ):
        found = await answer.json()
    assert found["pod"] == "web-1"
    assert found["request"] == "GET /echo"
    assert found["headers"]["X-Forwarded-For"] == ["10.0.0.1"]
    assert "scheme" not in found


async def test_a_large_body_leaves_the_connection_usable() -> None:
    size = 3 * 1024 * 1024
    async with serving() as (_, url):
        _, port = url.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(ADDRESS, int(port))
        for _ in range(2):
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            writer.write(head.encode() + b"x" * size)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            assert f"body-bytes: {size}\n".encode() in body
        writer.transport.abort()


@pytest.fixture(scope="module")
def authority() -> certificates.Certificate:
    return certificates.self_signed([ADDRESS], ["localhost"], datetime.now(UTC))


def trusting(authority: certificates.Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


async def test_one_pod_speaks_http_and_https(authority: certificates.Certificate) -> None:
    pod: Any = {
        "metadata": {"name": "web-1", "namespace": "default"},
        "spec": {"nodeName": "node-1"},
    }
    made = certificates.issued(authority, [ADDRESS], ["*.default.svc"], datetime.now(UTC))
    plain, secure = manifests.free_port(ADDRESS), manifests.free_port(ADDRESS)
    server = pod_server.PodServer(
        lambda: pod,
        [ADDRESS],
        [plain, secure],
        https_ports=[secure],
        tls=made.server_context(),
    )
    await server.open()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{ADDRESS}:{plain}/") as answer:
            assert "scheme" not in await answer.text()
        context = trusting(authority)
        for _ in range(2):
            async with session.get(f"https://{ADDRESS}:{secure}/", ssl=context) as answer:
                assert "scheme: https" in await answer.text()
        # The name that a proxy checks is that of the Service.
        reader, writer = await asyncio.open_connection(
            ADDRESS, secure, ssl=context, server_hostname="web.default.svc"
        )
        writer.transport.abort()
        del reader
        # The session's connections are idle: they must not hold up the end.
        async with asyncio.timeout(60):
            await server.drain()
            await server.close()


def test_the_annotations_name_the_ports() -> None:
    pod: Any = {
        "metadata": {
            "annotations": {
                pods.ANNOTATION_PORTS: "8080",
                pods.ANNOTATION_HTTPS_PORTS: "8443, 9443",
                pods.ANNOTATION_HTTPS_CERTIFICATE: "shop",
            }
        },
        "spec": {"containers": [{"ports": [{"containerPort": 8443}]}]},
    }
    assert pods.ports(pod) == [8443, 8080, 9443]
    assert pods.https_ports(pod) == [8443, 9443]
    assert pods.certificate_secret(pod) == "shop"
