"""Which API serves endpoints: EndpointSlices as new as the server has them, else Endpoints.

discovery.k8s.io/v1 came with Kubernetes 1.21, and 1.25 removed v1beta1. An upgrade or a downgrade
can therefore remove the version in use: after a 404 the question is asked again.
"""

import urllib.parse
from dataclasses import dataclass

from kproxy.model import names
from kproxy.sources.api import client, progress
from kproxy.sources.transfer import wire

GROUP = "discovery.k8s.io"
ANSWER_SECONDS = 30.0
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection that can be listed and watched: `plural` of `group` at `version`.

    Only objects that `label_selector` matches are asked for; "" matches all.
    """

    kind: names.Kind
    group: str
    version: str
    plural: str
    label_selector: str = ""

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str) -> str:
        """Its path on the server; an empty namespace means all of them."""
        root = f"/apis/{self.group}" if self.group else "/api"
        scope = f"/namespaces/{urllib.parse.quote(namespace)}" if namespace else ""
        return f"{root}/{self.version}{scope}/{self.plural}"


NOT_HEADLESS = "!service.kubernetes.io/headless"
"""As kube-proxy asks for endpoints: those of headless Services are many, and of no use to it.

Services are asked for without a selector, unlike kube-proxy's: headless ones and those of another
proxy are not served either, but users want to see that, and why. The label
`service.kubernetes.io/service-proxy-name` counts on Services only (docs/behaviour.md row 10).
"""

SERVICES = Resource(names.Kind.SERVICE, "", "v1", "services")
ENDPOINTS = Resource(names.Kind.ENDPOINTS, "", "v1", "endpoints", NOT_HEADLESS)
SLICES = Resource(names.Kind.ENDPOINT_SLICE, GROUP, "v1", "endpointslices", NOT_HEADLESS)
BETA_SLICES = Resource(names.Kind.ENDPOINT_SLICE, GROUP, "v1beta1", "endpointslices", NOT_HEADLESS)


async def services(_: client.Client) -> Resource:
    """The resource of Services, which is the same on every server."""
    return SERVICES


async def endpoints(api: client.Client) -> Resource:
    """The best that the server has for endpoints. Raises RequestError.

    If discovery is forbidden (403), discovery.k8s.io/v1 is assumed: Kubernetes 1.21 or newer.
    """
    try:
        async with api.get(progress.Mode.LIST, f"/apis/{GROUP}", {}) as answer:
            body = await answer.read_all(ANSWER_SECONDS, MAX_BYTES)
    except client.RequestError as error:
        if error.outcome is progress.Outcome.NOT_FOUND:
            return ENDPOINTS
        if error.outcome is progress.Outcome.FORBIDDEN:
            return SLICES
        raise
    return choose(wire.group_versions(body))


def choose(versions: tuple[str, ...]) -> Resource:
    """The resource for endpoints, given the versions of discovery.k8s.io that are served."""
    for resource in (SLICES, BETA_SLICES):
        if resource.version in versions:
            return resource
    return ENDPOINTS
