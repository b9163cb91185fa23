"""One real nginx: started, changed, killed, refused what it cannot read, and never left behind."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kproxy import errors, metrics, settings
from kproxy.ingress import nginx_config
from kproxy.ingress.daemon import lifeline, listening, nginx, private_directory, processes, program
from tests.e2e.rig import daemon, programs

DEADLINE = 20.0
"""Seconds in which what a test waits for must happen."""

LOOPBACK = settings.Listen("127.0.0.1", 0)

TEXT = """
daemon off; worker_processes {workers}; pid nginx.pid; error_log stderr notice;
worker_shutdown_timeout 60s;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxied; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen unix:{control}; return 200 "{version}"; }}
    server {{ listen {http}; location / {{ return 200 "{says} $pid"; }} {more} }}
}}
"""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nginx is slow, on a busy machine, it gets its time."""
    monkeypatch.setattr(nginx, "ANSWER_SECONDS", DEADLINE)
    monkeypatch.setattr(processes, "PATIENCE", DEADLINE)


class Running:
    """An nginx under test, and what a client sees of it."""

    def __init__(self, folder: Path) -> None:
        self.directory = private_directory.PrivateDirectory(folder)
        self.sockets = listening.Listening()
        self.sockets.bind(LOOPBACK, None)
        self.sockets.bind_control(self.directory.path / listening.CONTROL)
        self.counters = metrics.IngressCounters()
        path = Path(programs.need("nginx"))
        self.nginx = nginx.Nginx(path, self.directory, self.sockets, self.counters)
        self.place = listening.place(self.sockets.http)

    def configuration(self, says: str, more: str = "", workers: int = 2) -> nginx_config.Rendered:
        """That of a server which says `says`."""
        control = self.directory.path / listening.CONTROL
        text = TEXT.format(
            control=control,
            version=says,
            http=self.place,
            says=says,
            more=more,
            workers=workers,
        )
        return nginx_config.Rendered(text, {}, says)

    @property
    def pid(self) -> int:
        """The master, which must be there."""
        assert self.nginx.pid is not None
        return self.nginx.pid

    async def ask(self) -> str:
        """What a new client is answered."""
        assert self.place is not None
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(*self.place)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return answer.rpartition(b"\r\n\r\n")[2].decode()

    async def says(self) -> str:
        """The word that its configuration has it say."""
        return (await self.ask()).split()[0]

    def close(self) -> None:
        self.nginx.close()
        self.sockets.close()
        self.directory.close()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """An nginx that `run` keeps; afterwards none of its processes is left."""
    made = Running(folder)
    pid = None
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.nginx.run())
            yield made
            pid = made.nginx.pid
            task.cancel()
    finally:
        made.close()
    if pid is not None:
        await wait_until(lambda: not daemon.group(pid))


async def wait_until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # nothing tells when
            await asyncio.sleep(0.01)


