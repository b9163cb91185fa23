"""What the proxier computes rules of: a Service, or something else that is served like one."""

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, Protocol

from kproxy.model import names
from kproxy.reconcile.planning import rules


class Work(NamedTuple):
    """The plans of one name, still to be computed.

    `objects` is what they are made of: the very same ones make the same plans, which then need not
    be computed again. Empty if there is nothing so named. `created` is its creation time.
    """

    created: str
    objects: tuple[object, ...]
    plans: Generator[None, None, rules.Plans]


class Planner(Protocol):
    """Plans what is served beside Services, under names that no Service can have."""

    def everything(self) -> Iterable[names.NamespacedName]:
        """The names of everything there is."""

    def concerned(
        self, changed: Iterable[names.NamespacedName], /
    ) -> Generator[None, None, set[names.NamespacedName]]:
        """What depends on these Services, by its names, in steps."""

    def follow(self, on_change: Callable[[], None], /) -> None:
        """Call `on_change` whenever everything may have to be planned anew."""

    def read(
        self, name: names.NamespacedName, options: rules.Options
    ) -> Generator[None, None, Work]:
        """What is to be computed for `name`, as the objects are now."""


def of_service(
    reader: rules.ObjectReader, name: names.NamespacedName, options: rules.Options
) -> Work:
    """What is to be computed for a Service, as the objects are now."""
    found = reader.service(name)
    if found is None:
        return Work("", (), rules.plans_for(None, (), options))
    sources, pods = reader.sources(name), reader.pods(name)
    plans = rules.plans_for(found, sources, options, pods)
    return Work(found.created, (found, *sources, *pods), plans)
