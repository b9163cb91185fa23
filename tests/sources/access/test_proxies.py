"""Which proxy leads to a server. How kubectl decides is in test_as_kubectl; here is the rest."""

import pytest

from kproxy import errors
from kproxy.sources.access import kubeconfig, proxies

GIVEN = {"HTTPS_PROXY": "http://proxy:3128"}


def proxy(server: str, **environment: str) -> str:
    return proxies.proxy_for(kubeconfig.ClusterAccess(server, "test"), environment)


def test_the_kubeconfigs_proxy_comes_before_the_environments() -> None:
    own = kubeconfig.ClusterAccess("https://a.example", "test", proxy_url="http://own:1")
    assert proxies.proxy_for(own, {**GIVEN, "NO_PROXY": "*"}) == "http://own:1"


@pytest.mark.parametrize(
    ("server", "no_proxy", "expected"),
    [
        ("https://k8s.example:6443", "", "http://proxy:3128"),
        ("http://k8s.example:6443", "", ""),
        ("https://127.0.0.1:6443", "", ""),
        ("https://[::1]:6443", "", ""),
        ("https://localhost", "", ""),
        ("https://k8s.example", "k8s.example:443", ""),
        ("https://k8s.example", "k8s.example:6443", "http://proxy:3128"),
        ("https://[2001:db8::7]:6443", "2001:db8::/32", ""),
        ("https://[2001:db8::7]:6443", "2001:db8::7", ""),
        ("https://[2001:db8::7]:6443", "[2001:db8::7]:6443", ""),
        ("https://[2001:db8::7]:6443", "[2001:db8::7]:443", "http://proxy:3128"),
        ("https://[2001:db8::7]:6443", "10.0.0.0/8,::/129,:,[]", "http://proxy:3128"),
    ],
)
def test_no_proxy_lists_servers_that_are_asked_directly(
    server: str, no_proxy: str, expected: str
) -> None:
    assert proxy(server, **GIVEN, NO_PROXY=no_proxy) == expected


def test_a_proxy_of_a_scheme_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"scheme 'ftp'; its URL must begin with"):
        proxy("https://k8s.example", HTTPS_PROXY="ftp://proxy:1")


def test_the_scheme_of_a_proxy_is_passed_on_in_lower_case() -> None:
    given = proxy("https://k8s.example", HTTPS_PROXY="SOCKS5://User@Proxy:1")
    assert given == "socks5://User@Proxy:1"
