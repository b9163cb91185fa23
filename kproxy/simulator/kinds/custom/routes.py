"""The schema of TCPRoutes and UDPRoutes, and the rules that it has in CEL."""

from typing import Any

from kproxy.simulator.kinds.custom import fields
from kproxy.simulator.kinds.custom.structural import Rule


def _parent(reference: Any) -> tuple[str, ...]:
    """What a reference is to, whichever listener it names."""
    named = (reference["group"], reference["kind"], reference.get("namespace", ""))
    return (*named, reference["name"])


def _sections_by_parent(references: Any) -> list[list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for each in references:
        found.setdefault(_parent(each), []).append(each.get("sectionName", ""))
    return list(found.values())


def _all_or_none_have_a_section(references: Any) -> bool:
    return all(len(set(map(bool, sections))) == 1 for sections in _sections_by_parent(references))


def _sections_are_unique(references: Any) -> bool:
    return all(len(set(sections)) == len(sections) for sections in _sections_by_parent(references))


def _service_has_port(reference: Any) -> bool:
    is_service = (reference["group"], reference["kind"]) == ("", "Service")
    return not is_service or "port" in reference


_AMONG_SAME = "when parentRefs includes 2 or more references to the same parent"

_BACKEND_REF = fields.ruled(
    fields.object_of(
        {
            "group": fields.group(default=""),
            "kind": fields.kind(default="Service"),
            "namespace": fields.namespace(),
            "name": fields.name(),
            "port": fields.port("The port of the Service."),
            "weight": fields.number(
                "The share of connections, in proportion to the sum of all weights.",
                0,
                1_000_000,
                default=1,
            ),
        },
        ("name",),
    ),
    Rule("Must have port for Service reference", _service_has_port),
)

_RULE = fields.object_of(
    {
        "name": fields.section_name("The name of the rule."),
        "backendRefs": fields.list_of(
            _BACKEND_REF, 16, "Where connections or datagrams are sent.", least=1
        ),
    },
    ("backendRefs",),
)

_SPEC = fields.object_of(
    {
        "parentRefs": fields.ruled(
            fields.list_of(fields.parent_ref(), 32, "The Gateways that the route is attached to."),
            Rule(f"sectionName must be specified {_AMONG_SAME}", _all_or_none_have_a_section),
            Rule(f"sectionName must be unique {_AMONG_SAME}", _sections_are_unique),
        ),
        "rules": fields.list_of(_RULE, 1, "What is done with what arrives.", least=1),
    },
    ("rules",),
    "What the route asks for.",
)

_STATUS = fields.object_of(
    {
        "parents": fields.list_of(
            fields.object_of(
                {
                    "parentRef": fields.parent_ref(),
                    "controllerName": fields.controller(),
                    "conditions": fields.conditions(least=1),
                },
                ("conditions", "controllerName", "parentRef"),
            ),
            32,
            "What each Gateway made of the route.",
        )
    },
    ("parents",),
    "What controllers say of the route.",
)

SCHEMA = {
    "type": "object",
    "properties": {"spec": _SPEC, "status": _STATUS},
    "required": ["spec"],
}
