"""The simulated cluster put together: storage, rules, controllers, pods and the API server."""

import asyncio
import contextlib
import functools
import ipaddress
import json
import random
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

from kproxy import errors, settings
from kproxy.model import names
from kproxy.model.kinds import endpoint_slice_kind
from kproxy.portal import loopback
from kproxy.simulator import applied_files, certificates, cluster_dns, ranges
from kproxy.simulator.api import apiserver, emulation, rest, server_faults
from kproxy.simulator.controllers import (
    controller,
    deployment_controller,
    endpoints_controllers,
    load_balancers,
    namespace_objects,
    nodes,
)
from kproxy.simulator.kinds import (
    addressing,
    conditions,
    deployments,
    endpoint_strategies,
    event_recorder,
    pods,
    service_strategy,
    shifting,
)
from kproxy.simulator.kinds.configuration import strategies as configuration_strategies
from kproxy.simulator.kinds.custom import strategies as custom_strategies
from kproxy.simulator.kinds.networking import strategies as networking_strategies
from kproxy.simulator.machines import kubelet, pod_answers
from kproxy.simulator.store import api_versions, resources, statuses, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

DEFAULT_SERVICE_CIDR = ranges.FIRST.services
DEFAULT_POD_CIDR = ranges.FIRST.pods
DEFAULT_LOAD_BALANCER_CIDR = ranges.FIRST.load_balancers
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_API_PORT_NAME = "https"
_API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

