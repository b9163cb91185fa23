"""Routing rules: from Ingresses, and what they refer to, to a routing table.

Pure, and in steps: a large cluster's table takes longer than the event loop may be held.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kproxy.ingress import table
from kproxy.model import names, steps
from kproxy.model.kinds import services
from kproxy.model.kinds.ingress import ingress_class_kind, ingresses, secret_kind

DEFAULT_CLASS = "kproxy"
"""The name of the class that is served unless `--ingress-class` gives another."""

_Ingresses: TypeAlias = Iterable[ingresses.Ingress]
_Secrets: TypeAlias = Mapping[names.NamespacedName, secret_kind.TlsSecret]
_Services: TypeAlias = Mapping[names.NamespacedName, services.Service]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the rules look at. None of it may change while a table is made.

    `now` is the time in seconds since 1970, for certificates that have expired. With
    `through_endpoints` requests go to the endpoints of Services rather than to kproxy's
    frontends, so that headless Services can be backends too.
    """

    ingresses: _Ingresses = ()
    classes: Iterable[ingress_class_kind.IngressClass] = ()
    secrets: _Secrets = field(default_factory=dict)
    services: _Services = field(default_factory=dict)
    ingress_class: str = DEFAULT_CLASS
    now: float
    through_endpoints: bool = False


def build(world: World) -> table.Table:
    """`build_in_steps`, all at once."""
    return steps.at_once(build_in_steps(world))


def build_in_steps(world: World) -> Generator[None, None, table.Table]:
    """The routing table of a world; yields at least every 2 ms."""
    yield
    served = tuple(sorted(each.name for each in world.ingresses))
    return table.Table(served=served)
