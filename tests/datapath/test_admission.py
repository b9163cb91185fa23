"""What a frontend does not admit is dropped in the kernel: rows 17 and 26 of docs/behaviour.md."""

import contextlib
import errno
import functools
import select
import socket
from collections.abc import Iterator

import pytest

from kproxy.datapath import admission
from kproxy.model import addresses, forwarding

IPV4, IPV6 = addresses.Family
REACHED, DROPPED = True, False


@contextlib.contextmanager
def listening(family: addresses.Family = IPV4) -> Iterator[socket.socket]:
    is_ipv4 = family is IPV4
    with socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6) as sock:
        sock.bind(("127.0.0.1" if is_ipv4 else "::1", 0))
        sock.listen()
        yield sock


def meets(listener: socket.socket, source: str, expected: bool) -> bool:
    """Whether a connection from `source` is made. On loopback a SYN that passes is answered at
    once, or on a busy machine a moment later: one that is expected to pass is waited for."""
    with socket.socket(listener.family) as client:
        client.bind((source, 0))
        client.setblocking(False)
        code = client.connect_ex(listener.getsockname())
        assert code in {0, errno.EINPROGRESS}
        _, writable, _ = select.select([], [client], [], 10 if expected else 0)
        if writable:
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        return bool(writable)


@pytest.mark.parametrize(
    ("admitted", "expected"),
    [
        pytest.param(None, (REACHED,) * 4, id="all"),
        pytest.param((), (DROPPED,) * 4, id="none"),
        pytest.param(("0.0.0.0/0",), (REACHED,) * 4, id="every network"),
        pytest.param(("127.0.8.0/24",), (REACHED, REACHED, DROPPED, DROPPED), id="a network"),
        pytest.param(("127.0.8.5/32",), (REACHED, DROPPED, DROPPED, DROPPED), id="one address"),
        pytest.param(
            ("127.0.8.5/32", "fd00::/8", "127.0.9.0/31"),
            (REACHED, DROPPED, DROPPED, REACHED),
            id="several, one of the other family",
        ),
        pytest.param(("127.0.10.0/23",), (DROPPED,) * 4, id="others"),
        pytest.param(("fd00::/8",), (DROPPED,) * 4, id="of the other family alone"),
    ],
)
def test_what_is_not_admitted_is_dropped(
    admitted: forwarding.Admission, expected: tuple[bool, ...]
) -> None:
    sources = "127.0.8.5", "127.0.8.6", "127.0.7.5", "127.0.9.1"
    with listening() as sock:
        admission.admit(sock, IPV4, admitted)
        assert tuple(map(functools.partial(meets, sock), sources, expected)) == expected


@pytest.mark.parametrize(
    ("admitted", "expected"),
    [
        pytest.param(None, REACHED, id="all"),
        pytest.param((), DROPPED, id="none"),
        pytest.param(("::/0",), REACHED, id="every network"),
        pytest.param(("::1/128",), REACHED, id="one address"),
        pytest.param(("::2/128", "::/127"), REACHED, id="a network"),
        pytest.param(("::2/127", "fd00::/8", "0.0.0.0/0"), DROPPED, id="others"),
    ],
)
def test_ipv6_sources(admitted: forwarding.Admission, expected: bool) -> None:
    with listening(IPV6) as sock:
        admission.admit(sock, IPV6, admitted)
        assert meets(sock, "::1", expected) is expected


def test_it_can_be_changed_while_the_socket_listens() -> None:
    with listening() as sock:
        for admitted in (None, (), ("127.0.8.0/24",), (), None):
            admission.admit(sock, IPV4, admitted)
            expected = DROPPED if admitted == () else REACHED
            assert meets(sock, "127.0.8.5", expected) is expected


def test_adjacent_networks_cost_one_comparison() -> None:
    whole = admission.program_for(IPV4, ("10.0.0.0/8",))
    halves = admission.program_for(IPV4, ("10.128.0.0/9", "10.0.0.0/9", "10.1.0.0/16"))
    assert halves == whole


def test_too_many_networks_are_an_error_and_change_nothing() -> None:
    many = tuple(f"10.{high}.{low}.0/25" for high in range(8) for low in range(256))
    with listening() as sock:
        with pytest.raises(OSError, match="more source ranges") as caught:
            admission.admit(sock, IPV4, many)
        assert caught.value.errno == errno.E2BIG
        assert meets(sock, "127.0.8.5", REACHED)
