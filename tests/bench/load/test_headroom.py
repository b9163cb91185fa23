"""Who is the limit: the subject, or what measures it."""

import os
import select

import pytest

from kproxy.bench.load import headroom


@pytest.mark.parametrize(
    ("generator", "backend", "subject", "named"),
    [
        pytest.param(0.99, 0.5, 0.5, "the load generator", id="generator"),
        pytest.param(0.5, 0.99, 0.5, "the backend", id="backend"),
        pytest.param(0.95, 0.99, 0.5, "the backend", id="the-busier-one"),
        pytest.param(0.99, 0.99, 0.95, None, id="the-subject-is-the-limit"),
        pytest.param(0.5, 0.5, 0.2, None, id="everybody-waits"),
    ],
)
def test_the_bottleneck_is_named(
    generator: float, backend: float, subject: float, named: str | None
) -> None:
    found = headroom.bottleneck(generator, backend, subject)
    assert (found or "").startswith(named or "")
    assert (found is None) == (named is None)


def test_waiting_is_distinguished_from_working() -> None:
    poll = headroom.Poll()
    reader, writer = os.pipe()
    try:
        poll.epoll.register(reader, select.EPOLLIN)
        assert poll.events(0.05) == []
        assert poll.waited >= 0.05
        os.write(writer, b"x")
        assert poll.events(0.05) == [(reader, select.EPOLLIN)]
        assert 0 <= poll.busy < 1
        poll.restart()
        assert poll.waited == 0
    finally:
        poll.close()
        os.close(reader)
        os.close(writer)
