"""Kind: all that kproxy has to know of a kind of API object, in one record.

Admission, the Store, the files and the list-and-watches loop over the records of `registry.KINDS`.
Adding a kind is one file beside this one, with a shape, a type, a judge and the record, and one
name in the registry (docs/adding.md).
"""

import urllib.parse
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from kproxy.model import names
from kproxy.model.judging import field_rules, findings


class Object(Protocol):
    """An accepted object: immutable, and equal to another one that says the same."""

    @property
    def kind(self) -> str:
        """The name of its kind, for instance "EndpointSlice"."""
        ...

    @property
    def name(self) -> names.NamespacedName:
        """Its own name."""
        ...


Made = TypeVar("Made", bound=Object)
Made_co = TypeVar("Made_co", bound=Object, covariant=True)


def concerns_no_service(_: Object) -> tuple[names.NamespacedName, ...]:
    """The owner of kinds whose objects say nothing of how a Service is served."""
    return ()


class Policy(NamedTuple):
    """What the user decides about judging. `allow_loopback`: endpoints may be in 127/8 and ::1."""

    allow_loopback: bool = False


class Judge(Protocol[Made_co]):
    """Judges an object of the right shape, and makes of it what the rest of kproxy works with.

    None when `found` has violations, and when the object is valid and not for a proxy. Yields
    where others can be let run, at least every 2 ms.
    """

    def __call__(
        self, shape: Any, found: findings.Findings, policy: Policy, /
    ) -> Generator[None, None, Made_co | None]:
        """Raises nothing for what the object says."""
        ...


@dataclass(frozen=True, slots=True)
class Collection:
    """Where an API server has the objects of a kind, and how a source asks for them.

    `versions` are those of the API group that kproxy can read, the best first; the server may not
    serve all of them. The core group is "". Only objects that `selector`, a label selector,
    and `fields`, a field selector, match are asked for; "" matches all.

    A Store is complete once every collection that is `needed` has been listed. A collection that
    `waits` is asked for after the others of a namespace, where rights are given by namespace. One
    that is `on_demand` is not asked for before an object in the Store makes it of use.
    """

    plural: str
    group: str = ""
    versions: tuple[str, ...] = ("v1",)
    selector: str = ""
    needed: bool = True
    waits: bool = False
    on_demand: bool = False
    fields: str = ""
    is_namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, version: str, namespace: str) -> str:
        """Its path on a server; an empty namespace means all of them."""
        root = f"/apis/{self.group}" if self.group else "/api"
        is_within = namespace and self.is_namespaced
        scope = f"/namespaces/{urllib.parse.quote(namespace)}" if is_within else ""
        return f"{root}/{version}{scope}/{self.plural}"


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[Made]):
    """A kind of API object. Two records are never equal.

    `name` is what objects give as their `kind`, in files too. `shape` is the JSON of one object,
    reduced to what is read; `judge` makes an accepted object of it. `owner` says which Services an
    accepted object concerns: a reader of the Store may see something else of them when it changes.

    `older_versions` are further values of `apiVersion` that are read in files. An API server is
    not asked for them: each that has them serves one of the collection's versions as well.

    `fallback_for` names another kind that this one stands in for: its objects count for a Service
    only while no object of the other concerns it, and an API server is asked for this kind only
    if it does not serve the other.
    """

    name: str
    collection: Collection
    shape: type[msgspec.Struct]
    judge: Judge[Made]
    owner: Callable[[Made], tuple[names.NamespacedName, ...]]
    fallback_for: str = ""
    older_versions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def key(name: str) -> names.NamespacedName:
        """The name in a Store of an object without a namespace: as if it were in `default`."""
        return names.NamespacedName(field_rules.DEFAULT_NAMESPACE, name)

    @property
    def api_versions(self) -> tuple[str, ...]:
        """The `apiVersion` of its objects, for instance "discovery.k8s.io/v1"; the best first."""
        group, versions = self.collection.group, self.collection.versions
        asked_for = (f"{group}/{each}" if group else each for each in versions)
        return (*asked_for, *self.older_versions)