Follower = Callable[[storage.Event], Iterable[names.NamespacedName]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a cluster. Ranges are IPv4 CIDRs; `port` 0 means any free one.

    `service_cidr` and `pod_cidr` may name an IPv6 range behind a comma: the cluster is dual-stack
    then. Pods listen in both, so addresses of the IPv6 range must be this machine's.

    Ports below `shift_below` cannot be bound and are moved; None: what this process may bind.
    `node_ports` are for Services that ask for none; None: kube-apiserver's choice.
    `dns` is where the cluster's DNS answers; None: there is none. Port 0 means any free one.
    `token` is what clients authenticate with; None: a random one. Without `tls` the API server
    speaks plain HTTP. `emulate` is the kube-apiserver that it resembles.
    """

    service_cidr: str = DEFAULT_SERVICE_CIDR
    pod_cidr: str = DEFAULT_POD_CIDR
    load_balancer_cidr: str = DEFAULT_LOAD_BALANCER_CIDR
    nodes: int = 3
    address: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    tls: bool = True
    shift_below: int | None = None
    node_ports: range | None = None
    emulate: emulation.Version = emulation.Version.V1_33
    dns: settings.Listen | None = None


class Cluster:
    """A cluster that runs while its async context is entered.

    `now` gives the API's time, `rng` every random choice. Pods answer by `program`, if there is
    one, else by their annotations. Raises ConfigError for ranges that cannot work; entering it
    raises KproxyError when the port is taken.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
        program: pod_answers.Program | None = None,
    ) -> None:
        self.options = options or Options()
        self._now = now
        rng = rng or random.Random()
        networks = _Networks(self.options)
        below = self.options.shift_below
        self.shift_below = loopback.first_bindable_port() if below is None else below
        stored = storage.Storage(
            now=now, new_uid=lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))
        )
        self.registry = shifting.ShiftingRegistry(
            stored,
            {
                resources.SERVICES: service_strategy.ServiceStrategy(
                    stored,
                    [addressing.ClusterIPs(each, rng) for each in networks.service_ranges],
                    addressing.NodePorts(rng, picked=self.options.node_ports),
                ),
                resources.PODS: pods.PodStrategy(stored),
                resources.DEPLOYMENTS: deployments.DeploymentStrategy(),
                resources.ENDPOINTS: endpoint_strategies.for_endpoints(),
                resources.ENDPOINT_SLICES: endpoint_strategies.for_endpoint_slices(),
                **networking_strategies.strategies(
                    stored, one_default=self.options.emulate.emulation.one_default_class
                ),
                **configuration_strategies.strategies(),
                **custom_strategies.strategies(),
            },
            below=self.shift_below,
            choose=rng.choice,
        )
        self.server = apiserver.ApiServer(
            self.registry,
            address=self.options.address,
            port=self.options.port,
            tokens={self.options.token or secrets.token_hex(16): "admin"},
            certificate=self._certificate(networks, now()) if self.options.tls else None,
            renew=(lambda: self._certificate(networks, now())) if self.options.tls else None,
            emulate=self.options.emulate.emulation,
        )
        recorder = event_recorder.Recorder(self.registry)
        shares = [nodes.pod_cidrs(each, self.options.nodes) for each in networks.pod_ranges]
        self.pod_cidrs = [cidr for share in shares for cidr in share]
        by_node = {
            f"node-{number}": cidrs for number, cidrs in enumerate(zip(*shares, strict=True), 1)
        }
        self.dns = (
            cluster_dns.ClusterDns(
                self.registry, self.options.dns, str(networks.services[cluster_dns.POSITION])
            )
            if self.options.dns is not None
            else None
        )
        """The cluster's DNS, if it has one."""
        self._kubelet = kubelet.Kubelet(
            self.registry,
            recorder,
            by_node,
            lambda: self.authority,
            program,
            self.dns.known if self.dns is not None else None,
        )
        self._controllers = self._connect(recorder, networks, rng)
        self._first_service_ip = str(networks.services[1])
        self._running = contextlib.AsyncExitStack()
        for namespace in _NAMESPACES:
            self.registry.create(resources.NAMESPACES, {"metadata": {"name": namespace}})
        nodes.create_nodes(self.registry, by_node)
        if resources.SERVICE_CIDRS in self.options.emulate.emulation.served:
            self._publish_service_cidr(networks)

    @property
    def url(self) -> str:
        """Where the API server listens, once entered."""
        return self.server.url

    @property
    def kubeconfig(self) -> dict[str, Any]:
        """The kubeconfig for this cluster, once entered."""
        return self.server.kubeconfig()

    @property
    def served(self) -> Sequence[Resource]:
        """The resources that there are, in each of their versions."""
        return self.server.emulated.served

    @property
    def faults(self) -> server_faults.Faults:
        """The faults of the API server."""
        return self.server.faults

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.server)
            self._publish_api_server()
            if self.dns is not None:
                await stack.enter_async_context(self.dns.running())
            await stack.enter_async_context(self._run())
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        # The exception of the body is not passed on: the task group would wrap it.
        await self._running.aclose()

    def _certificate(self, networks: "_Networks", now: datetime) -> certificates.Certificate:
        """A certificate for the address and, as in any cluster, for the Service in front of it."""
        addresses = (self.options.address, str(networks.services[1]))
        return certificates.self_signed(addresses, _API_NAMES, now)

    @property
    def authority(self) -> certificates.Certificate:
        """What signs the certificates of pods: that of the API server, if it has one."""
        if self.server.certificate is None:
            return self._plain_authority
        return self.server.certificate

    @functools.cached_property
    def _plain_authority(self) -> certificates.Certificate:
        """The authority of a cluster whose API server speaks plain HTTP."""
        return certificates.self_signed((self.options.address,), _API_NAMES, self._now())

    def apply(self, documents: Iterable[Mapping[str, Any]]) -> list[Object]:
        """Create what is not there and patch what is, as `kubectl apply` would.

        Returns the objects as stored. Raises KproxyError at the first that is refused, or that is
        of a kind which the cluster does not have.
        """
        return [
            self._apply(each) for document in documents for each in applied_files.items(document)
        ]

    def _apply(self, document: Mapping[str, Any]) -> Object:
        served = applied_files.resource_of(document, self.served)
        if served is None:
            reason = applied_files.why_unknown(document, self.served)
            raise errors.KproxyError(f"{reason}; remove it")
        resource = api_versions.stored_as(served)
        metadata = document.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise errors.KproxyError("metadata is not an object; correct the manifest")
        metadata = dict(metadata)
        name = metadata.get("name", "")
        if resource.namespaced:
            metadata.setdefault("namespace", "default")
        applied = json.dumps({**document, "metadata": metadata}, separators=(",", ":"))
        annotations = metadata.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise errors.KproxyError("metadata.annotations is not an object; correct the manifest")
        annotations = {**annotations, _LAST_APPLIED: f"{applied}\n"}
        if not resource.namespaced:
            metadata.pop("namespace", None)  # a namespace means nothing there
        new = rest.without_nulls({**document, "metadata": {**metadata, "annotations": annotations}})
        namespace = metadata.get("namespace", "")
        try:
            if self.registry.find(resource, name, namespace) is None:
                return self.registry.create(resource, api_versions.to_stored(served, new))
            return self.registry.patch(served, namespace, name, "strategic", new)
        except statuses.StatusError as error:
            raise errors.KproxyError(f"{error}; correct the manifest") from error

    @contextlib.asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        """Run controllers and pods while the block lasts; a failure of one ends the block."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._kubelet.run(), name="kubelet")]
            tasks += [group.create_task(each.run(), name=each.name) for each in self._controllers]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _connect(
        self, recorder: event_recorder.Recorder, networks: "_Networks", rng: random.Random
    ) -> Sequence[controller.Controller]:
        """The controllers, subscribed to the storage's commits."""
        scheduler = nodes.Scheduler(self.registry, recorder)
        deployment = deployment_controller.DeploymentController(self.registry, recorder)
        endpoints = endpoints_controllers.EndpointsController(self.registry)
        slices = endpoints_controllers.EndpointSliceController(self.registry)
        mirrors = endpoints_controllers.EndpointSliceMirroringController(self.registry)
        accounts = namespace_objects.service_accounts(self.registry)
        roots = namespace_objects.root_certificates(self.registry, lambda: self.authority.pem)
        balancers = load_balancers.LoadBalancerController(
            self.registry, recorder, networks.load_balancers, rng
        )
        publisher = self._controller("root-ca-cert-publisher", roots.reconcile, roots.concerned)

        def publish_again() -> None:
            for key in roots.everywhere():
                publisher.enqueue(key)

        self.server.on_access_change(publish_again)
        return [
            self._controller("deployment", deployment.reconcile, deployment.concerned),
            self._controller("scheduler", scheduler.reconcile, scheduler.concerned),
            self._controller("endpoints", endpoints.reconcile, endpoints.concerned),
            self._controller("endpointslice", slices.reconcile, slices.concerned),
            self._controller("endpointslicemirroring", mirrors.reconcile, mirrors.concerned),
            self._controller("service-lb", balancers.reconcile, balancers.concerned),
            self._controller("serviceaccount", accounts.reconcile, accounts.concerned),
            publisher,
        ]

    def _controller(
        self,
        name: str,
        reconcile: Callable[[names.NamespacedName], float | None],
        concerned: Follower,
    ) -> controller.Controller:
        made = controller.Controller(name, reconcile)

        def follow(event: storage.Event) -> None:
            for key in concerned(event):
                made.enqueue(key)

        self.registry.storage.subscribe(follow)
        return made

    def _publish_service_cidr(self, networks: "_Networks") -> None:
        """The ServiceCIDR `kubernetes`, which kube-apiserver makes of its flags (KEP-1880)."""
        now = storage.timestamp(self.registry.storage.now())
        message = "Kubernetes Service CIDR is ready"
        ready = conditions.condition("Ready", holds=True, now=now, message=message)
        made = self.registry.create(
            resources.SERVICE_CIDRS,
            {
                "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": list(map(str, networks.service_ranges))},
            },
        )
        status = {"conditions": [ready]}
        self.registry.update_status(resources.SERVICE_CIDRS, {**made, "status": status})

    def _publish_api_server(self) -> None:
        """The Service `default/kubernetes` and its endpoint, which kube-apiserver keeps itself."""
        port = self.server.port
        identity = {"name": "kubernetes", "namespace": "default"}
        labels = {"component": "apiserver", "provider": "kubernetes"}
        served = {"name": _API_PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": port}
        spec = {"clusterIP": self._first_service_ip, "ports": [served]}
        service = {"metadata": {**identity, "labels": labels}, "spec": spec}
        self.registry.create(resources.SERVICES, service)
        ports = [{"name": _API_PORT_NAME, "port": port, "protocol": "TCP"}]
        skip = {endpoints_controllers.LABEL_SKIP_MIRROR: "true"}
        subset = {"addresses": [{"ip": self.options.address}], "ports": ports}
        made = {"metadata": {**identity, "labels": skip}, "subsets": [subset]}
        self.registry.create(resources.ENDPOINTS, made)
        endpoint = {"addresses": [self.options.address], "conditions": {"ready": True}}
        label = {endpoint_slice_kind.LABEL_SERVICE_NAME: "kubernetes"}
        self.registry.create(
            resources.ENDPOINT_SLICES,
            {
                "metadata": {**identity, "labels": label},
                "addressType": "IPv4",
                "endpoints": [endpoint],
                "ports": ports,
            },
        )


_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Networks:
    """The address ranges of the options. Raises ConfigError for those that cannot work."""

    def __init__(self, options: Options) -> None:
        services, *services_6 = options.service_cidr.split(",")
        pods, *pods_6 = options.pod_cidr.split(",")
        self.services = _network("service CIDR", services, longest=29)
        self.pods = _network("pod CIDR", pods, longest=23)
        self.load_balancers = _network("load-balancer CIDR", options.load_balancer_cidr, longest=29)
        self.service_ranges: list[_Network] = [self.services]
        self.pod_ranges: list[_Network] = [self.pods]
        if services_6 or pods_6:
            if len(services_6) != 1 or len(pods_6) != 1:
                raise errors.ConfigError(
                    "a dual-stack cluster has two ranges of Services and two of pods: give an IPv4 "
                    "and an IPv6 range for each, such as 127.96.0.0/16,fd00:10:96::/112"
                )
            self.service_ranges.append(_ipv6_network("service CIDR", services_6[0], 108, 125))
            self.pod_ranges.append(_ipv6_network("pod CIDR", pods_6[0], 0, 56))
        every = (*self.service_ranges, *self.pod_ranges, self.load_balancers)
        for index, one in enumerate(every):
            for other in every[index + 1 :]:
                if one.version == other.version and one.overlaps(other):
                    raise errors.ConfigError(
                        f"the ranges {one} and {other} overlap: give Services, pods and load "
                        "balancers ranges of their own"
                    )


def _ipv6_network(what: str, text: str, shortest: int, longest: int) -> ipaddress.IPv6Network:
    try:
        made = ipaddress.IPv6Network(text.strip())
    except ValueError as error:
        raise errors.ConfigError(
            f"the {what} {text!r} is not usable, {error}: give an IPv6 range such as "
            "fd00:10:96::/112 behind the comma"
        ) from error
    if not shortest <= made.prefixlen <= longest:
        size = f"from /{shortest} to /{longest}" if shortest else f"a /{longest} or larger"
        raise errors.ConfigError(f"the {what} {text} is of no use: give {size}")
    return made


def _network(what: str, text: str, *, longest: int) -> ipaddress.IPv4Network:
    try:
        made = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise errors.ConfigError(
            f"the {what} {text!r} is not usable, {error}: give an IPv4 range such as 127.96.0.0/16"
        ) from error
    if made.prefixlen > longest:
        raise errors.ConfigError(f"the {what} {text} is too small: give a /{longest} or larger")
    return made
