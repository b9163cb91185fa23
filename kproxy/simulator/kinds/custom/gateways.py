"""The schemas of GatewayClasses and Gateways, and the rules that they have in CEL."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from kproxy.model import addresses
from kproxy.simulator.kinds.custom import fields
from kproxy.simulator.kinds.custom.structural import Rule
from kproxy.simulator.store import statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

_PLAIN_PROTOCOLS = ("HTTP", "TCP", "UDP")
_LAYER_4 = ("TCP", "UDP")
_PROTOCOL = (
    r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$"
)


def class_update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """That the controller of a GatewayClass changes."""
    before, after = (each["spec"].get("controllerName") for each in (old, new))
    if before != after:
        yield statuses.invalid_value("spec.controllerName", "string", "field is immutable")


CLASS_SCHEMA = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": fields.object_of(
            {
                "controllerName": fields.controller(),
                "description": {"type": "string", "maxLength": 64},
                "parametersRef": fields.object_of(
                    {
                        "group": fields.group(),
                        "kind": fields.kind(),
                        "name": fields.name(),
                        "namespace": fields.namespace(),
                    },
                    ("group", "kind", "name"),
                ),
            },
            ("controllerName",),
            "Which controller the Gateways of this class belong to.",
        ),
        "status": fields.object_of(
            {
                "conditions": fields.conditions(fields.pending("Accepted")),
                "supportedFeatures": fields.map_by(
                    "name", fields.object_of({"name": {"type": "string"}}, ("name",)), 64
                ),
            },
            default={"conditions": fields.pending("Accepted")},
        ),
    },
}


def _each(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: all(map(holds, values))


def _listeners_differ(listeners: Any) -> bool:
    """Whether no two have the same port, protocol and hostname."""
    places = Counter((each["port"], each["protocol"], each.get("hostname")) for each in listeners)
    return all(count == 1 for count in places.values())


def _names_are_unique(listeners: Any) -> bool:
    return len({each["name"] for each in listeners}) == len(listeners)


def _has_material(tls: Any) -> bool:
    given = tls.get("certificateRefs") or tls.get("options")
    return tls["mode"] != "Terminate" or bool(given)


_LISTENER_RULES = (
    Rule(
        "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
        _each(lambda each: each["protocol"] not in _PLAIN_PROTOCOLS or "tls" not in each),
    ),
    Rule(
        "tls mode must be Terminate for protocol HTTPS",
        _each(
            lambda each: (
                each["protocol"] != "HTTPS"
                or "tls" not in each
                or each["tls"]["mode"] == "Terminate"
            )
        ),
    ),
    Rule(
        "tls mode must be set for protocol TLS",
        _each(lambda each: each["protocol"] != "TLS" or "tls" in each),
    ),
    Rule(
        "hostname must not be specified for protocols ['TCP', 'UDP']",
        _each(lambda each: each["protocol"] not in _LAYER_4 or not each.get("hostname")),
    ),
    Rule("Listener name must be unique within the Gateway", _names_are_unique),
    Rule(
        "Combination of port, protocol and hostname must be unique for each listener",
        _listeners_differ,
    ),
)

_SELECTOR = fields.object_of(
    {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "matchExpressions": {
            "type": "array",
            "items": fields.object_of(
                {
                    "key": {"type": "string"},
                    "operator": {"type": "string"},
                    "values": {"type": "array", "items": {"type": "string"}},
                },
                ("key", "operator"),
            ),
        },
    }
)

_ALLOWED_ROUTES = fields.object_of(
    {
        "namespaces": fields.object_of(
            {
                "from": fields.choice(
                    "All",
                    "Selector",
                    "Same",
                    description="The namespaces whose routes may attach.",
                    default="Same",
                ),
                "selector": _SELECTOR,
            },
            default={"from": "Same"},
        ),
        "kinds": fields.list_of(
            fields.object_of(
                {"group": fields.group(default=fields.GROUP), "kind": fields.kind()}, ("kind",)
            ),
            8,
            "The kinds of routes that may attach.",
        ),
    },
    description="Which routes may attach to the listener.",
    default={"namespaces": {"from": "Same"}},
)

_SECRET_REF = fields.object_of(
    {
        "group": fields.group(default=""),
        "kind": fields.kind(default="Secret"),
        "namespace": fields.namespace(),
        "name": fields.name(),
    },
    ("name",),
)

_TLS = fields.ruled(
    fields.object_of(
        {
            "mode": fields.choice("Terminate", "Passthrough", default="Terminate"),
            "certificateRefs": fields.list_of(_SECRET_REF, 64),
            "options": fields.texts(4096, 16),
        }
    ),
    Rule("certificateRefs or options must be specified when mode is Terminate", _has_material),
)

_LISTENER = fields.object_of(
    {
        "name": fields.section_name("The name of the listener, unique in the Gateway."),
        "hostname": fields.text("The host that it is for.", pattern=fields.HOSTNAME),
        "port": fields.port("Where it listens."),
        "protocol": fields.text("HTTP, HTTPS, TLS, TCP or UDP.", 255, pattern=_PROTOCOL),
        "tls": _TLS,
        "allowedRoutes": _ALLOWED_ROUTES,
    },
    ("name", "port", "protocol"),
)


def _is_address(entry: Any) -> bool:
    """Whether a value of type IPAddress is one, which the schema says by its formats."""
    is_ip = entry.get("type") == "IPAddress" and "value" in entry
    return not is_ip or addresses.parse(entry["value"]) is not None


def _is_host(entry: Any) -> bool:
    is_host = entry.get("type") == "Hostname" and bool(entry.get("value"))
    return not is_host or re.fullmatch(fields.HOSTNAME, entry["value"]) is not None


def _unique_values(kind: str) -> Callable[[Any], bool]:
    def holds(entries: Any) -> bool:
        values = [each["value"] for each in entries if each["type"] == kind and "value" in each]
        return len(set(values)) == len(values)

    return holds


def _address(least: int) -> dict[str, Any]:
    value = {"type": "string", "maxLength": 253} | ({"minLength": least} if least else {})
    matching = f"(matching {fields.HOSTNAME})"
    return fields.ruled(
        fields.object_of(
            {"type": fields.text(default="IPAddress"), "value": value},
            ("value",) if least else (),
        ),
        Rule("IPAddress value must be an IPv4 or an IPv6 address", _is_address),
        Rule(f"Hostname value must only contain valid characters {matching}", _is_host),
    )


_LISTENERS = {
    **fields.ruled(fields.map_by("name", _LISTENER, 64, least=1), *_LISTENER_RULES),
    "description": "Where the Gateway listens.",
}
_SPEC = fields.object_of(
    {
        "gatewayClassName": fields.text("The GatewayClass."),
        "listeners": _LISTENERS,
        "addresses": fields.ruled(
            fields.list_of(_address(least=0), 16, "The addresses that are asked for."),
            Rule("IPAddress values must be unique", _unique_values("IPAddress")),
            Rule("Hostname values must be unique", _unique_values("Hostname")),
        ),
        "infrastructure": fields.object_of(
            {"labels": fields.texts(63, 8), "annotations": fields.texts(4096, 16)}
        ),
    },
    ("gatewayClassName", "listeners"),
    "What the Gateway asks for.",
)

_PENDING = fields.pending("Accepted", "Programmed")
_STATUS = fields.object_of(
    {
        "addresses": fields.list_of(_address(least=1), 16),
        "conditions": fields.conditions(_PENDING),
        "listeners": fields.map_by(
            "name",
            fields.object_of(
                {
                    "name": fields.section_name("The name of the listener."),
                    "supportedKinds": _ALLOWED_ROUTES["properties"]["kinds"],
                    "attachedRoutes": {"type": "integer", "format": "int32"},
                    "conditions": fields.conditions(),
                },
                ("attachedRoutes", "conditions", "name"),
            ),
            64,
        ),
    },
    description="What the controller says of the Gateway.",
    default={"conditions": _PENDING},
)

SCHEMA = {
    "type": "object",
    "properties": {"spec": _SPEC, "status": _STATUS},
    "required": ["spec"],
}
