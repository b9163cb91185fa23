"""Why a service port has no endpoint that clients can be sent to, in a clause for people."""

from collections.abc import Sequence

from kproxy.model import addresses, names
from kproxy.model.judging import weight_annotations
from kproxy.model.kinds import endpoints

_NAMED = 5
"""Ports and objects that a sentence names. The rest are counted."""


def reason(
    port: names.ServicePortName,
    found: Sequence[endpoints.Endpoint],
    sources: Sequence[endpoints.EndpointsObject],
    chosen: endpoints.Chosen,
    family: addresses.Family,
    local_to: str | None,
    *,
    are_of_weight_0: bool = False,
) -> str:
    """The clause that says which condition no endpoint meets.

    `found` are the endpoints of the port, `chosen` those that can be used, `sources` the objects of
    its Service, `family` the frontend's. `local_to` is this node's name if only the Local policy
    keeps endpoints away, else None. `are_of_weight_0` says whether all that could be used are.
    """
    if not sources:
        service = port.service
        return (
            f"there is no EndpointSlice with the label kubernetes.io/service-name={service.name} "
            f"and no Endpoints object {service.name} in namespace {service.namespace}"
        )
    if are_of_weight_0:
        return (
            f"every endpoint that is ready has weight 0 by annotation {weight_annotations.WEIGHTS}"
        )
    if local_to is not None:
        where = f'on this node, "{local_to}"' if local_to else "here: this node has no name"
        return f"the traffic policy is Local, and no ready endpoint is {where}"
    if chosen.loops:
        return "its only endpoints are its own addresses"
    if chosen.families[family].is_seen:
        return "it has endpoints, but none of them is ready"
    if found:
        other = addresses.family(found[0].backend.address)
        return f"this address is of {family}, and all of its endpoints are of {other}"
    return _without_such_a_port(port, sources)


def _without_such_a_port(
    port: names.ServicePortName, sources: Sequence[endpoints.EndpointsObject]
) -> str:
    offered = sorted({(each.name, each.protocol) for source in sources for each in source.ports})
    objects = _listed(sorted(f"{source.kind} {source.name.name}" for source in sources))
    if not offered or (port.port, port.protocol) in offered:
        return f"{objects} has no endpoint with an address that can be used"
    same = [protocol for name, protocol in offered if name == port.port]
    if same:
        return (
            f"protocols differ: the Service's port is {port.protocol.value}, "
            f"and the port of {objects} is {_listed(same)}"
        )
    others = _listed([_quoted(name) for name, _ in offered])
    return (
        f"port names differ: the Service's port is {_quoted(port.port)}, and {objects} has {others}"
    )


def _quoted(name: str) -> str:
    return f'"{name}"' if name else "unnamed"


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(words[:_NAMED])
    return f"{shown} and {len(words) - _NAMED} more" if len(words) > _NAMED else shown
