"""GatewayState: what is said of Gateways and routes, to be read by metrics and by `kproxy get`."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from kproxy.model import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kproxy.gateway import statuses as said  # what is off costs no import

Key: TypeAlias = tuple[str, names.NamespacedName]
"""The kind and the name of an object."""

Statuses: TypeAlias = "Mapping[Key, said.Status]"


@dataclass(slots=True, eq=False)
class GatewayState:
    """Written by the component, read by everything that shows it.

    `statuses` are those of what this proxy has a say in, `counts` how many there are by kind, and
    `problems` how many things are wrong with them.
    """

    statuses: Statuses = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    problems: int = 0

    def gateway(self, name: names.NamespacedName) -> "said.GatewayStatus | None":
        """The status of a Gateway, if this proxy serves it."""
        return cast("said.GatewayStatus | None", self.statuses.get(("Gateway", name)))

    def route(self, kind: str, name: names.NamespacedName) -> "said.RouteStatus | None":
        """The status of a route of this kind, if it refers to a Gateway that is served."""
        return cast("said.RouteStatus | None", self.statuses.get((kind, name)))
