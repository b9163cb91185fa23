"""What the control socket answers, and to whom.

Cases: S21 of docs/faults.md.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from kproxy import errors, events, metrics, turns
from kproxy.model import addresses, admission, forwarding
from kproxy.ops.serving import places, responder
from kproxy.ops.views import control, control_client
from kproxy.sources import source
from tests.e2e.rig import programs
from tests.ops import observing, surfaces
from tests.reconcile import builders

Events: TypeAlias = Generator[tuple[str, dict[str, Any]], None, None]


class Asked:
    """A proxy with a control socket."""

    def __init__(self, proxy: observing.Proxy, path: Path) -> None:
        self.proxy = proxy
        self.path = path
        self.told: list[str] = []

    async def fetch(self, resource: str, **chosen: str) -> list[dict[str, Any]]:
        """As `kproxy get` does."""
        return await asyncio.to_thread(
            lambda: control_client.fetch(
                self.path,
                resource,
                namespace=chosen.get("namespace", ""),
                name=chosen.get("name", ""),
                selector=chosen.get("selector", ""),
                on_warning=self.told.append,
            )
        )


@contextlib.asynccontextmanager
async def listening(proxy: observing.Proxy, path: Path) -> AsyncIterator[None]:
    """The control server of `proxy` at `path`."""
    listener = responder.Listener(
        "control", places.UnixPlace(path), lambda: control.make_site(proxy.seen, turns.Turns())
    )
    listener.bind()
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            yield
            running.cancel()
    finally:
        listener.close()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    path = tmp_path / "control.sock"
    with observing.proxy() as proxy:
        async with listening(proxy, path):
            yield Asked(proxy, path)


async def test_services_are_sorted_and_narrowed(asked: Asked) -> None:
    asked.proxy.serve("web")
    asked.proxy.serve("web", "db", "app")

    assert [view["name"] for view in await asked.fetch("services")] == ["app", "db", "web"]
    (view,) = await asked.fetch("services", namespace="default", name="db")
    assert (view["name"], view["port_name"], view["cluster_ip"]) == ("db", "http", "10.0.0.2")
    assert await asked.fetch("services", namespace="other") == []


async def test_a_service_that_is_not_served_is_an_error_of_its_own(asked: Asked) -> None:
    asked.proxy.serve("web")

    for resource in control.RESOURCES:
        with pytest.raises(errors.KproxyError, match='"nope" not found in any namespace'):
            await asked.fetch(resource, name="nope")
        with pytest.raises(errors.KproxyError, match='"web" not found in namespace other'):
            await asked.fetch(resource, name="web", namespace="other")


async def test_labels_narrow_to_services_that_have_them(asked: Asked) -> None:
    asked.proxy.serve("web", "db", "app", labels={"web": {"tier": "front"}, "db": {"tier": "back"}})

    async def named(selector: str) -> list[str]:
        return [view["name"] for view in await asked.fetch("services", selector=selector)]

    assert await named("tier=front") == ["web"]
    assert await named("tier in (front, back)") == ["db", "web"]
    assert await named("!tier") == ["app"]
    assert [view["labels"] for view in await asked.fetch("services", name="db")] == [
        {"tier": "back"}
    ]
    with pytest.raises(errors.KproxyError, match="unable to parse requirement"):
        await asked.fetch("services", selector="tier in")


async def test_events_of_a_service_have_what_happened_to_its_endpoints(asked: Asked) -> None:
    proxy = asked.proxy
    proxy.serve("web", "db")
    proxy.proxier.mark(proxy.source.store.apply(builders.sliced("web", "10.1.0.1:80")))
    proxy.proxier.sync()
    await proxy.refresh()
    for address in ("10.1.0.1", "10.9.9.9"):
        proxy.feed.record(events.EndpointBoxed(0.0, (address, 80)))

    async def boxed(**chosen: str) -> list[str]:
        views = await asked.fetch("events", **chosen)
        return [v["details"]["endpoint"] for v in views if v["reason"] == "EndpointBoxed"]

    assert await boxed() == ["10.1.0.1:80", "10.9.9.9:80"]
    assert await boxed(name="web") == ["10.1.0.1:80"]
    assert await boxed(name="db") == []
    proxy.serve("db")
    await proxy.refresh()
    assert await boxed(name="web") == ["10.1.0.1:80"], "it was the Service's when it was boxed"


async def test_recent_events_are_narrowed_as_services_are(asked: Asked) -> None:
    asked.proxy.serve("web", "db")

    async def told(**chosen: str) -> set[tuple[str, str]]:
        await asked.proxy.refresh()
        return {(view["service"], view["reason"]) for view in await asked.fetch("events", **chosen)}

    assert {("web", "ServiceChanged"), ("db", "ServiceChanged")} <= await told()
    assert {service for service, _ in await told(name="web")} == {"web"}
    assert await told(namespace="other") == set()
    asked.proxy.serve("db")
    assert ("web", "ServiceChanged") in await told(name="web"), "it is gone, its facts are not"
    with pytest.raises(errors.NotServedError):
        await asked.fetch("events", name="nope")
    with pytest.raises(errors.KproxyError, match="labels"):
        await asked.fetch("events", selector="a=b")


async def test_the_whole_proxy_in_one_answer(asked: Asked) -> None:
    asked.proxy.serve("web", "db")

    view = await asyncio.to_thread(control_client.fetch_status, asked.path)

    assert (view["ready"], view["services"], view["service_ports"]) == (True, 2, 2)
    assert view["frontends"] == {"collision": 1, "no-endpoints": 1}
    assert view["source"] == {
        "description": "still",
        "has_synced": True,
        "unread_seconds": {},
        "problems": 0,
    }
    assert view["connections"]["active"] == 0
    assert view["dropped_log_lines"] == 7
    assert view["node"] == {"name": "", "zone": ""}
    assert asked.proxy.proxier.place("eu-1a")
    view = await asyncio.to_thread(control_client.fetch_status, asked.path)
    assert view["node"]["zone"] == "eu-1a"


async def test_notes_are_no_problems(asked: Asked) -> None:
    asked.proxy.source.found = tuple(
        source.Problem(severity, "web.yaml:1", "Service default/web", "is so")
        for severity in admission.Severity
    )
    view = await asyncio.to_thread(control_client.fetch_status, asked.path)
    assert view["source"]["problems"] == 2, "the error and the warning"


@contextlib.contextmanager
def watching_events(asked: Asked, resource: str) -> Iterator[Events]:
    """The events of a watch; the client leaves with the block."""
    stream = control_client.watch(asked.path, resource, on_warning=asked.told.append)
    yield stream
    stream.close()


async def event(stream: Events) -> tuple[str, str]:
    """The next event and the name in it, read in a thread."""
    kind, view = await asyncio.to_thread(next, stream)
    return kind, view.get("name", "")


async def test_a_watch_lasts_and_sends_what_changes(asked: Asked) -> None:
    asked.proxy.serve("web")
    with watching_events(asked, "services") as stream:
        assert await event(stream) == ("ADDED", "web")
        assert await event(stream) == ("BOOKMARK", "")
        asked.proxy.serve("web", "zoo")
        assert await event(stream) == ("ADDED", "zoo")
        asked.proxy.serve("zoo")
        assert await event(stream) == ("MODIFIED", "zoo"), "its address has moved"
        assert await event(stream) == ("DELETED", "web")


async def test_there_are_few_watches_at_a_time(asked: Asked) -> None:
    with contextlib.ExitStack() as open_ones:
        for _ in range(control.MAX_WATCHES):
            stream = open_ones.enter_context(watching_events(asked, "services"))
            assert await event(stream) == ("BOOKMARK", "")
        with (
            watching_events(asked, "services") as refused,
            pytest.raises(errors.KproxyError, match="4 watches run already"),
        ):
            await event(refused)
        assert await asked.fetch("services") == []

    async with asyncio.timeout(surfaces.SECONDS):
        while True:
            with contextlib.suppress(errors.KproxyError), watching_events(asked, "services") as one:
                assert await event(one) == ("BOOKMARK", "")
                break
            await asyncio.sleep(0.05)


async def test_a_watch_outlives_a_crowd_of_other_connections(asked: Asked) -> None:
    with watching_events(asked, "services") as stream, contextlib.ExitStack() as crowd:
        assert await event(stream) == ("BOOKMARK", "")
        for _ in range(2 * responder.MAX_CONNECTIONS):
            sock = crowd.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(asked.path))
            await asyncio.sleep(0)
        assert await asked.fetch("services") == []
        asked.proxy.serve("web")
        assert await event(stream) == ("ADDED", "web")


async def test_a_watch_ends_with_the_proxy_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with observing.proxy() as proxy, watching_events(Asked(proxy, path), "services") as stream:
        async with listening(proxy, path):
            assert await event(stream) == ("BOOKMARK", "")
        with pytest.raises(errors.KproxyError, match="has ended"):
            await event(stream)


async def test_affinity_shows_which_client_is_bound_where_and_for_how_long(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with observing.open_proxy() as proxy:
        proxy.serve("web", "db", affinity=100)
        proxy.give("web", addresses.SocketAddress("10.1.0.1", 8080))
        cluster = proxy.port("web").balancer(forwarding.Scope.CLUSTER, addresses.Family.IPV4)
        cluster.pick("192.0.2.1", asyncio.get_running_loop().time())
        async with listening(proxy, path):
            (view,) = await Asked(proxy, path).fetch("affinity")

    assert 0 < view.pop("expires_in_seconds") <= 100
    assert view == {
        "namespace": "default",
        "service": "web",
        "port_name": "http",
        "protocol": "TCP",
        "scope": "cluster",
        "client": "192.0.2.1",
        "backend_address": "10.1.0.1",
        "backend_port": 8080,
    }


async def test_a_server_out_of_contact_is_a_warning_that_has_the_time(tmp_path: Path) -> None:
    watched = [metrics.ReflectorCounters("services"), metrics.ReflectorCounters("endpoints")]
    path = tmp_path / "control.sock"
    with observing.proxy(watched) as proxy:
        proxy.serve("web")
        async with listening(proxy, path):
            asked = Asked(proxy, path)
            now = time.monotonic()
            for each in watched:
                each.contact.heard_at = now - 60
            await asked.fetch("services")
            assert asked.told == []

            watched[1].contact.heard_at = now - 3600
            watched[1].contact.failing_since = now - 3530
            for resource in control.RESOURCES:
                await asked.fetch(resource)
            with pytest.raises(errors.KproxyError, match='"nope" not found'):
                await asked.fetch("services", name="nope")

    assert len(asked.told) == len(control.RESOURCES) + 1
    for warning in asked.told:
        assert re.match(r"endpoints could not be read for 36[0-9]{2} s: ", warning)
        assert "last known state" in warning


async def test_an_incomplete_state_is_a_warning(asked: Asked) -> None:
    asked.proxy.source.has_synced = False
    await asked.fetch("services")
    asked.proxy.source.has_synced = True
    await asked.fetch("services")

    assert asked.told == ["not every Service and endpoint has been read yet"]


async def test_a_great_many_come_whole(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    asked.proxy.serve(*(f"web-{number}" for number in range(500)))

    assert len({view["name"] for view in await asked.fetch("services")}) == 500


async def test_nothing_else_is_there(asked: Asked) -> None:
    assert (await surfaces.get(str(asked.path), "/v1/secrets"))[0] == 404
    assert (await surfaces.get(str(asked.path), "/v1/services", verb="POST"))[0] == 405
    status, _, body = await surfaces.get(str(asked.path), "/v1/services", verb="HEAD")
    assert (status, body) == (200, b"")
    _, headers, body = await surfaces.get(str(asked.path), "/v1/services")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
async def test_another_user_is_not_answered_whatever_the_mode_of_the_socket() -> None:
    someone = ("--reuid", "65534", "--regid", "65534", "--clear-groups")
    with tempfile.TemporaryDirectory() as folder, observing.proxy() as proxy:
        path = Path(folder, "control.sock")
        command = [
            *(programs.need("setpriv"), *someone, programs.need("curl"), "-s"),
            *("--unix-socket", str(path), "http://kproxy/v1/services"),
        ]
        async with listening(proxy, path):
            _open_to_all(Path(folder))
            closed = await _output(command)
            _open_to_all(path)
            opened = await _output(command)

    assert closed == ""
    assert "another user" in opened


def _open_to_all(path: Path) -> None:
    path.chmod(0o777)


async def _output(command: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(surfaces.SECONDS):
        output, _ = await process.communicate()
    return output.decode()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[{", id="half an answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[{", id="half a document"),
        pytest.param(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\noh", id="a failure"),
    ],
)
async def test_whoever_answers_something_else_is_named(tmp_path: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = tmp_path / "control.sock"
    async with await asyncio.start_unix_server(talk, path):
        with pytest.raises(errors.KproxyError, match=rf"{path}.*--control"):
            await asyncio.to_thread(control_client.fetch, path, "services")
