"""The local portal: Services at their real addresses, without netfilter.

`routes` makes the addresses this host's own. Then there are two ways:

- the fast one: a BPF program gives the clients of all TCP frontends to one listening socket for
  each family (`sk_lookup`). It needs CAP_BPF beside CAP_NET_ADMIN;
- the plain one: a listening socket for each frontend.

UDP frontends have a socket each on both: a socket must be bound to an address to answer from it.

An address and port of this host where another server listens is never taken from it: on the plain
way bind fails, and the fast way tries a bind first. Addresses that no Service may have are refused,
see `refusals`.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from kproxy import errors
from kproxy.model import addresses, forwarding, names
from kproxy.portal import node_addresses, portal, refusals
from kproxy.portal.local import kube_proxy, only_one, route_watch, routes, sk_lookup

_log = structlog.get_logger(__name__)

_KINDS = forwarding.FrontendKind
_PROTOCOLS = frozenset({names.Protocol.TCP, names.Protocol.UDP})

_LOOK_AGAIN = 5.0
"""Seconds between two checks whether the connections to a released address have ended."""

_WIDE = 8
"""Networks of external IPs with a shorter prefix are warned about: they are never one owner's."""

_ENABLE_IPV6 = (
    "enable it (ip link set lo up, sysctl net.ipv6.conf.lo.disable_ipv6=0), and start again"
)

MOST_RANGES = 64
"""Ranges of ServiceCIDR objects that get a route each. Of more, the first are taken."""


