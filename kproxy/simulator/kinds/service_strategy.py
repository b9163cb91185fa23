"""Services as the API server keeps them: defaults, cluster IPs and node ports.

The order is kube-apiserver's (`pkg/registry/core/service/storage`): defaults, then what an update
inherits from the stored Service or drops with a change of type, then validation, then allocation.
"""

import copy
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from kproxy.model.kinds import service_kind
from kproxy.model.kinds import services as model_services
from kproxy.simulator.kinds import addressing, ip_families, service_validation
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object


class ServiceStrategy(registry.PlainStrategy):
    """The rules for Services, with the allocators, which follow what is stored.

    `stored` is the storage; the strategy subscribes to it for as long as it lives.
    """

    def __init__(
        self,
        stored: storage.Storage,
        cluster_ips: Sequence[addressing.ClusterIPs],
        node_ports: addressing.NodePorts,
    ) -> None:
        """`cluster_ips` has one for each family of the cluster, that of the default first."""
        self._cluster_ips = {f"IPv{each.cidr.version}": each for each in cluster_ips}
        self._node_ports = node_ports
        stored.subscribe(self._follow)

    def prepare_create(self, new: Object) -> Object:
        """The Service to store. Raises BadRequest and Invalid."""
        service = _readable(new)
        set_defaults(service)
        service["status"] = {"loadBalancer": {}}
        self._check(service, service_validation.violations(service))
        self._allocate(service, None)
        return service

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The Service to store in place of `old`. Raises BadRequest and Invalid."""
        service = _readable(new)
        _inherit(old, service)
        _drop_with_type(old, service)
        set_defaults(service)
        causes = service_validation.violations(service)
        self._check(service, [*causes, *service_validation.update_violations(old, service)])
        self._allocate(service, old)
        if service["spec"]["type"] != "LoadBalancer":
            service["status"] = {"loadBalancer": {}}
        return service

    def _check(self, service: Object, causes: list[statuses.Cause]) -> None:
        if causes:
            raise statuses.invalid(resources.SERVICES, service["metadata"].get("name", ""), causes)

    def _allocate(self, service: Object, old: Object | None) -> None:
        """Give `service` what its type needs and it does not have. Raises Invalid."""
        if service_validation.needs_cluster_ip(service):
            self._check(service, list(ip_families.violations(service["spec"])))
            configured = tuple(self._cluster_ips)
            self._check(service, list(ip_families.complete(service, old, configured)))
            if old and service_validation.needs_cluster_ip(old):
                self._check(service, list(ip_families.update_violations(old, service)))
            self._allocate_cluster_ips(service, old)
        held = node_ports_of(old) if old else frozenset()
        if service_validation.needs_node_ports(service) or any(
            port.get("nodePort") for port in service["spec"].get("ports") or ()
        ):
            self._allocate_node_ports(service, held)
        if service_validation.needs_health_check(service):
            self._allocate_health_check_port(service, held)

    def _allocate_cluster_ips(self, service: Object, old: Object | None) -> None:
        """One for each of its families, unless it is headless. What it has already is kept."""
        spec = service["spec"]
        if spec.get("clusterIP") == "None":
            spec["clusterIPs"] = ["None"]
            return
        held = cluster_ips_of(old) if old else []
        given = spec.get("clusterIPs") or []
        made = [
            self._allocate_cluster_ip(service, family, wanted, held)
            for family, wanted in zip_longest(spec["ipFamilies"], given[: len(spec["ipFamilies"])])
        ]
        spec["clusterIP"], spec["clusterIPs"] = made[0], made

    def _allocate_cluster_ip(
        self, service: Object, family: str, wanted: str | None, held: Sequence[str]
    ) -> str:
        allocator = self._cluster_ips[family]
        if wanted in held:
            return str(wanted)
        try:
            if not wanted:
                return allocator.pick()
            wanted = str(ipaddress.ip_address(wanted))
            allocator.check(wanted)
        except addressing.AllocationError as error:
            if not wanted:
                raise statuses.internal_error(f"failed to allocate a serviceIP: {error}") from error
            detail = f"failed to allocate IP {wanted}: {error}"
            given = service["spec"]["clusterIPs"]
            self._check(service, [statuses.invalid_value("spec.clusterIPs", given, detail)])
        return str(wanted)

    def _allocate_node_ports(self, service: Object, held: frozenset[int]) -> None:
        """Ports of one Service may share a number when their protocols differ."""
        ports = service["spec"].get("ports") or []
        wanted = {port["nodePort"] for port in ports if port.get("nodePort")}
        for index, port in enumerate(ports):
            if number := port.get("nodePort"):
                if number not in held:
                    self._check_node_port(service, f"spec.ports[{index}].nodePort", number)
            elif service_validation.needs_node_ports(service):
                port["nodePort"] = self._pick_node_port(wanted)
                wanted.add(port["nodePort"])

    def _allocate_health_check_port(self, service: Object, held: frozenset[int]) -> None:
        spec = service["spec"]
        if number := spec.get("healthCheckNodePort"):
            if number not in held:
                self._check_node_port(service, "spec.healthCheckNodePort", number)
        else:
            spec["healthCheckNodePort"] = self._pick_node_port(node_ports_of(service))

    def _check_node_port(self, service: Object, where: str, number: int) -> None:
        try:
            self._node_ports.check(number)
        except addressing.AllocationError as error:
            self._check(service, [statuses.invalid_value(where, number, str(error))])

    def _pick_node_port(self, excluded: set[int] | frozenset[int]) -> int:
        try:
            return self._node_ports.pick(excluded)
        except addressing.AllocationError as error:
            raise statuses.internal_error(f"failed to allocate a nodePort: {error}") from error

    def _follow(self, event: storage.Event) -> None:
        """Hold what the stored Services have, and nothing else."""
        if event.resource is not resources.SERVICES:
            return
        allocators = self._cluster_ips
        before = event.previous
        after = event.object if event.type != "DELETED" else None
        if before:
            self._node_ports.release(node_ports_of(before))
            for address in cluster_ips_of(before):
                allocators[ip_families.of(address)].release(address)
        if after:
            self._node_ports.hold(node_ports_of(after))
            for address in cluster_ips_of(after):
                allocators[ip_families.of(address)].hold(address)


def cluster_ips_of(service: Object) -> list[str]:
    """Its cluster IPs; none when it is headless or a mere name."""
    return [each for each in service["spec"].get("clusterIPs") or () if each != "None"]


def node_ports_of(service: Object) -> frozenset[int]:
    """All numbers it has from the range of node ports."""
    spec = service["spec"]
    numbers = [port.get("nodePort") for port in spec.get("ports") or ()]
    return frozenset(each for each in (*numbers, spec.get("healthCheckNodePort")) if each)


def _readable(new: Object) -> Object:
    """A copy whose fields have the types of the API. Raises BadRequest."""
    try:
        msgspec.convert(new, service_kind.Service)
        msgspec.convert(new, _Rest)
    except msgspec.ValidationError as error:
        raise statuses.unreadable(resources.SERVICES, error) from error
    service = copy.deepcopy(new)
    service["spec"] = service.get("spec") or {}
    return service


class _RestOfPort(msgspec.Struct, rename="camel"):
    port: int
    target_port: int | str | None = None


class _RestOfSpec(msgspec.Struct, rename="camel"):
    selector: dict[str, str] | None = None
    ports: list[_RestOfPort] | None = None
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None
    external_name: str | None = None
    health_check_node_port: int | None = None
    allocate_load_balancer_node_ports: bool | None = None


class _Rest(msgspec.Struct):
    """Fields that a proxy does not read, and so the model does not have."""

    spec: _RestOfSpec | None = None


def set_defaults(service: Object) -> None:
    """`SetDefaults_Service` of `pkg/apis/core/v1/defaults.go`."""
    spec = service["spec"]
    _default(spec, "type", "ClusterIP")
    _default(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec["sessionAffinityConfig"] = spec.get("sessionAffinityConfig") or {}
        config["clientIP"] = config.get("clientIP") or {}
        if config["clientIP"].get("timeoutSeconds") is None:
            config["clientIP"]["timeoutSeconds"] = model_services.DEFAULT_AFFINITY_SECONDS
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    for port in spec.get("ports") or ():
        _default(port, "protocol", "TCP")
        _default(port, "targetPort", port["port"])
    if spec["type"] != "ExternalName":
        _default(spec, "internalTrafficPolicy", "Cluster")
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
        spec["allocateLoadBalancerNodePorts"] = True
    if service_validation.is_externally_accessible(service):
        _default(spec, "externalTrafficPolicy", "Cluster")


def _default(fields: dict[str, Any], name: str, value: object) -> None:
    """Set what is absent, null, "" or 0: to Go these are one."""
    if not fields.get(name):
        fields[name] = value


def _inherit(old: Object, new: Object) -> None:
    """What an update leaves out and the stored Service has (`patchAllocatedValues`)."""
    before, after = old["spec"], new["spec"]
    _default(after, "type", "ClusterIP")
    needed = (service_validation.needs_cluster_ip, service_validation.needs_node_ports)
    keeps_ip, keeps_ports = (rule(old) and rule(new) for rule in needed)
    if keeps_ip:
        if not after.get("clusterIP") and not after.get("clusterIPs"):
            _copy(before, after, ("clusterIP", "clusterIPs"))
        elif after.get("clusterIP") == before.get("clusterIP"):
            _default(after, "clusterIPs", before.get("clusterIPs"))
        elif before.get("clusterIPs") == after.get("clusterIPs") and after.get("clusterIP"):
            after["clusterIPs"] = [after["clusterIP"]]
    if keeps_ports:
        known = {(port["protocol"], port["port"]): port for port in before.get("ports") or ()}
        taken = {port.get("nodePort") for port in after.get("ports") or ()}
        for port in after.get("ports") or ():
            held = known.get((port.get("protocol") or "TCP", port["port"]), {}).get("nodePort")
            if held and not port.get("nodePort") and held not in taken:
                port["nodePort"] = held
    if service_validation.needs_health_check(old) and service_validation.needs_health_check(new):
        _default(after, "healthCheckNodePort", before.get("healthCheckNodePort"))


def _copy(source: Object, target: Object, fields: tuple[str, ...]) -> None:
    target.update({field: source[field] for field in fields if field in source})


def _drop_with_type(old: Object, new: Object) -> None:
    """What the old type had and the new one cannot, unless the user has set it to something else.

    `dropTypeDependentFields`: `kubectl patch -p '{"spec": {"type": "ClusterIP"}}'` is to work.
    """
    before, after = old["spec"], new["spec"]
    for fields, still_fits in _dependent_fields():
        if still_fits(old) and not still_fits(new):
            for field in fields:
                if after.get(field) == before.get(field):
                    after.pop(field, None)
    if service_validation.needs_node_ports(old) and after["type"] in {"ClusterIP", "ExternalName"}:
        held = node_ports_of(old)
        for port in after.get("ports") or ():
            if port.get("nodePort") in held:
                del port["nodePort"]


def _dependent_fields() -> Iterator[tuple[tuple[str, ...], Callable[[Object], bool]]]:
    yield (
        ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"),
        service_validation.needs_cluster_ip,
    )
    yield ("healthCheckNodePort",), service_validation.needs_health_check
    yield ("externalTrafficPolicy",), service_validation.is_externally_accessible
    yield (
        ("allocateLoadBalancerNodePorts", "loadBalancerClass"),
        lambda service: bool(service["spec"].get("type") == "LoadBalancer"),
    )
