"""The files that a kubelet gives a pod: `/etc/resolv.conf`, by `dnsPolicy` and `dnsConfig`, and
`/etc/hosts`, with its own names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kproxy.simulator.store.storage import Object

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
_NDOTS = "ndots:5"
_HOSTS = (
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
)


class ClusterDns(NamedTuple):
    """What kubelets know of the cluster's DNS: the address of its Service, and the zone."""

    server: str
    domain: str


def shown(pod: Object, path: str, known: ClusterDns, addresses: Sequence[str]) -> str | None:
    """The file of a pod with these addresses at `path`; None if it has none there."""
    if path == RESOLV_CONF:
        return resolv_conf(pod, known)
    return hosts(pod, known, addresses) if path == HOSTS else None


def hosts(pod: Object, known: ClusterDns, addresses: Sequence[str]) -> str:
    """The hosts file of a pod: it knows itself by its hostname, and by its full name if it has
    one."""
    spec, metadata = pod["spec"], pod["metadata"]
    name = spec.get("hostname") or metadata["name"]
    names = name
    if subdomain := spec.get("subdomain"):
        names = f"{name}.{subdomain}.{metadata['namespace']}.svc.{known.domain}\t{name}"
    lines = (*_HOSTS, *(f"{address}\t{names}" for address in addresses))
    return "".join(f"{line}\n" for line in lines)


def resolv_conf(pod: Object, known: ClusterDns, host: Path = Path(RESOLV_CONF)) -> str:
    """The file of a pod. `host` is that of its node, which the policy `Default` gives it."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = [], [], []
    if policy in {"ClusterFirst", "ClusterFirstWithHostNet"}:
        services = f"svc.{known.domain}"
        servers = [known.server]
        searches = [f"{pod['metadata']['namespace']}.{services}", services, known.domain]
        options = [_NDOTS]
    elif policy == "Default":
        servers, searches, options = _of_host(host)
    asked = spec.get("dnsConfig") or {}
    servers += asked.get("nameservers") or []
    searches += asked.get("searches") or []
    options = _merged(options, asked.get("options") or [])
    lines = [f"nameserver {each}" for each in dict.fromkeys(servers)]
    lines += [f"search {' '.join(dict.fromkeys(searches))}"] if searches else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)


def _of_host(host: Path) -> tuple[list[str], list[str], list[str]]:
    """The servers, the search list and the options of the node's own file."""
    try:
        lines = [line.split() for line in host.read_text(errors="replace").splitlines()]
    except OSError:
        return [], [], []
    servers = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
    searches = [each for words in lines if words[:1] == ["search"] for each in words[1:]]
    options = [each for words in lines if words[:1] == ["options"] for each in words[1:]]
    return servers, searches, options


def _merged(options: list[str], asked: list[Object]) -> list[str]:
    """`options` with those that a pod asks for, which replace those of the same name."""
    found = {each.partition(":")[0]: each for each in options}
    for each in asked:
        name, value = each.get("name", ""), each.get("value")
        if name:
            found[name] = name if value is None else f"{name}:{value}"
    return list(found.values())
