"""Which pods serve a Service, as Endpoints and as EndpointSlices. Pure.

The rules are those of kube-controller-manager's endpoints and endpointslice controllers
(`pkg/controller/endpoint`, `staging/src/k8s.io/endpointslice`).
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from kproxy.simulator.kinds import ip_families, pods
from kproxy.simulator.store.storage import Object

MAX_PER_SLICE = 100
MAX_PER_ENDPOINTS = 1000


class Port(NamedTuple):
    """A port that endpoints listen on."""

    name: str
    number: int
    protocol: str
    app_protocol: str = ""


Ports: TypeAlias = tuple[Port, ...]
Groups: TypeAlias = Mapping[Ports, Sequence[Object]]
"""Endpoints as they stand in a slice, by the ports they have in common."""


class SlicePlan(NamedTuple):
    """What to do so that slices hold what they should. New ones have ports and endpoints alone."""

    create: Sequence[Object]
    update: Sequence[Object]
    delete: Sequence[Object]


def selects(service: Object, labels: Mapping[str, str]) -> bool:
    """Whether the Service's selector picks pods with `labels`. An empty one picks none."""
    selector = service["spec"].get("selector")
    return bool(selector) and selector.items() <= labels.items()


def subsets(service: Object, found: Iterable[Object]) -> list[Object]:
    """`subsets` of the Endpoints of `service`, from the pods that its selector picks.

    A pod that is being deleted is left out, since Endpoints cannot say so.
    """
    unready_too = _publishes_not_ready(service)
    primary = families(service)[0]
    grouped: dict[Ports, dict[str, list[Object]]] = {}
    for pod in found:
        ip = _address(pod, primary)
        if not ip or (pods.is_terminating(pod) and not unready_too):
            continue
        ports = resolve_ports(service, pod)
        if not ports and service["spec"].get("ports"):
            continue
        field = "addresses" if unready_too or pods.is_ready(pod) else "notReadyAddresses"
        address = {
            "ip": ip,
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": _target(pod),
        }
        if hostname := _hostname(service, pod):
            address["hostname"] = hostname
        grouped.setdefault(ports, {}).setdefault(field, []).append(address)
    return [_subset(ports, addresses) for ports, addresses in sorted(grouped.items())]


def _subset(ports: Ports, addresses: Mapping[str, list[Object]]) -> Object:
    made: Object = {
        field: sorted(addresses[field], key=lambda each: _numeric(each["ip"]))
        for field in ("addresses", "notReadyAddresses")
        if field in addresses
    }
    if ports:
        made["ports"] = [endpoint_port(port, omit_empty_name=True) for port in ports]
    return made


def truncated(made: Sequence[Object], limit: int = MAX_PER_ENDPOINTS) -> list[Object]:
    """The subsets with at most `limit` addresses in all, the ready ones first."""
    left = limit
    kept = [dict(each) for each in made]
    for field in ("addresses", "notReadyAddresses"):
        for subset in kept:
            subset[field] = subset.get(field, [])[:left]
            left -= len(subset[field])
    filled = [{name: value for name, value in each.items() if value} for each in kept]
    return [each for each in filled if "addresses" in each or "notReadyAddresses" in each]


def families(service: Object) -> list[str]:
    """The families of its endpoints, the first of which Endpoints have alone."""
    return service["spec"].get("ipFamilies") or ["IPv4"]


def groups(
    service: Object, found: Iterable[Object], family: str = "IPv4"
) -> dict[Ports, list[Object]]:
    """The endpoints of `service` of one family as slices hold them.

    Ports differ where names resolve apart.
    """
    made: dict[Ports, list[Object]] = {}
    for pod in found:
        if ip := _address(pod, family):
            endpoint = _endpoint(service, pod, ip)
            made.setdefault(resolve_ports(service, pod), []).append(endpoint)
    return made


def _hostname(service: Object, pod: Object) -> str:
    """The hostname of a pod as an endpoint: it has one within the subdomain that it asks for."""
    is_within = pod["spec"].get("subdomain") == service["metadata"]["name"]
    return pod["spec"].get("hostname", "") if is_within else ""


