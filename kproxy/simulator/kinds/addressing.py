"""Which cluster IP and which node port is free: kube-apiserver's allocators, in memory.

The rules are those of `pkg/registry/core/service/ipallocator` and `portallocator`. A range is cut
in two bands (KEP-3070 for addresses, KEP-3668 for node ports): what is handed out by itself comes
from the upper one for as long as that lasts, so that the numbers which users request,
usually low ones, tend to be free.

`pick` and `check` reserve nothing: an address is held once an object that has it is stored. So a
request that fails half-way, or is a dry run, has nothing to give back.
"""

import ipaddress
import random
from collections.abc import Collection

from kproxy.simulator import ranges

_MOST_PODS = 65536


class AllocationError(Exception):
    """A number or an address cannot be had, in kube-apiserver's words."""


class _Pool:
    """The numbers of `every`, each free or held; those of `first` are picked first."""

    def __init__(self, every: range, first: range, rng: random.Random) -> None:
        self.every = every
        self.held: set[int] = set()
        self._bands = (first, every)
        self._rng = rng

    def pick(self, excluded: Collection[int] = ()) -> int:
        """A free number, at random within its band. Raises AllocationError when there is none."""
        for band in self._bands:
            if not band:
                continue
            start = self._rng.randrange(len(band))
            for part in (band[start:], band[:start]):
                for number in part:
                    if number not in self.held and number not in excluded:
                        return number
        raise AllocationError("range is full")


class ClusterIPs:
    """The cluster IPs of one CIDR, without its network address, and in IPv4 its broadcast address.

    As for kube-apiserver, an IPv6 range is of /108 at most.
    """

    def __init__(
        self, cidr: ipaddress.IPv4Network | ipaddress.IPv6Network, rng: random.Random
    ) -> None:
        self.cidr = cidr
        first = int(cidr.network_address)
        size = cidr.num_addresses
        offset = min(max(16, size // 16), 256) if size > 16 else 0
        every = range(first + 1, first + size - (cidr.version == 4))
        self._pool = _Pool(every, every[offset:], rng)

    def check(self, address: str) -> None:
        """Raise AllocationError unless the canonical `address` is in range and free."""
        parsed = ipaddress.ip_address(address)
        if parsed.version != self.cidr.version or int(parsed) not in self._pool.every:
            raise AllocationError(
                f"the provided IP ({address}) is not in the valid range. "
                f"The range of valid IPs is {self.cidr}"
            )
        if int(parsed) in self._pool.held:
            raise AllocationError("provided IP is already allocated")

    def pick(self) -> str:
        """A free address. Raises AllocationError."""
        return str(self.cidr.network_address + self._offset(self._pool.pick()))

    def _offset(self, number: int) -> int:
        return number - int(self.cidr.network_address)

    def hold(self, address: str) -> None:
        """A stored Service has `address`."""
        self._pool.held.add(int(ipaddress.ip_address(address)))

    def release(self, address: str) -> None:
        """No stored Service has `address` any more."""
        self._pool.held.discard(int(ipaddress.ip_address(address)))


class NodePorts:
    """The node ports of one range. A number has one Service, whatever the protocol.

    `picked` is those that are handed out first; None: as kube-apiserver does.
    """

    def __init__(
        self, rng: random.Random, ports: range = ranges.NODE_PORTS, picked: range | None = None
    ) -> None:
        size = len(ports)
        offset = min(max(16, size // 32), 128) if size > 16 else 0
        self._pool = _Pool(ports, ports[offset:] if picked is None else picked, rng)

    def check(self, port: int) -> None:
        """Raise AllocationError unless `port` is in range and free."""
        every = self._pool.every
        if port not in every:
            raise AllocationError(
                "provided port is not in the valid range. "
                f"The range of valid ports is {every[0]}-{every[-1]}"
            )
        if port in self._pool.held:
            raise AllocationError("provided port is already allocated")

    def pick(self, excluded: Collection[int]) -> int:
        """A free port that is not `excluded`. Raises AllocationError."""
        return self._pool.pick(excluded)

    def hold(self, ports: Collection[int]) -> None:
        """A stored Service has `ports`."""
        self._pool.held.update(ports)

    def release(self, ports: Collection[int]) -> None:
        """No stored Service has `ports` any more."""
        self._pool.held.difference_update(ports)


class PodIPs:
    """The pod addresses of one node, each in its turn, so that a successor gets a new one.

    As the host-local plugin of CNI does. The network, the first address (a node's bridge has it)
    and the broadcast address are not handed out. Of a large range the first 65,536 are.
    """

    def __init__(self, cidr: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        self._network = cidr.network_address
        self._every = range(2, min(cidr.num_addresses, _MOST_PODS) - 1)
        self._next = 0
        self._held: set[int] = set()

    def allocate(self) -> str:
        """Hold the next free address. Raises AllocationError when there is none."""
        for step in range(len(self._every)):
            index = (self._next + step) % len(self._every)
            number = self._every[index]
            if number not in self._held:
                self._next = index + 1
                self._held.add(number)
                return str(self._network + number)
        raise AllocationError("no IP addresses available in range set")

    def release(self, address: str) -> None:
        """Let go of `address`."""
        self._held.discard(int(ipaddress.ip_address(address)) - int(self._network))
