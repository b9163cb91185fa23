"""The backend: what it answers, what it counts, and what it does not share."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.lab import network
from kproxy.bench.load import backend, http1, loading, messages

pytestmark = pytest.mark.xdist_group("time")


@contextlib.contextmanager
def _running(
    folder: Path, delay: float = 0.0
) -> Iterator[tuple[backend.Backends, messages.Backend]]:
    one, other, bulk = network.free_addresses(3)
    spec = messages.Backend((messages.Listen(one, delay), messages.Listen(other)), bulk)
    with backend.start(spec, 2, folder) as running:
        yield running, spec


def test_answers_say_where_they_come_from_and_are_counted(tmp_path: Path) -> None:
    with _running(tmp_path) as (running, spec):
        one, other = (each.address for each in spec.listen)
        assert [http1.ask(one), http1.ask(other), http1.ask(one)] == [
            one.port,
            other.port,
            one.port,
        ]
        served = running.served()
    assert served.accepted == {one.port: 2, other.port: 1}
    assert served.open == {one.port: 0, other.port: 0}
    assert served.requests == 3
    assert 0 < served.waited <= served.elapsed


def test_requests_may_come_in_pieces_and_several_at_once(tmp_path: Path) -> None:
    with _running(tmp_path) as (running, spec):
        address = spec.listen[0].address
        answer = http1.answer(address.port)
        with socket.create_connection(address, timeout=30) as client:
            client.sendall(http1.GET[:20])
            time.sleep(0.02)  # so that it arrives alone
            client.sendall(http1.GET[20:] + http1.GET + http1.GET[:5])
            assert client.recv(2 * len(answer), socket.MSG_WAITALL) == 2 * answer
            client.sendall(http1.GET[5:])
            assert client.recv(len(answer), socket.MSG_WAITALL) == answer
            assert running.served().open[address.port] == 1


def test_a_slow_endpoint_answers_late(tmp_path: Path) -> None:
    with _running(tmp_path, delay=0.3) as (_, spec):
        slow = spec.listen[0].address
        with socket.create_connection(slow, timeout=30) as client:
            began = time.monotonic()
            client.sendall(http1.GET)
            assert client.recv(4096) == http1.answer(slow.port)
            assert time.monotonic() - began >= 0.3


def test_others_do_not_wait_for_a_slow_endpoint(tmp_path: Path) -> None:
    with _running(tmp_path, delay=600) as (_, spec):
        slow, quick = (each.address for each in spec.listen)
        with socket.create_connection(slow, timeout=30) as client:
            client.sendall(http1.GET)
            assert http1.ask(quick, patience=30) == quick.port
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)


@pytest.mark.parametrize("direction", ["down", "up", "both"])
def test_streams_move_every_byte(tmp_path: Path, direction: messages.Direction) -> None:
    with _running(tmp_path) as (_, spec), loading.start(2, tmp_path) as pool:
        assert spec.bulk is not None
        plan = messages.Plan(
            kind="bulk", target=spec.bulk, connections=4, size=1 << 22, direction=direction
        )
        outcome = pool.run(plan)
    assert outcome.failures == {}
    assert outcome.done == (1 << 22) * (2 if direction == "both" else 1)


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with _running(tmp_path) as (_, spec):
        taken = spec.listen[0].address
        with (
            pytest.raises(errors.KproxyError, match=f"cannot listen on {taken}: Address already"),
            backend.start(messages.Backend((messages.Listen(taken),)), 1, tmp_path),
        ):
            pass


def test_nobody_listens_any_more_when_the_context_ends(tmp_path: Path) -> None:
    with _running(tmp_path) as (_, spec):
        assert network.is_listening(spec.listen[0].address)
    assert not network.is_listening(spec.listen[0].address)