async def test_no_worker_can_block_on_a_socket_that_it_inherits(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        assert [os.get_blocking(each) for each in made.sockets.descriptors()] == [False, False]


async def test_a_change_is_in_force_when_put_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        assert await made.nginx.put(made.configuration("first")) == ""
        pid = made.nginx.pid
        assert await made.says() == "first"
        assert await made.nginx.put(made.configuration("second")) == ""
        answers = {await made.says() for _ in range(20)}

        assert answers == {"second"}
        assert made.nginx.pid == pid
    assert (made.counters.configurations, made.counters.reloads) == (2, 1)


async def test_what_nginx_refuses_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        assert await made.nginx.put(made.configuration("good")) == ""
        words = await made.nginx.put(made.configuration("bad", "no_such_directive on;"))

        assert words == 'unknown directive "no_such_directive" in candidate.conf:10'
        assert await made.says() == "good"
        os.kill(made.pid, signal.SIGKILL)
        await wait_until(lambda: made.counters.restarts)
        assert await made.says() == "good"
    assert made.counters.refusals == 1


async def test_a_killed_nginx_is_started_again_and_refuses_no_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as made:
        await made.nginx.put(made.configuration("here"))
        for count in range(1, 3):
            before = made.pid
            os.killpg(before, signal.SIGKILL)  # master and workers
            answers = [await made.says() for _ in range(20)]
            assert answers == ["here"] * 20
            await wait_until(lambda: made.nginx.pid not in (None, before))  # noqa: B023
            assert made.counters.restarts == count


async def test_workers_without_a_master_serve_until_the_next_nginx_does(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        await made.nginx.put(made.configuration("here"))
        master = made.pid
        orphans = {each for each in daemon.group(master) if each != master}
        os.kill(master, signal.SIGKILL)
        answers = {await made.says() for _ in range(20)}
        await wait_until(lambda: not daemon.group(master))

        assert answers == {"here"}
        assert orphans
        assert int((await made.ask()).split()[1]) not in orphans


async def test_an_nginx_that_ends_at_once_is_started_with_pauses(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        await made.nginx.put(made.configuration("here"))
        conf = made.directory.path / nginx.CONFIGURATION
        good = conf.read_bytes()
        conf.write_bytes(b"nonsense")
        os.kill(made.pid, signal.SIGKILL)
        await wait_until(lambda: made.counters.restarts > 2)
        conf.write_bytes(good)

        assert await made.says() == "here"


async def test_drain_answers_what_was_asked_and_accepts_nothing_new(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        await made.nginx.put(made.configuration("here"))
        assert made.place is not None
        reader, writer = await asyncio.open_connection(*made.place)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await made.nginx.drain(DEADLINE)
        with pytest.raises(ConnectionRefusedError):
            await made.ask()
        writer.close()


async def test_drain_ends_what_does_not_finish(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        await made.nginx.put(made.configuration("here"))
        assert made.place is not None
        _, writer = await asyncio.open_connection(*made.place)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        master = made.pid
        await made.nginx.drain(0.1)

        assert made.nginx.pid is None
        await wait_until(lambda: not daemon.group(master))
        writer.close()


async def test_clients_that_keep_connections_do_not_keep_a_worker_for_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MOST_RETIRING", 2)
    monkeypatch.setattr(processes, "MOST_GENERATIONS", 0)
    async with running(tmp_path) as made, contextlib.AsyncExitStack() as kept:
        mute = kept.enter_context(socket.create_server(("127.0.0.1", 0)))
        backend = "{}:{}".format(*mute.getsockname())
        assert made.place is not None
        readers = []
        for number in range(5):
            more = f"location /mute {{ proxy_pass http://{backend}; }}"
            # With a second worker, one without a client would be about to end, and be counted.
            await made.nginx.put(made.configuration(f"v{number}", more, workers=1))
            reader, writer = await asyncio.open_connection(*made.place)
            kept.callback(writer.close)
            writer.write(b"GET /mute HTTP/1.0\r\n\r\n")
            readers.append(reader)
            assert await made.says() == f"v{number}"

        async with asyncio.timeout(DEADLINE):
            assert [await reader.read() for reader in readers[:2]] == [b"", b""]
        assert not any(reader.at_eof() for reader in readers[2:])
        assert await made.says() == "v4"


CHILD = """
    import asyncio, pathlib, sys
    from tests.ingress.daemon import test_nginx

    async def main():
        made = test_nginx.Running(pathlib.Path(sys.argv[1]))
        task = asyncio.create_task(made.nginx.run())
        await made.nginx.put(made.configuration("here"))
        print(made.nginx.pid, file=sys.stderr, flush=True)
        await task

    asyncio.run(main())
"""


async def test_no_process_outlives_a_killed_proxy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
    quiet = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *command, stdout=quiet, stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr is not None
    group = int(await child.stderr.readline())
    await wait_until(lambda: len(daemon.group(group)) == 3)
    child.kill()
    await child.communicate()

    await wait_until(lambda: not daemon.group(group))
    assert private_directory.recover(tmp_path) == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    used = private_directory.PrivateDirectory(tmp_path)
    used.write("one/secret", b"key")

    assert private_directory.recover(tmp_path) == 0
    assert used.path.stat().st_mode & 0o777 == 0o700
    assert (used.path / "one" / "secret").stat().st_mode & 0o777 == 0o600
    used.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lifeline_that_is_cut_ends_its_group() -> None:
    line = lifeline.Lifeline()
    with subprocess.Popen(
        ["sleep", "1000"], pass_fds=[line.descriptor], start_new_session=True
    ) as child:
        line.tie(child.pid)
        line.cut()

        assert child.wait(DEADLINE) == -signal.SIGKILL


def test_without_nginx_the_user_reads_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(errors.ConfigError, match=r"install the package nginx"):
        program.find(None)