class LocalPortal:
    """Serves frontends at their real addresses. Satisfies `portal.Portal`.

    Owns netlink sockets, the routes, and the followers of them and of the node's addresses.
    Raises KproxyError if the kernel cannot be asked.
    """

    def __init__(self, settings: portal.Settings) -> None:
        self._settings = settings
        self._refusals = refusals.Refusals(settings)
        self._reading = node_addresses.Reading(())
        self._host: frozenset[str] = frozenset()
        self._node = node_addresses.NodeAddresses(
            settings.node_ports, settings.cluster, reader=self._read
        )
        self._families = frozenset(_families())
        self._networks = tuple(filter(self._has_family, settings.service_networks))
        with _explained():
            self._routes = routes.Routes(self._networks)
        self._watch = route_watch.RouteWatch(self._routes)
        self._claimed: set[forwarding.PortalAddress] = set()
        self._refused_ranges: frozenset[portal.Network] = frozenset()
        self._only = only_one.OnlyOne()
        self._fast: sk_lookup.SkLookup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._allowed: tuple[forwarding.FrontendKind, str, addresses.Family] | None = None

    @property
    def description(self) -> str:
        """The portal's name, and whether it uses BPF."""
        return f"{portal.PortalName.LOCAL} ({'sk_lookup' if self._fast else 'plain'})"

    @property
    def families(self) -> frozenset[addresses.Family]:
        """The families in which this host has a loopback address."""
        return self._families

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """TCP and UDP."""
        return _PROTOCOLS

    @property
    def node(self) -> portal.Node:
        """See `portal.Portal`."""
        return self._node.node

    def follow(self, on_change: Callable[[], None]) -> None:
        """See `portal.Portal`. The routes follow too."""

        def look() -> None:
            try:
                self._follow_host()
            except OSError as error:
                _log.error("cannot change routes", reason=errors.reason(error))
            on_change()

        self._node.follow(look)
        with _explained():
            self._watch.follow()

    def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        """The frontend's own address and port.

        Raises PortalUnavailableError for a family that this host or node does not have.
        Raises PortalRefusedError for an address that must not be served.
        """
        address = frontend.address
        spot = frontend.kind, address, frontend.family
        if spot != self._allowed:
            self._check(*spot)
            self._allowed = spot  # the ports of a Service come one after another
        found = forwarding.PortalAddress(address, frontend.port, frontend.protocol)
        if self._settings.reserved and found.socket_address in self._settings.reserved:
            self._refusals.check_api_server(address)
        return found

    def _check(self, kind: forwarding.FrontendKind, address: str, family: addresses.Family) -> None:
        """Raise the errors of `locate`, of an address whatever the port."""
        if family not in self._families:
            raise errors.PortalUnavailableError(f"this host has no {family}: {_ENABLE_IPV6}")
        if kind is _KINDS.NODE_PORT:
            if not address:
                raise errors.PortalUnavailableError(
                    f"this node has no {family} address that --nodeport-addresses allows"
                )
            return
        if kind is _KINDS.CLUSTER_IP:
            self._refusals.check_use(address, allow_loopback=self._settings.allow_loopback)
            self._refusals.check_api_server(address)
        else:
            self._refusals.check_external(kind, address)
        if _is_of_servers(address):
            raise errors.PortalRefusedError(
                f"{address} is kept for this host's own servers: give the Service another address"
            )

    @property
    def listeners(self) -> Mapping[str, int]:
        """See `portal.Portal`. One for each family on the fast way."""
        return self._fast.listeners if self._fast else {}

    def shares(self, address: forwarding.PortalAddress) -> bool:
        """See `portal.Portal`. TCP frontends do, on the fast way."""
        return self._fast is not None and address.protocol is names.Protocol.TCP

    def claim(self, address: forwarding.PortalAddress) -> None:
        """Route `address` to this host. `acquire` reports an error of that."""
        try:
            self._routes.hold(address.address)
        except OSError:
            return
        self._claimed.add(address)

    def withdraw(self, address: forwarding.PortalAddress) -> None:
        """See `portal.Portal`."""
        if address in self._claimed:
            self._claimed.remove(address)
            self.release(address)

    def acquire(
        self, address: forwarding.PortalAddress, admitted: forwarding.Admission
    ) -> forwarding.ListenOn:
        """See `portal.Portal`."""
        if self._fast is None or address.protocol is not names.Protocol.TCP:
            self._routes.hold(address.address)
            return address.socket_address
        if address.address in self._host:
            _need_free(address.socket_address)
        self._routes.hold(address.address)
        try:
            self._fast.open(address, admitted)
        except OSError:
            self._routes.let_go(address.address)
            raise
        family = addresses.family(address.address)
        return forwarding.SharedListener(family, address.socket_address)

    def admit(self, address: forwarding.PortalAddress, admitted: forwarding.Admission) -> None:
        """See `portal.Portal`. On the fast way the BPF program filters clients."""
        if self._fast is None or address.protocol is not names.Protocol.TCP:
            return
        try:
            self._fast.open(address, admitted)
        except OSError as error:
            _log.error(
                "cannot filter clients, dropping all",
                address=str(address),
                reason=errors.reason(error),
            )
            self._fast.open(address, ())

    def release(self, address: forwarding.PortalAddress) -> None:
        """See `portal.Portal`."""
        if self._fast is not None:
            self._fast.shut(address)
        with _logged("cannot remove a route", address=address.address):
            self._routes.let_go(address.address)
        self._settle_routes()

    def take_ranges(self, ranges: Sequence[portal.Network]) -> Iterator[None]:
        """See `portal.Portal`. Those beside `Settings.service_networks` get a route each."""
        refused: dict[portal.Network, str] = {}
        taken = list(self._networks)
        for each in sorted(set(ranges), key=str):
            try:
                self._refusals.check_range(each)
            except errors.PortalRefusedError as error:
                refused[each] = str(error)
            else:
                if self._has_family(each):
                    taken.append(each)
        for each, why in refused.items():
            if each not in self._refused_ranges:
                _log.warning(
                    "the range of a ServiceCIDR gets no route: each ClusterIP there gets its own",
                    range=str(each),
                    reason=why,
                )
        self._refused_ranges = frozenset(refused)
        if len(taken) > MOST_RANGES:
            _log.warning(
                "too many ranges of ServiceCIDRs: each ClusterIP in the others gets its own route",
                ranges=len(taken),
                taken=MOST_RANGES,
            )
        with _logged("cannot change routes"):
            yield from self._routes.cover(taken[:MOST_RANGES])
        self._settle_routes()

    def recover(self) -> None:
        """Remove the routes of an earlier kproxy, and make those of the service networks.

        Raises KproxyError without CAP_NET_ADMIN, and where another kproxy has this portal.
        """
        self._only.take()
        with _explained():
            removed = self._routes.sweep()
            self._follow_host()
        if removed:
            _log.info("removed routes that an earlier kproxy left", routes=removed)
        for network in self._settings.service_networks:
            if not self._has_family(network):
                _log.warning(
                    "a network in --service-cluster-ip-range gets no route: this host does not "
                    f"have its family; {_ENABLE_IPV6}",
                    network=str(network),
                )
        for each in self._settings.reserved:
            if self._routes.covers(each.address):
                _log.warning(
                    "the API server's address is in --service-cluster-ip-range: kproxy reaches it "
                    "through another service proxy only; name the server by another address",
                    address=str(each),
                )
        if taken := [each for each in self._node.node.own if self._routes.covers(each)]:
            _log.warning(
                "addresses of this host are in --service-cluster-ip-range: if hosts and pods are "
                "in that network too, this host cannot reach them any more; correct the flag",
                addresses=taken,
            )
        for network in self._settings.external_ips:
            if network.prefixlen < _WIDE:
                _log.warning(
                    "--external-ip-cidrs has a network with addresses of many owners: the author "
                    "of any Service can take this node's connections to all of them "
                    "(CVE-2020-8554); list the networks that Services here may have",
                    network=str(network),
                )
        self._choose_way()
        self._report_kube_proxy()

    def close(self) -> None:
        """Remove the program and the routes."""
        self._node.close()
        self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._fast is not None:
            self._fast.close()
        with _logged("cannot remove routes"):
            self._routes.close()
        self._only.give_back()

    def _has_family(self, network: portal.Network) -> bool:
        """Whether this host has the family of a network."""
        return addresses.family(str(network)) in self._families

    def _read(self) -> node_addresses.Reading:
        self._reading = node_addresses.read()
        self._host = frozenset(self._reading.local)
        return self._reading

    def _follow_host(self) -> None:
        """Give `Routes` the addresses of this host. Raises OSError."""
        self._routes.follow(self._host, _client_address(self._reading))

    def _settle_routes(self) -> None:
        """Remove the routes of released addresses whose connections have ended."""
        if self._timer is not None:
            return
        is_left = False
        with _logged("cannot remove a route"):
            is_left = self._routes.settle()
        if is_left:
            with contextlib.suppress(RuntimeError):  # without an event loop, the next one looks
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._settle_routes()

    def _choose_way(self) -> None:
        """Choose the fast way if possible, and log which way was chosen."""
        why = "--no-bpf was given"
        if self._settings.may_use_bpf:
            try:
                self._fast = sk_lookup.SkLookup(self._families)
            except OSError as error:
                why = _why_not(error)
        if self._fast is not None:
            _log.info(
                "all TCP ports share a listener for each address family: the BPF program is loaded",
                portal="local",
            )
        else:
            _log.info(
                "each port has a listener of its own: there is no BPF program",
                portal="local",
                reason=why,
            )

    def _report_kube_proxy(self) -> None:
        found = kube_proxy.traces()
        if found:
            _log.warning(
                "a kube-proxy runs here, or left its rules: it may answer for Services before "
                "kproxy does; stop it, and remove its rules with kube-proxy --cleanup",
                found=found,
            )


