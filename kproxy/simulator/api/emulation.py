"""Which kube-apiserver the simulated one resembles: what differs between old servers and new ones.

The sources are recordings of a kube-apiserver 1.20.2 (tests/fixtures/recordings), and the source
code of 1.20 and 1.33.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kproxy.simulator.store import api_versions, resources
from kproxy.simulator.store.resources import Resource


class StreamingLists(StrEnum):
    """How a server treats `sendInitialEvents`, the parameter that asks for a streaming list."""

    SERVED = "served"
    REFUSED = "refused"
    """422: the server knows the parameter, and its WatchList feature is off (1.27 to 1.31)."""
    UNKNOWN = "unknown"
    """The parameter is ignored, as any that a server does not know (before 1.27)."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """The habits of one version of kube-apiserver.

    `served` is which resources are there, and in which versions. With `follows_revision` each watch
    cache learns of every write to etcd (progress notifications, from 1.25 on), so that its version
    is always the newest; without it, the cache's version is that of the last change to its own
    resource. With `bookmarks_when_quiet` a bookmark comes each minute; without it, only once the
    version is newer than that which the watch began at. With `forgets_on_restart` the watch cache
    is empty after each start; without it, a start stands for another replica that takes over.
    `loads_rbac` is for how many seconds after its start a server answers 403 because its cache of
    roles is empty: at least, at most. With `one_default_class` several default IngressClasses are
    an error; without it the newest counts (from 1.27 on). `deprecations` are what it warns of, by
    resource.
    """

    minor: int
    git_version: str
    served: Sequence[Resource]
    streaming_lists: StreamingLists
    follows_revision: bool
    bookmarks_when_quiet: bool
    forgets_on_restart: bool
    loads_rbac: tuple[float, float] | None
    one_default_class: bool
    deprecations: Mapping[Resource, Sequence[str]] = field(default_factory=dict)


_V1_20_SERVED = (
    *(
        api_versions.ENDPOINT_SLICES_V1BETA1 if resource == resources.ENDPOINT_SLICES else resource
        for resource in resources.ALL
        if resource != resources.SERVICE_CIDRS
    ),
    api_versions.INGRESSES_V1BETA1,
    api_versions.INGRESS_CLASSES_V1BETA1,
    api_versions.INGRESSES_EXTENSIONS,
    *api_versions.GATEWAYS,
)

_DEPRECATIONS = {
    resource: [
        (
            f"{resource.api_version} {resource.kind} is deprecated in v1.{since}+, unavailable in "
            f"v1.22+; use networking.k8s.io/v1 {resource.kind}"
        )
    ]
    for resource, since in (
        (api_versions.INGRESSES_V1BETA1, 19),
        (api_versions.INGRESS_CLASSES_V1BETA1, 19),
        (api_versions.INGRESSES_EXTENSIONS, 14),
    )
}

V1_20 = Emulation(
    minor=20,
    git_version="v1.20.2+kproxy",
    served=_V1_20_SERVED,
    streaming_lists=StreamingLists.UNKNOWN,
    follows_revision=False,
    bookmarks_when_quiet=False,
    forgets_on_restart=True,
    loads_rbac=(0.1, 0.2),
    one_default_class=True,
    deprecations=_DEPRECATIONS,
)
V1_33 = Emulation(
    minor=33,
    git_version="v1.33.0+kproxy",
    served=(*resources.ALL, api_versions.ENDPOINT_SLICES_V1BETA1, *api_versions.GATEWAYS),
    streaming_lists=StreamingLists.SERVED,
    follows_revision=True,
    bookmarks_when_quiet=True,
    forgets_on_restart=False,
    loads_rbac=None,
    one_default_class=False,
)


class Version(StrEnum):
    """The versions that can be chosen by name."""

    V1_20 = "1.20"
    V1_33 = "1.33"

    @property
    def emulation(self) -> Emulation:
        """The habits of a server of this version."""
        return {Version.V1_20: V1_20, Version.V1_33: V1_33}[self]
