"""The `/etc/resolv.conf` that a kubelet gives a pod, by `dnsPolicy` and `dnsConfig`."""

from pathlib import Path
from typing import NamedTuple

from kproxy.simulator.store.storage import Object

PATH = "/etc/resolv.conf"
_NDOTS = "ndots:5"


class ClusterDns(NamedTuple):
    """What kubelets know of the cluster's DNS: the address of its Service, and the zone."""

    server: str
    domain: str


def of_pod(pod: Object, known: ClusterDns, host: Path = Path(PATH)) -> str:
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
