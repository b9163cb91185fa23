"""Choosing peers on the command line, and the custom one at work."""

import sys
from pathlib import Path

import pytest

from benchmarks import load, peers, processes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("haproxy", ["haproxy"], id="one"),
        pytest.param("haproxy, nginx,asyncio", ["haproxy", "nginx", "asyncio"], id="several"),
        pytest.param("mine=prog -l {listen},x {backend}", ["mine"], id="a-command-with-a-comma"),
    ],
)
def test_peers_are_named_or_given_as_a_command(text: str, expected: list[str]) -> None:
    assert [peer.name for peer in peers.parse(text)] == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("haproxy,squid", "unknown peer 'squid'", id="unknown-name"),
        pytest.param("mine=prog {listen}", "needs", id="no-backend"),
        pytest.param("my/own=p {listen} {backend}", "no name for a peer", id="unusable-name"),
        pytest.param("mine=prog {backend}", "needs", id="no-listen"),
    ],
)
def test_an_unusable_peer_is_refused_in_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        peers.parse(text)


def test_a_custom_peer_joins_the_black_hole_only_when_it_takes_several_backends() -> None:
    assert not peers.Custom("one", "p {listen} {backend}").measures(peers.BLACKHOLE)
    assert peers.Custom("many", "p {listen} {backends}").measures(peers.BLACKHOLE)


def test_a_custom_peer_leads_to_its_backend(tmp_path: Path) -> None:
    naive = f"{sys.executable} -m benchmarks.naive_proxy {{listen}} {{backend}}"
    source, echo = processes.free_address(), processes.free_address()
    serve = [sys.executable, "-m", "benchmarks.load", "serve"]
    serve += ["--source", str(source), "--echo", str(echo)]
    with processes.start("backend", serve, tmp_path) as backend:
        processes.wait_listening(backend, echo)
        with peers.Custom("naive", naive).start([echo], tmp_path) as proxy:
            assert load.ping(proxy.address, seconds=0.05, size=64)["exchanges"] > 0
        assert not processes.is_listening(proxy.address)
        processes.wait_listening(backend, source)
        assert load.sink(source, total=1 << 22, streams=4)["bytes"] == 1 << 22
