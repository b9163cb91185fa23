"""Addresses for Services in files that have none: what kube-apiserver would have given them.

An address follows from the Service's namespace and name, so it is the same after a restart, on
another computer, and in any order of the files. If two names lead to the same address, the name
with the smaller hash gets it and the other gets its next choice. An address that a file names is
never allocated.
"""

import hashlib
import ipaddress
from collections.abc import Callable, Collection, Iterable

from kproxy.model import names

CLUSTER_IPS = ipaddress.IPv4Network("10.96.0.0/12")
"""Where cluster IPs come from: the range of kubeadm. The first 256 are left for addresses that
files name."""

NODE_PORTS = range(30000, 32768)
"""Where node ports come from: `--service-node-port-range` as it is by default."""

_FIRST = int(CLUSTER_IPS.network_address) + 256
_COUNT = CLUSTER_IPS.num_addresses - 512
_TRIES = 1000


def cluster_ips(
    wanting: Iterable[names.NamespacedName],
    taken: Collection[str],
    pause: Callable[[], None] = lambda: None,
) -> dict[names.NamespacedName, str]:
    """An address for each of `wanting`. `taken` are the addresses in use elsewhere.

    An address counts as taken if it differs in its first octet only, because the loopback portal
    binds a.b.c.d as 127.b.c.d. A Service for which there is none is left out.
    """
    last_octets = {address.partition(".")[2] for address in taken}
    owners = {str(name): name for name in wanting}
    places = _allocated(
        owners, lambda place: _address(place).partition(".")[2] in last_octets, _COUNT, pause
    )
    return {owners[text]: _address(place) for text, place in places.items()}


def node_ports(
    wanting: Collection[names.ServicePortName], taken: Collection[tuple[names.Protocol, int]]
) -> dict[names.ServicePortName, int]:
    """A node port for each of `wanting`; one for which there is none is left out."""
    made: dict[names.ServicePortName, int] = {}
    for protocol in names.Protocol:
        owners = {str(name): name for name in wanting if name.protocol is protocol}
        numbers = {number for owner, number in taken if owner is protocol}
        places = _allocated(owners, _within(numbers), len(NODE_PORTS), lambda: None)
        made.update((owners[text], NODE_PORTS[place]) for text, place in places.items())
    return made


def _within(numbers: Collection[int]) -> Callable[[int], bool]:
    return lambda place: NODE_PORTS[place] in numbers


def _allocated(
    owners: Iterable[str],
    is_taken: Callable[[int], bool],
    count: int,
    pause: Callable[[], None],
) -> dict[str, int]:
    """A place out of `count` for each owner, whatever their order."""
    made: dict[str, int] = {}
    used: set[int] = set()
    for _, owner in sorted((_hash(owner), owner) for owner in owners):
        pause()
        for attempt in range(_TRIES):
            place = _hash(f"{attempt} {owner}") % count
            if place not in used and not is_taken(place):
                used.add(place)
                made[owner] = place
                break
    return made


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest())


def _address(place: int) -> str:
    return str(ipaddress.IPv4Address(_FIRST + place))
