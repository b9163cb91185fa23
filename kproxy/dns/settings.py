"""The settings of the name server, which `Config` inherits."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kproxy import errors, settings

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Domain(settings.ShownAsText):
    """A DNS domain, with or without the root's dot at its end."""

    metavar: str = "DOMAIN"
    name: str = "DNS domain"
    bounds: str = "such as cluster.local"

    def parse(self, text: str) -> str:
        """The domain in lower case, without a dot at its end."""
        domain = text.strip().lower().removesuffix(".")
        if len(domain) > 190 or not _DOMAIN.fullmatch(domain):
            raise ValueError("must be a DNS domain of at most 190 letters, such as cluster.local")
        return domain


class Bounds(NamedTuple):
    """How many questions of clients others are asked at once, and how many TCP connections there
    are at once: each is a descriptor."""

    asked: int = 256
    connections: int = 128

    @classmethod
    def of(cls, open_files: int) -> "Bounds":
        """What a process that may open so many files has for names: a small part."""
        part = max(open_files // 64, 4)
        most = cls()
        return cls(min(part, most.asked), min(part, most.connections))

    @property
    def descriptors(self) -> int:
        """All that a name server has open at most: two sockets, and for each forwarded question
        that TCP repeats, one in place of the other."""
        return self.asked + self.connections + 2


MOST = Bounds()
KUBE_DNS_NAMESPACE = "kube-system"
NONE = settings.Listen("", 0)
"""Stands for no server in a list of them."""


@dataclass(frozen=True, slots=True)
class Upstream(settings.ShownAsText):
    """A DNS server to forward to; `none`: to none."""

    metavar: str = "IP[:PORT]|none"
    name: str = "address"
    bounds: str = "an IP address, with or without a port, or none"

    def parse(self, text: str) -> settings.Listen:
        """The server, or `NONE`."""
        example = settings.Listen("192.0.2.53", 53)
        place = settings.ListenAddress(example, "the address of a server").parse(text.strip())
        if place is not None and not place.port:
            raise ValueError("port 0 is no server's")
        return place or NONE

    def collect(self, given: Sequence[settings.Listen]) -> tuple[settings.Listen, ...] | None:
        """The servers. Raises ValueError where `none` is one among others."""
        if NONE not in given:
            return tuple(given)
        if len(given) > 1:
            raise ValueError("is none or servers, not both: leave one out")
        return None


@dataclass(frozen=True, slots=True)
class _Upstreams(settings.Each[settings.Listen]):
    """Several of them."""

    def show(self, value: Any) -> str:
        return "none" if value is None else ",".join(map(str, value))


@dataclass(frozen=True, kw_only=True)
class DnsSettings:
    """What `kproxy run` was asked to do about names."""

    dns: settings.Listen | None = settings.setting(
        None,
        settings.ListenAddress(settings.Listen("127.0.0.1", 53)),
        "Answer DNS for the cluster's zone there, by UDP and TCP; port 0 picks one.",
    )
    cluster_domain: str = settings.setting(
        "cluster.local", Domain(), "The zone of the cluster's names, as the kubelets have it."
    )
    dns_upstream: tuple[settings.Listen, ...] | None = settings.setting(
        (),
        _Upstreams(Upstream(), Upstream().collect),
        "Where names outside of the zone are asked for; repeatable. none: they are refused.",
        shown_default="the servers of /etc/resolv.conf",
        needs="--dns",
    )
    """Empty for those of /etc/resolv.conf, None for none."""
    dns_as_kube_dns: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Be an endpoint of the cluster's Service kube-system/kube-dns while running; needs a "
        "cluster, the right to write EndpointSlices there, and --dns at an address that pods "
        "reach.",
    )

    def check_dns(self, *, has_cluster: bool, namespaces: Collection[str]) -> None:
        """Raise ConfigError for values that cannot work together."""
        if not self.dns_as_kube_dns:
            return
        if self.dns is None:
            raise errors.ConfigError(
                "--dns-as-kube-dns needs --dns: give it the address of this host that pods reach"
            )
        if self.dns.is_everywhere:
            raise errors.ConfigError(
                f"--dns {self.dns}: an endpoint of kube-dns needs one address; give --dns the "
                "address of this host that pods reach"
            )
        if not has_cluster:
            raise errors.ConfigError(
                "--dns-as-kube-dns needs a cluster, and manifests are none: leave it out, or "
                "follow a cluster with --kubeconfig"
            )
        if namespaces and KUBE_DNS_NAMESPACE not in namespaces:
            raise errors.ConfigError(
                f"--dns-as-kube-dns needs the Service in {KUBE_DNS_NAMESPACE}: add --namespace "
                f"{KUBE_DNS_NAMESPACE}, or serve all namespaces"
            )
