"""Fields that the schemas of the Gateway API have in common.

From config/crd of github.com/kubernetes-sigs/gateway-api: bounds, patterns and defaults.
"""

from typing import Any

from kproxy.simulator.kinds.custom import structural

GROUP = "gateway.networking.k8s.io"

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"^{_LABEL}(\.{_LABEL})*$"
HOSTNAME = rf"^(\*\.)?{_LABEL}(\.{_LABEL})*$"
_CONTROLLER = rf"^{_LABEL}(\.{_LABEL})*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$"
_KIND = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"
_REASON = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
_CONDITION = rf"^({_LABEL}(\.{_LABEL})*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"

Schema = dict[str, Any]


def text(description: str = "", longest: int = 253, **more: Any) -> Schema:
    """A string of 1 to `longest` characters."""
    return _described(description) | {
        "type": "string",
        "minLength": 1,
        "maxLength": longest,
        **more,
    }


def number(description: str, least: int, most: int, **more: Any) -> Schema:
    """A whole number."""
    return _described(description) | {
        "type": "integer",
        "format": "int32",
        "minimum": least,
        "maximum": most,
        **more,
    }


def port(description: str) -> Schema:
    """A port number."""
    return number(description, 1, 65535)


def object_of(
    properties: Schema, required: tuple[str, ...] = (), description: str = "", **more: Any
) -> Schema:
    """An object of known fields."""
    made = _described(description) | {"type": "object", "properties": properties, **more}
    return made | ({"required": list(required)} if required else {})


def list_of(
    items: Schema, most: int, description: str = "", *, least: int = 0, **more: Any
) -> Schema:
    """A list of `least` to `most` elements."""
    made = _described(description) | {"type": "array", "items": items, "maxItems": most, **more}
    return made | ({"minItems": least} if least else {})


def map_by(key: str, items: Schema, most: int, *, least: int = 0) -> Schema:
    """A list whose elements differ in `key`."""
    keys = {"x-kubernetes-list-type": "map", structural.LIST_KEYS: [key]}
    return list_of(items, most, least=least) | keys


def ruled(schema: Schema, *rules: structural.Rule) -> Schema:
    """The schema with rules for the values that it admits."""
    return schema | {structural.RULES: rules}


def texts(longest: int, most: int) -> Schema:
    """A map of texts by text."""
    value = {"type": "string", "maxLength": longest}
    return {"type": "object", "additionalProperties": value, "maxProperties": most}


def choice(*values: str, description: str = "", **more: Any) -> Schema:
    """One of a few words."""
    return _described(description) | {"type": "string", "enum": list(values), **more}


def group(**more: Any) -> Schema:
    """The group of an object that is referred to."""
    pattern = rf"^$|{SUBDOMAIN}"
    description = 'The group of the object, "" for the core group.'
    return {
        "type": "string",
        "maxLength": 253,
        "pattern": pattern,
        "description": description,
        **more,
    }


def kind(**more: Any) -> Schema:
    """The kind of an object that is referred to."""
    return text("The kind of the object.", 63, pattern=_KIND, **more)


def name() -> Schema:
    """The name of an object that is referred to."""
    return text("The name of the object.")


def namespace() -> Schema:
    """The namespace of an object that is referred to."""
    words = "The namespace of the object; that of the referring object unless given."
    return text(words, 63, pattern=f"^{_LABEL}$")


def section_name(description: str) -> Schema:
    """The name of a part of an object."""
    return text(description, pattern=SUBDOMAIN)


def controller() -> Schema:
    """The name of a controller: a domain and a path."""
    return text("The controller, as a domain-prefixed path.", pattern=_CONTROLLER)


def conditions(default: list[Any] | None = None, *, least: int = 0) -> Schema:
    """The conditions of a status."""
    fields = {
        "type": {"type": "string", "maxLength": 316, "pattern": _CONDITION},
        "status": choice("True", "False", "Unknown"),
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": text(longest=1024, pattern=_REASON),
        "message": {"type": "string", "maxLength": 32768},
    }
    required = ("lastTransitionTime", "message", "reason", "status", "type")
    made = map_by("type", object_of(fields, required), 8, least=least)
    return made | ({"default": default} if default else {})


def pending(*kinds: str) -> list[Any]:
    """The conditions of an object that no controller has looked at."""
    return [
        {
            "type": each,
            "status": "Unknown",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
            "reason": "Pending",
            "message": "Waiting for controller",
        }
        for each in kinds
    ]


def parent_ref() -> Schema:
    """A reference to a Gateway or to one of its listeners."""
    return object_of(
        {
            "group": group(default=GROUP),
            "kind": kind(default="Gateway"),
            "namespace": namespace(),
            "name": name(),
            "sectionName": section_name("The listener of the Gateway; all of them unless given."),
            "port": port("The port of the listeners; all of them unless given."),
        },
        ("name",),
    )


def _described(description: str) -> Schema:
    return {"description": description} if description else {}
