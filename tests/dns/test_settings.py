"""The settings of the name server, on the command line."""

import pytest

from kproxy import config, errors, settings
from kproxy.dns import settings as dns_settings


def test_port_53_is_the_default_and_nowhere_can_be_said() -> None:
    (row,) = [each for each in settings.table(config.Config) if each.attribute == "dns"]

    assert row.parse("127.0.0.5", "--dns") == ("127.0.0.5", 53)
    assert row.parse("[::1]:5353", "--dns") == ("::1", 5353)
    assert row.parse("none", "--dns") is None


@pytest.mark.parametrize("text", ["Cluster.Local.", "cluster.local", " cluster.local "])
def test_a_domain_is_in_lower_case_and_without_the_roots_dot(text: str) -> None:
    assert dns_settings.Domain().parse(text) == "cluster.local"


@pytest.mark.parametrize("text", ["", ".", "a..b", "-a", "a_b", "ä.example", "a" * 64, "a." * 100])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a DNS domain"):
        dns_settings.Domain().parse(text)


def test_an_endpoint_of_kube_dns_needs_a_cluster_and_an_address() -> None:
    chosen = dns_settings.DnsSettings(dns=settings.Listen("192.0.2.7", 53), dns_as_kube_dns=True)

    chosen.check_dns(has_cluster=True, namespaces=())
    chosen.check_dns(has_cluster=True, namespaces={"kube-system", "shop"})
    with pytest.raises(errors.ConfigError, match="needs a cluster"):
        chosen.check_dns(has_cluster=False, namespaces=())
    with pytest.raises(errors.ConfigError, match="add --namespace kube-system"):
        chosen.check_dns(has_cluster=True, namespaces={"shop"})


@pytest.mark.parametrize("place", [None, settings.Listen("::", 53)])
def test_an_endpoint_of_kube_dns_has_one_address(place: settings.Listen | None) -> None:
    chosen = dns_settings.DnsSettings(dns=place, dns_as_kube_dns=True)

    with pytest.raises(errors.ConfigError, match="address of this host that pods reach"):
        chosen.check_dns(has_cluster=True, namespaces=())


def test_upstreams_are_servers_or_none() -> None:
    (row,) = [each for each in settings.table(config.Config) if each.attribute == "dns_upstream"]

    assert row.parse(["192.0.2.1", "[2001:db8::1]:5353"], row.flag) == (
        ("192.0.2.1", 53),
        ("2001:db8::1", 5353),
    )
    assert row.parse(["none"], row.flag) is None
    with pytest.raises(errors.ConfigError, match="is none or servers, not both"):
        row.parse(["none", "192.0.2.1"], row.flag)
    with pytest.raises(errors.ConfigError, match="not the address of a server, give IP:PORT"):
        row.parse(["dns.example"], row.flag)


def test_names_take_a_small_part_of_the_open_files() -> None:
    assert dns_settings.Bounds.of(20_000) == dns_settings.Bounds(asked=256, connections=128)
    assert dns_settings.Bounds.of(1024) == dns_settings.Bounds(asked=16, connections=16)
    assert dns_settings.Bounds.of(1) == dns_settings.Bounds(asked=4, connections=4)
