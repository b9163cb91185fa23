"""IngressState: what is in force of Ingresses, to be read by metrics and by `kproxy get`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kproxy import metrics
from kproxy.model import names

if TYPE_CHECKING:
    from kproxy.ingress import table  # every proxy imports this module, with --ingress or without


@dataclass(slots=True, eq=False)
class IngressState:
    """Written by the component Ingress, read by everything that shows it.

    `addresses` says where nginx listens, by the names of the ready file. `version` is that of the
    configuration in force, "" before the first one. `served` are the Ingresses of our class in it,
    and `problems` what is wrong with Ingresses at the moment.
    """

    counters: metrics.IngressCounters = field(default_factory=metrics.IngressCounters)
    addresses: Mapping[str, str | None] = field(default_factory=dict)
    version: str = ""
    served: frozenset[names.NamespacedName] = frozenset()
    problems: "frozenset[table.Problem]" = frozenset()