def clean_up() -> int:
    """Remove the routes that an earlier kproxy left, and nothing else; returns how many.

    Raises KproxyError without CAP_NET_ADMIN, and while a kproxy has this portal.
    """
    only = only_one.OnlyOne()
    only.take()
    try:
        with _explained("--cleanup", ""), contextlib.closing(routes.Routes()) as found:
            return found.sweep()
    finally:
        only.give_back()


@contextlib.contextmanager
def _logged(event: str, **where: str) -> Iterator[None]:
    """Log an OSError in the block instead of raising it: no caller can handle it."""
    try:
        yield
    except OSError as error:
        _log.error(event, reason=errors.reason(error), **where)


_LOOPBACK_INSTEAD = "; or use --portal loopback, which needs no routes"


@contextlib.contextmanager
def _explained(
    flag: str = "--portal local", alternative: str = _LOOPBACK_INSTEAD
) -> Iterator[None]:
    """Turn an error of the kernel into a KproxyError that says what `flag` needs."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise errors.KproxyError(
                f"{flag} needs the capability CAP_NET_ADMIN, to change routes: run kproxy as root "
                f"or with it{alternative}"
            ) from None
        raise errors.KproxyError(
            f"{flag} cannot change the routes of this host: {errors.reason(error)}{alternative}"
        ) from None


def _families() -> Iterator[addresses.Family]:
    """The address families of this host."""
    yield addresses.Family.IPV4
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        yield addresses.Family.IPV6


def _client_address(reading: node_addresses.Reading) -> str:
    """The IPv4 address that this host's own clients are to connect from; "" if there is none."""
    local = [ipaddress.ip_address(each) for each in reading.local]
    ordinary = [str(each) for each in local if each.version == 4 and not each.is_loopback]
    loopback = [str(each) for each in local if each.version == 4 and each.is_loopback]
    primary = [each for each in reading.primary if each in ordinary]
    return next(iter((*primary, *ordinary, *loopback)), "")


def _is_of_servers(address: str) -> bool:
    """Whether `address` is in 127.0.0.0/24 or ::1, where this host's own servers listen."""
    return address.startswith("127.0.0.") or address == "::1"


def _need_free(address: addresses.SocketAddress) -> None:
    """Raise OSError if something on this host listens at one of its own addresses.

    The sk_lookup program would silently take that server's clients.
    """
    is_ipv6 = ":" in address.address
    with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET) as probe:
        if is_ipv6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _why_not(error: OSError) -> str:
    """Why the BPF program could not be loaded, and what to do about it."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "loading a BPF program needs the capability CAP_BPF, and on Linux before 5.11 enough "
            "locked memory (ulimit -l): run kproxy as root, or with both"
        )
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return f"this kernel has no BPF at sk_lookup, or none like it ({errors.reason(error)})"
    return f"the BPF program cannot be loaded: {errors.reason(error)}"
