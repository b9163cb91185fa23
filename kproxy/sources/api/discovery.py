"""Which collection of an API server has the objects of a kind, in the version that is served.

discovery.k8s.io/v1 came with Kubernetes 1.21, and 1.25 removed v1beta1. An upgrade or a downgrade
can therefore remove the version in use: after a 404 the choice is made again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kproxy.model.kinds import registry
from kproxy.model.kinds.kind import Kind
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import wire

ANSWER_SECONDS = 30.0
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resource:
    """The objects of a kind in one version of their API: what can be listed and watched."""

    kind: Kind[Any]
    version: str

    def __str__(self) -> str:
        return str(self.kind.collection)

    @property
    def plural(self) -> str:
        """As in its path, for instance "endpointslices"."""
        return self.kind.collection.plural

    def selected(self, query: Mapping[str, str]) -> Mapping[str, str]:
        """`query`, restricted to the objects of the collection that are asked for."""
        collection = self.kind.collection
        selectors = {"labelSelector": collection.selector, "fieldSelector": collection.fields}
        return {**query, **{name: value for name, value in selectors.items() if value}}

    def path(self, namespace: str) -> str:
        """Its path on the server; an empty namespace means all of them."""
        return self.kind.collection.path(self.version, namespace)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one list-and-watch may follow: the resources of a kind, then of its fallbacks.

    A server that does not serve the first is asked for the next one.
    """

    kinds: tuple[Kind[Any], ...]

    @property
    def name(self) -> str:
        """What it is called until a resource has been chosen, for instance "endpoints"."""
        return self.kinds[-1].collection.plural

    @property
    def is_needed(self) -> bool:
        """Whether the Store is incomplete without it."""
        return self.kinds[0].collection.needed

    def may_lack(self, outcome: progress.Outcome) -> bool:
        """Whether nothing is missed by such an outcome: what is not needed may be forbidden."""
        if self.is_needed or (outcome is progress.Outcome.FORBIDDEN and self.is_on_demand):
            return False
        return outcome in {progress.Outcome.NOT_FOUND, progress.Outcome.FORBIDDEN}

    @property
    def is_namespaced(self) -> bool:
        """Whether its objects are in namespaces."""
        return self.kinds[0].collection.is_namespaced

    @property
    def waits(self) -> bool:
        """Whether it is asked for after the others, where rights are given by namespace."""
        return self.kinds[0].collection.waits

    @property
    def is_on_demand(self) -> bool:
        """Whether it is read only once an object refers to it."""
        return self.kinds[0].collection.on_demand

    @property
    def best(self) -> Resource:
        """The resource of current servers."""
        return next(self.resources())

    def resources(self) -> Iterator[Resource]:
        """All of them, the best first."""
        for kind in self.kinds:
            for version in kind.collection.versions:
                yield Resource(kind, version)

    def among(
        self, served: dict[str, tuple[str, ...]], missed: Resource | None = None
    ) -> Resource | None:
        """The best one, given the versions that are served of each API group.

        `missed` was not found, although its version is served: a version of an API group can lack
        the collection, as networking.k8s.io/v1 lacks servicecidrs before Kubernetes 1.33. Then it
        is the next version of the same kind, if there is one.
        """
        best, is_passed = None, False
        for each in self.resources():
            group = each.kind.collection.group
            if group and each.version not in served.get(group, ()):
                continue
            if is_passed and missed is not None and each.kind is missed.kind:
                return each
            best = best or each
            is_passed = is_passed or each == missed
        return best

    async def resolve(self, api: client.Client, missed: Resource | None = None) -> Resource:
        """The best one that the server has; see `among` for `missed`.

        Raises RequestError, NOT_FOUND if it has none.

        If discovery is forbidden (403), the best is assumed: a server of Kubernetes 1.21 or newer.
        """
        served: dict[str, tuple[str, ...]] = {}
        for group in dict.fromkeys(kind.collection.group for kind in self.kinds):
            if not group:
                continue
            try:
                async with api.get(progress.Mode.LIST, f"/apis/{group}", {}) as answer:
                    body = await answer.read_all(ANSWER_SECONDS, MAX_BYTES)
            except client.RequestError as error:
                if error.outcome is progress.Outcome.NOT_FOUND:
                    continue
                if error.outcome is progress.Outcome.FORBIDDEN:
                    return self.best
                raise
            served[group] = wire.group_versions(body)
        found = self.among(served, missed)
        if found is None:
            text = f"the server has no {self.kinds[0].collection}"
            raise client.RequestError(progress.Outcome.NOT_FOUND, text)
        return found


def choices(kinds: Iterable[Kind[Any]] = registry.KINDS) -> tuple[Choice, ...]:
    """One for each list-and-watch that is needed to follow `kinds`."""
    kinds = tuple(kinds)
    return tuple(
        Choice((kind, *(each for each in kinds if each.fallback_for == kind.name)))
        for kind in kinds
        if not kind.fallback_for
    )


def followed(kinds: Iterable[Kind[Any]], namespace: str, *, is_all: bool) -> tuple[Choice, ...]:
    """The choices for which rights are needed: in `namespace` alone, if it is not "", and only
    with `is_all` those on demand.

    Those that a server may not have are left out: kubectl grants no rights to them there.
    """
    return tuple(
        each
        for each in choices(kinds)
        if (is_all or not each.is_on_demand)
        and (each.is_namespaced or not namespace)
        and (each.is_needed or not each.best.kind.collection.group)
    )
