"""Rows 17 and 26 of docs/behaviour.md: a listener drops clients, with a privilege or without.

Behaviour: rows 17 and 26 of docs/behaviour.md.
"""

import contextlib
import errno
import functools
import select
import socket
from collections.abc import Iterator

import pytest

from kproxy.datapath.tcp.accept import door
from kproxy.model import addresses, forwarding

SOURCES = {4: ("127.0.8.5", "127.0.8.6", "127.0.9.1"), 6: ("::1",)}
ALL, NO_CLIENT = (True,) * 3, (False,) * 3

pytestmark = pytest.mark.parametrize(
    "uses_filters", [pytest.param(True, id="by filters"), pytest.param(False, id="without filters")]
)


@contextlib.contextmanager
def listening(address: str, *, uses_filters: bool) -> Iterator[tuple[socket.socket, door.Door]]:
    """A listener, and its door."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.bind((address, 0))
        sock.listen(64)
        at = addresses.SocketAddress(*sock.getsockname()[:2])
        with contextlib.closing(door.Door(sock, at, uses_filters=uses_filters)) as made:
            yield sock, made


def meets(listener: socket.socket, source: str, expected: bool) -> bool:
    """Whether a client at `source` is accepted, or else meets silence.

    On loopback a SYN that passes is answered at once, or on a busy machine a moment later: one that
    is expected to pass is waited for.
    """
    with socket.socket(listener.family) as client:
        client.bind((source, 0))
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) in {0, errno.EINPROGRESS}
        _, writable, _ = select.select([], [client], [], 10 if expected else 0)
        if not writable:
            return False
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        listener.settimeout(10)
        with listener.accept()[0] as accepted:
            return bool(accepted.getpeername()[0] == source)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([()], NO_CLIENT, id="no client"),
        pytest.param([(), None], ALL, id="no client, then all"),
        pytest.param([("127.0.8.0/24",)], (True, True, False), id="a network"),
        pytest.param([("127.0.8.6/32", "127.0.9.0/24")], (False, True, True), id="two networks"),
        pytest.param([("127.0.8.0/24",), ("127.0.9.0/24",)], (False, False, True), id="another"),
        pytest.param([("127.0.8.0/24",), ()], NO_CLIENT, id="a network, then no client"),
        pytest.param([("127.0.8.0/24",), None], ALL, id="a network, then all"),
        pytest.param(
            [("127.0.8.0/24",), None, (), ("127.0.9.0/24",), (), ("127.0.8.5/32",)],
            (True, False, False),
            id="to and fro",
        ),
        pytest.param([None], ALL, id="all"),
        pytest.param([("10.0.0.0/8",)], NO_CLIENT, id="others"),
        pytest.param([("fd00::/8",)], NO_CLIENT, id="of the other family"),
    ],
)
def test_who_is_admitted_is_accepted_and_others_meet_silence(
    steps: list[forwarding.Admission], expected: tuple[bool, ...], *, uses_filters: bool
) -> None:
    with listening("127.0.0.1", uses_filters=uses_filters) as (sock, made):
        for step in steps:
            made.admit(step)
        for _ in range(3):  # which of two sockets gets a client must not be chance
            assert tuple(map(functools.partial(meets, sock), SOURCES[4], expected)) == expected


@pytest.mark.parametrize(
    ("admitted", "expected"),
    [(None, True), ((), False), (("::1/128",), True), (("fd00::/8", "127.0.0.0/8"), False)],
)
def test_ipv6(admitted: forwarding.Admission, expected: bool, *, uses_filters: bool) -> None:
    with listening("::1", uses_filters=uses_filters) as (sock, made):
        made.admit(admitted)
        for _ in range(3):
            assert meets(sock, "::1", expected) is expected


def test_a_connection_that_was_accepted_goes_on(*, uses_filters: bool) -> None:
    with listening("127.0.0.1", uses_filters=uses_filters) as (sock, made):
        made.admit(("127.0.0.0/8",))
        with socket.create_connection(sock.getsockname(), 10) as client, sock.accept()[0] as server:
            for admitted in ((), ("10.0.0.0/8",), None):
                made.admit(admitted)
                client.sendall(b"on")
                assert server.recv(2) == b"on"
                server.sendall(b"no")
                assert client.recv(2) == b"no"


def test_more_networks_than_a_program_can_hold_admit_no_client(*, uses_filters: bool) -> None:
    many = tuple(f"127.{n // 250}.{n % 250}.1/32" for n in range(2000))
    with listening("127.0.0.1", uses_filters=uses_filters) as (sock, made):
        with pytest.raises(OSError, match="more source ranges") as caught:
            made.admit(many)
        assert caught.value.errno == errno.E2BIG
        assert not meets(sock, "127.0.0.1", expected=False)


def test_the_port_is_free_once_both_are_closed(*, uses_filters: bool) -> None:
    with listening("127.0.0.1", uses_filters=uses_filters) as (sock, made):
        made.admit(("127.0.8.0/24",))
        address = sock.getsockname()
    with socket.socket() as again:
        again.bind(address)
        again.listen()
