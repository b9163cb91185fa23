"""The DNS of a simulated cluster: the Service `kube-dns`, with kproxy's name server behind it.

It answers what CoreDNS would in a real one: the ClusterIPs as they are in the API, which in a
simulated cluster are addresses of this machine, and so are those at which a proxy serves them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from kproxy import settings
from kproxy.dns import name_server
from kproxy.dns.forwarding import upstreams
from kproxy.model import addresses, names
from kproxy.model.kinds import endpoint_slice_kind, service_kind, services
from kproxy.model.kinds import registry as kind_registry
from kproxy.model.kinds.kind import Kind
from kproxy.simulator.controllers import endpoints_controllers
from kproxy.simulator.kinds.behaviour import pod_files
from kproxy.simulator.store import registry, resources, storage
from kproxy.sources import intake

DOMAIN = "cluster.local"
NAME = "kube-dns"
NAMESPACE = "kube-system"
POSITION = 10
"""Of its address in the range of ClusterIPs, as in every cluster."""

_LABELS = {
    "k8s-app": "kube-dns",
    "kubernetes.io/cluster-service": "true",
    "kubernetes.io/name": "CoreDNS",
}
_PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))
_KINDS: dict[resources.Resource, Kind[Any]] = {
    resources.SERVICES: service_kind.KIND,
    resources.ENDPOINT_SLICES: endpoint_slice_kind.FOR_NAMES,
}


class ClusterDns:
    """Answers at `place` for the Services in `objects`. `service_ip` is kube-dns's address."""

    def __init__(self, objects: registry.Registry, place: settings.Listen, service_ip: str) -> None:
        self._objects = objects
        self._service_ip = service_ip
        self._source = RegistrySource(objects)
        self._server = name_server.NameServer(
            place, self._source, _as_it_is, domain=DOMAIN, others=upstreams.chosen(())
        )

        self.known = pod_files.ClusterDns(service_ip, DOMAIN)
        """What kubelets know of it."""

    @property
    def address(self) -> str | None:
        """Where it listens, once entered."""
        return self._server.addresses()["dns"]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the block lasts. Raises KproxyError when the address cannot be had."""
        self._server.bind()
        try:
            self._publish()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._source.run(), name="DNS source"),
                    group.create_task(self._server.run(), name="DNS"),
                ]
                await self._server.ready()
                try:
                    yield
                finally:
                    for each in tasks:
                        each.cancel()
        finally:
            self._server.close()

    def _publish(self) -> None:
        """The Service, and this server as its endpoint. Nothing selects pods, so it is by hand."""
        place = addresses.parse_socket_address(self.address or "")
        assert place is not None
        host, port = place
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # reached so
        identity = {"name": NAME, "namespace": NAMESPACE}
        ports = [
            {"name": name, "port": 53, "protocol": protocol, "targetPort": port}
            for name, protocol in _PORTS
        ]
        spec = {"clusterIP": self._service_ip, "ports": ports}
        service = {"metadata": {**identity, "labels": _LABELS}, "spec": spec}
        self._objects.create(resources.SERVICES, service)
        reached = [{"name": name, "port": port, "protocol": protocol} for name, protocol in _PORTS]
        skip = {endpoints_controllers.LABEL_SKIP_MIRROR: "true"}
        subset = {"addresses": [{"ip": host}], "ports": reached}
        made = {"metadata": {**identity, "labels": skip}, "subsets": [subset]}
        self._objects.create(resources.ENDPOINTS, made)
        label = {endpoint_slice_kind.LABEL_SERVICE_NAME: NAME}
        self._objects.create(
            resources.ENDPOINT_SLICES,
            {
                "metadata": {**identity, "labels": label},
                "addressType": addresses.family(host).value,
                "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
                "ports": reached,
            },
        )


def _as_it_is(
    _: services.Service, port: services.ServicePort, ip: str
) -> addresses.SocketAddress | None:
    """Where clients reach a Service: where the API says. Ports have been moved there already."""
    return addresses.SocketAddress(ip, port.port)


class RegistrySource(intake.IntakeSource):
    """Services and EndpointSlices of a simulated cluster, as a `source.Source`, from its storage.

    It follows each commit at once, and has everything from the start. Nothing is checked twice:
    what is wrong with an object the API server has said already.
    """

    def __init__(self, objects: registry.Registry) -> None:
        kinds = kind_registry.for_names(kind_registry.KINDS)
        super().__init__(intake.Intake(lambda _: None, allow_loopback=True, kinds=kinds))
        self._end = objects.storage.subscribe(self._follow)
        for resource, kind in _KINDS.items():
            for each in objects.list(resource):
                self._intake.take(kind, each, kind.name)
        self._intake.complete()

    def describe(self) -> str:
        """What it reads."""
        return "the simulated cluster"

    async def run(self) -> None:
        """Wait to be cancelled: commits are followed as they happen."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._end()

    def reload(self) -> None:
        """Do nothing: it is never out of date."""

    def _follow(self, event: storage.Event) -> None:
        kind = _KINDS.get(event.resource)
        if kind is None:
            return
        metadata = event.object["metadata"]
        if event.type == "DELETED":
            key = names.NamespacedName(metadata["namespace"], metadata["name"])
            self._intake.forget((kind.name, key))
        else:
            self._intake.take(kind, event.object, kind.name)
        self._intake.announce()
