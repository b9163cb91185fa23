"""Choosing peers on the command line, and what they take part in."""

import sys
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.lab import network
from kproxy.bench.load import backend, http1, messages
from kproxy.bench.scenarios import catalogue
from kproxy.bench.subjects import kproxy_run, peers, subject

pytestmark = pytest.mark.xdist_group("time")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("haproxy", ["haproxy"], id="one"),
        pytest.param("haproxy, nginx,socat", ["haproxy", "nginx", "socat"], id="several"),
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
    with pytest.raises(errors.ConfigError, match=complaint):
        peers.parse(text)


def test_a_custom_peer_balances_only_when_it_takes_several_backends() -> None:
    assert not peers.Custom("one", "p {listen} {backend}").measures("faults")
    assert peers.Custom("many", "p {listen} {backends}").measures("faults")


def test_kproxy_takes_part_in_everything() -> None:
    assert all(map(kproxy_run.Kproxy().measures, catalogue.SCENARIOS))


@pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(kproxy_run.Kproxy(), id="kproxy"),
        pytest.param(peers.Streams("asyncio"), id="asyncio"),
        pytest.param(peers.Streams("uvloop"), id="uvloop"),
    ],
)
def test_each_service_has_a_frontend_of_its_own(proxy: subject.Subject, tmp_path: Path) -> None:
    one, other = network.free_addresses(2)
    spec = messages.Backend((messages.Listen(one), messages.Listen(other)))
    with (
        backend.start(spec, 1, tmp_path),
        proxy.start([[one], [other], [one, other]], subject.Place(tmp_path)) as running,
    ):
        first, second, both = running.frontends
        assert http1.ask(first) == one.port
        assert http1.ask(second) == other.port
        assert {http1.ask(both), http1.ask(both)} == {one.port, other.port}
        assert running.usage().total > 0
    assert not any(map(network.is_listening, running.frontends))


def test_a_custom_peer_leads_to_its_backend(tmp_path: Path) -> None:
    [address] = network.free_addresses(1)
    naive = f"{sys.executable} -m kproxy.bench.subjects.streams_proxy asyncio"
    proxy = peers.Custom("naive", f"{naive} {{listen}}={{backend}}")
    with (
        backend.start(messages.Backend((messages.Listen(address),)), 1, tmp_path),
        proxy.start([[address]], subject.Place(tmp_path)) as running,
    ):
        assert http1.ask(running.target) == address.port


def test_envoy_has_a_listener_and_a_cluster_for_each_service() -> None:
    """As Envoy's documentation has a static bootstrap; where envoy is installed, a run tries it."""
    one, other = network.Address("127.0.0.1", 1), network.Address("127.0.0.1", 2)
    config = peers.envoy_config([one, other], [[other], [one, other]])

    resources = config["static_resources"]
    assert isinstance(resources, dict)
    assert [each["address"] for each in resources["listeners"]] == [
        {"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in (1, 2)
    ]
    for listener, made in zip(resources["listeners"], resources["clusters"], strict=True):
        [chain] = listener["filter_chains"]
        assert chain["filters"][0]["typed_config"]["cluster"] == made["name"]
    [group] = resources["clusters"][1]["load_assignment"]["endpoints"]
    assert len(group["lb_endpoints"]) == 2
