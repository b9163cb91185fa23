"""The settings of the name server, which `Config` inherits."""

import re
from dataclasses import dataclass

from kproxy import settings

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Domain:
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

    def show(self, value: object) -> str:
        return str(value)


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
