"""What `kproxy get` and `describe` can show, and how kubectl's users name it.

`svc`, `service/web`, `svc,ep`, `endpoints svc/web`: as kubectl, but the name is always that of a
Service, or of a Gateway or an Ingress for these, since all else that a proxy shows belongs to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from kproxy import errors

View: TypeAlias = dict[str, Any]
API_VERSION = "kproxy.io/v1"


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource: its plural, its singular as `-o name` prints it, its short names."""

    plural: str
    singular: str
    kind: str
    short: tuple[str, ...]
    name_field: str = "service"


KINDS = (
    Kind("services", "service", "Service", ("svc",), "name"),
    Kind("gateways", "gateway", "Gateway", ("gtw",), "name"),
    Kind("routes", "route", "Route", (), "name"),
    Kind("ingresses", "ingress", "Ingress", ("ing",), "name"),
    Kind("endpoints", "endpoints", "Endpoint", ("ep", "endpoint")),
    Kind("affinity", "affinity", "Affinity", ("aff", "affinities")),
    Kind("connections", "connection", "Connection", ("conn",)),
    Kind("events", "event", "Event", ("ev",)),
    Kind("hosts", "host", "Host", ()),
)
_BY_WORD = {word: kind for kind in KINDS for word in (kind.plural, kind.singular, *kind.short)}
_ALL = (_BY_WORD["services"], _BY_WORD["endpoints"])
"""What `get all` shows."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One resource, of one Service or ("") of all."""

    kind: Kind
    name: str = ""


def wanted(arguments: Sequence[str]) -> list[Wanted]:
    """What the arguments of a command mean. Raises ConfigError."""
    first, *rest = arguments
    if "/" in first:
        return [_typed(argument) for argument in arguments]
    kinds = list(_ALL) if first.lower() == "all" else [_kind(word) for word in first.split(",")]
    names = [_typed(argument).name if "/" in argument else argument for argument in rest]
    if "" in names:
        raise errors.ConfigError("an empty name: give the name of a Service")
    return [Wanted(kind, name) for kind in dict.fromkeys(kinds) for name in names or [""]]


def _typed(argument: str) -> Wanted:
    """`svc/web`."""
    word, slash, name = argument.partition("/")
    if not slash:
        raise errors.ConfigError(
            f"{argument} has no resource: after a name such as svc/web every name needs one"
        )
    if not name or "/" in name:
        raise errors.ConfigError(f"{argument} is not of the form RESOURCE/NAME, such as svc/web")
    return Wanted(_kind(word), name)


def _kind(word: str) -> Kind:
    """The resource of this plural, singular or short name, in upper or lower case."""
    kind = _BY_WORD.get(word.lower())
    if kind is None:
        plurals = ", ".join(each.plural for each in KINDS)
        problem = f"no resource is called {word}" if word else "a resource has no name"
        raise errors.ConfigError(f"{problem}: there are {plurals}; a Service is named as svc/web")
    return kind


def item(kind: Kind, view: View) -> View:
    """A view as an item of a list: with the fields that every Kubernetes object has."""
    fields = dict(view)
    metadata = {"name": fields[kind.name_field], "namespace": fields["namespace"]}
    if created := fields.pop("created", None):
        metadata["creationTimestamp"] = created
    if labels := fields.pop("labels", None):
        metadata["labels"] = labels
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": metadata, **fields}


def as_list(items: Sequence[View]) -> View:
    """The envelope that kubectl puts around several objects."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": ""},
        "items": list(items),
    }
