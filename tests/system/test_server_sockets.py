"""Sockets that listen where the user said, and the words for it when they cannot."""

import contextlib
import socket

import pytest

from kproxy import errors
from kproxy.system import server_sockets


def is_answered(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2"]),
        ("::1", ["::1"]),
        ("::", ["127.0.0.1", "127.0.0.2", "::1"]),
    ],
)
def test_an_address_takes_its_own_family_and_the_unspecified_one_of_ipv6_both(
    host: str, answered: list[str]
) -> None:
    with contextlib.closing(server_sockets.listen((host, 0), 8)) as listening:
        port = listening.getsockname()[1]
        found = [each for each in ("127.0.0.1", "127.0.0.2", "::1") if is_answered(each, port)]
    assert found == answered


def test_the_words_for_an_address_that_is_taken_do_not_repeat_it() -> None:
    with (
        contextlib.closing(server_sockets.listen(("127.0.0.1", 0), 8)) as taken,
        pytest.raises(OSError) as caught,  # noqa: PT011  # its words are checked
    ):
        server_sockets.listen(taken.getsockname(), 8)
    assert errors.reason(caught.value) == "address already in use"
