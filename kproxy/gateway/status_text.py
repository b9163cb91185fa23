"""Statuses as the API has them, merged into what is there.

What others have written stays: conditions of other types, the entries of other controllers, and
the addresses of other proxies, each of which adds its own. A condition that says the same keeps the
time of its last transition. One of a newer generation is not replaced: this proxy has not seen that
generation yet.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from kproxy.gateway import statuses
from kproxy.model.kinds.gateway import references, routes

Text: TypeAlias = dict[str, Any]
Current: TypeAlias = Mapping[str, Any]


def merged(
    current: Current, wanted: statuses.Status, now: str, former: Collection[str] = frozenset()
) -> Text:
    """The whole status, of the one that the API server has. `now` is a time (RFC 3339).

    `former` are addresses that this proxy has written before.
    """
    match wanted:
        case statuses.ClassStatus():
            return {**current, "conditions": _conditions(current, wanted.conditions, wanted, now)}
        case statuses.GatewayStatus():
            return _gateway(current, wanted, now, former)
        case statuses.RouteStatus():
            return {**current, "parents": _parents(_listed(current, "parents"), wanted, now)}


def without(current: Current, addresses: Collection[str]) -> Text:
    """The status of a Gateway without the addresses of a proxy that ends."""
    listed = _listed(current, "addresses")
    return {**current, "addresses": [each for each in listed if each.get("value") not in addresses]}


def _gateway(
    current: Current, wanted: statuses.GatewayStatus, now: str, former: Collection[str]
) -> Text:
    gone = {*former} - {*wanted.addresses}
    addresses = [each for each in _listed(current, "addresses") if each.get("value") not in gone]
    known = {each.get("value") for each in addresses}
    missing = [each for each in wanted.addresses if each not in known]
    added = [*addresses, *({"type": "IPAddress", "value": each} for each in missing)]
    listeners = {each.get("name"): each for each in _listed(current, "listeners")}
    return {
        **current,
        "conditions": _conditions(current, wanted.conditions, wanted, now),
        "addresses": added[: statuses.MOST_ADDRESSES],
        "listeners": [
            {
                **(before := listeners.get(each.name, {})),
                "name": each.name,
                "supportedKinds": [{"group": kind.group, "kind": kind.kind} for kind in each.kinds],
                "attachedRoutes": each.attached,
                "conditions": _conditions(before, each.conditions, wanted, now),
            }
            for each in wanted.listeners
        ],
    }


def _parents(current: Sequence[Current], wanted: statuses.RouteStatus, now: str) -> list[Text]:
    ours = [each for each in current if _is_ours(each)]
    others = [dict(each) for each in current if not _is_ours(each)]
    made = []
    for parent, conditions in wanted.parents:
        text = parent_text(parent)
        before: Current = next((each for each in ours if each.get("parentRef") == text), {})
        made.append(
            {
                "parentRef": text,
                "controllerName": references.CONTROLLER,
                "conditions": _conditions(before, conditions, wanted, now),
            }
        )
    return [*others, *made][: routes.MOST_PARENTS]


def _is_ours(parent: Current) -> bool:
    return parent.get("controllerName") == references.CONTROLLER


def parent_text(parent: routes.Parent) -> Text:
    """A reference to a parent, as the API has it, with its namespace."""
    return {
        "group": parent.kind.group,
        "kind": parent.kind.kind,
        "namespace": parent.name.namespace,
        "name": parent.name.name,
        **({"sectionName": parent.section} if parent.section else {}),
        **({"port": parent.port} if parent.port else {}),
    }


def _conditions(
    current: Current, wanted: statuses.Conditions, of: statuses.Status, now: str
) -> list[Text]:
    """The conditions that are there, in their order, with ours in place or added."""
    made = {each.get("type"): dict(each) for each in _listed(current, "conditions")}
    for each in wanted:
        before = made.get(each.type, {})
        if (before.get("observedGeneration") or 0) > of.generation:
            continue
        status = "True" if each.is_true else "False"
        is_same = before.get("status") == status
        made[each.type] = {
            "type": each.type,
            "status": status,
            "reason": each.reason,
            "message": each.message,
            "observedGeneration": of.generation,
            "lastTransitionTime": (before.get("lastTransitionTime") or now) if is_same else now,
        }
    return list(made.values())


def _listed(current: Current, field: str) -> list[Current]:
    """A list of mappings; what is not one is left out, since it comes from elsewhere."""
    found = current.get(field)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
