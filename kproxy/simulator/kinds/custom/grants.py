"""The schema of ReferenceGrants, which have no status."""

from kproxy.simulator.kinds.custom import fields

_MOST = 16

_FROM = fields.object_of(
    {"group": fields.group(), "kind": fields.kind(), "namespace": fields.namespace()},
    ("group", "kind", "namespace"),
)
_TO = fields.object_of(
    {"group": fields.group(), "kind": fields.kind(), "name": fields.name()}, ("group", "kind")
)

_SPEC = fields.object_of(
    {
        "from": fields.list_of(_FROM, _MOST, "Which objects may refer to others.", least=1),
        "to": fields.list_of(_TO, _MOST, "Which objects may be referred to.", least=1),
    },
    ("from", "to"),
    "Who may refer to objects of this namespace.",
)

SCHEMA = {"type": "object", "properties": {"spec": _SPEC}}
