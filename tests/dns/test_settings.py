"""The settings of the name server, on the command line."""

import pytest

from kproxy import config, settings
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