def _endpoint(service: Object, pod: Object, ip: str) -> Object:
    serving, terminating = pods.is_ready(pod), pods.is_terminating(pod)
    made: Object = {
        "addresses": [ip],
        "conditions": {
            "ready": _publishes_not_ready(service) or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": _target(pod),
    }
    if hostname := _hostname(service, pod):
        made["hostname"] = hostname
    return made


def mirrored(made_by_hand: Object, family: str = "IPv4") -> dict[Ports, list[Object]]:
    """The endpoints of one family of an Endpoints object, as slices hold them."""
    made: dict[Ports, list[Object]] = {}
    for subset in made_by_hand.get("subsets") or ():
        ports = tuple(
            sorted(
                Port(
                    port.get("name") or "",
                    port["port"],
                    port.get("protocol") or "TCP",
                    port.get("appProtocol") or "",
                )
                for port in subset.get("ports") or ()
            )
        )
        for field, is_ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                if ip_families.of(address["ip"]) != family:
                    continue
                endpoint: Object = {
                    "addresses": [address["ip"]],
                    "conditions": {"ready": is_ready},
                }
                for name in ("hostname", "nodeName", "targetRef"):
                    if name in address:
                        endpoint[name] = address[name]
                made.setdefault(ports, []).append(endpoint)
    return made


def resolve_ports(service: Object, pod: Object) -> Ports:
    """The Service's target ports on this pod; a name that the pod does not have is left out."""
    found = []
    for port in service["spec"].get("ports") or ():
        number = _target_port(port["targetPort"], port["protocol"], pod)
        if number:
            name, app = port.get("name") or "", port.get("appProtocol") or ""
            found.append(Port(name, number, port["protocol"], app))
    return tuple(sorted(found))


def _target_port(target: int | str, protocol: str, pod: Object) -> int:
    """The number of a target port; 0 when no container has one of that name and protocol."""
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == target and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return 0


def plan(desired: Groups, existing: Iterable[Object], limit: int = MAX_PER_SLICE) -> SlicePlan:
    """How `existing` slices come to hold `desired`, with as few writes as can be.

    As `reconcileByPortMapping` does: endpoints stay in the slice where they are; what is left
    fills slices that change anyway, then the fullest that has room for all of it, then new ones.
    """
    create: list[Object] = []
    update: list[Object] = []
    delete: list[Object] = []
    by_ports: dict[Ports, list[Object]] = {}
    for each in existing:
        by_ports.setdefault(_slice_ports(each), []).append(each)
    for ports in sorted({*desired, *by_ports}):
        wanted = {_identity(each): each for each in desired.get(ports, ())}
        changed, unchanged = _keep(by_ports.get(ports, []), wanted)
        left = list(wanted.values())
        for each in changed:
            room = limit - len(each["endpoints"])
            each["endpoints"].extend(left[:room])
            del left[:room]
        if left and (best := _fullest_with_room(unchanged, len(left), limit)):
            unchanged.remove(best)
            changed.append({**best, "endpoints": [*best["endpoints"], *left]})
            left.clear()
        named = [endpoint_port(port) for port in ports]
        create.extend(
            {"ports": named, "endpoints": left[start : start + limit]}
            for start in range(0, len(left), limit)
        )
        update.extend(each for each in changed if each["endpoints"])
        delete.extend(each for each in changed if not each["endpoints"])
    return SlicePlan(create, update, delete)


def with_placeholder(made: SlicePlan, existing: Sequence[Object]) -> SlicePlan:
    """The plan, with an empty slice where it would leave none.

    The endpointslice controller keeps one for each Service, so that "no endpoints" differs from
    "not looked at yet".
    """
    if made.create or len(made.delete) < len(existing):
        return made
    kept = next((each for each in existing if not each.get("ports")), None)
    if kept is None:
        return made._replace(create=[{"ports": [], "endpoints": []}])
    name = kept["metadata"]["name"]
    return SlicePlan(
        create=[],
        update=[{**kept, "endpoints": []}] if kept.get("endpoints") else [],
        delete=[each for each in made.delete if each["metadata"]["name"] != name],
    )


def reusing(made: SlicePlan) -> SlicePlan:
    """The plan, with slices that would be deleted updated to what would be created.

    As the endpointslice controller does: a change of ports leaves no moment without endpoints. The
    slices must be of one family.
    """
    reused = [
        {**old, "ports": new["ports"], "endpoints": new["endpoints"]}
        for old, new in zip(made.delete, made.create, strict=False)
    ]
    count = len(reused)
    return SlicePlan(made.create[count:], [*made.update, *reused], made.delete[count:])


def _keep(
    slices: Sequence[Object], wanted: dict[tuple[str, str], Object]
) -> tuple[list[Object], list[Object]]:
    """Slices as they are without what is not wanted, those that differ and those that do not.

    What a slice holds is taken out of `wanted`.
    """
    changed: list[Object] = []
    unchanged: list[Object] = []
    for each in slices:
        held = each.get("endpoints") or []
        kept = [new for old in held if (new := wanted.pop(_identity(old), None)) is not None]
        (unchanged if kept == held and kept else changed).append({**each, "endpoints": kept})
    return changed, unchanged


def _fullest_with_room(slices: Sequence[Object], count: int, limit: int) -> Object | None:
    fitting = [each for each in slices if len(each["endpoints"]) + count <= limit]
    return max(fitting, key=lambda each: len(each["endpoints"]), default=None)


def _slice_ports(each: Object) -> Ports:
    return tuple(
        sorted(
            Port(
                port.get("name") or "",
                port["port"],
                port["protocol"],
                port.get("appProtocol") or "",
            )
            for port in each.get("ports") or ()
        )
    )


def endpoint_port(port: Port, *, omit_empty_name: bool = False) -> Object:
    """A port as it is written in Endpoints (no empty name) and in slices."""
    made: Object = {"name": port.name, "port": port.number, "protocol": port.protocol}
    if omit_empty_name and not port.name:
        del made["name"]
    if port.app_protocol:
        made["appProtocol"] = port.app_protocol
    return made


def _identity(endpoint: Object) -> tuple[str, str]:
    """What makes it the same endpoint although its conditions have changed."""
    target = endpoint.get("targetRef") or {}
    return endpoint["addresses"][0], target.get("uid", "")


def _target(pod: Object) -> Object:
    metadata = pod["metadata"]
    fields = ("namespace", "name", "uid")
    return {"kind": "Pod", **{field: metadata[field] for field in fields}}


def _address(pod: Object, family: str) -> str:
    """The pod's address of a family; "" if it has none, and once it has finished."""
    status = pod.get("status") or {}
    given = [status.get("podIP"), *(each["ip"] for each in status.get("podIPs") or ())]
    if pods.is_finished(pod):
        return ""
    return next((each for each in given if each and ip_families.of(each) == family), "")


def _publishes_not_ready(service: Object) -> bool:
    return bool(service["spec"].get("publishNotReadyAddresses"))


def _numeric(address: str) -> int:
    return int(ipaddress.ip_address(address))
