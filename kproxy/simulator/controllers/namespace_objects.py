"""What every namespace has: an object that is made with it, and again when it is deleted.

kube-controller-manager's controllers `serviceaccount` and `root-ca-cert-publisher`.
"""

from collections.abc import Callable, Sequence

from kproxy.model import names
from kproxy.simulator.store import registry, resources, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

SERVICE_ACCOUNT = "default"
"""The ServiceAccount of pods that name none."""
ROOT_CERTIFICATE = "kube-root-ca.crt"
"""The ConfigMap with the authority that signs for the API server."""

_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal "
    "endpoints such as the internal service IP or kubernetes.default.svc. No other usage is "
    "guaranteed across distributions of Kubernetes clusters."
)


class NamespaceObject:
    """Keeps the object `name` of `resource` in each namespace, with the fields of `content`.

    A controller: `reconcile` takes the namespace and the name of the object.
    """

    def __init__(
        self,
        objects: registry.Registry,
        resource: Resource,
        name: str,
        *,
        annotations: Object | None = None,
        content: Callable[[], Object] = dict,
    ) -> None:
        self._registry = objects
        self._resource = resource
        self._name = name
        self._annotations = annotations
        self._content = content

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The object in the namespace that `event` is about, or the object itself."""
        metadata = event.object["metadata"]
        if event.resource is resources.NAMESPACES:
            return (names.NamespacedName(metadata["name"], self._name),)
        if event.resource is self._resource and metadata["name"] == self._name:
            return (names.NamespacedName(metadata["namespace"], self._name),)
        return ()

    def everywhere(self) -> list[names.NamespacedName]:
        """Its name in each namespace that there is, whether it has been made or not."""
        found = self._registry.list(resources.NAMESPACES)
        return [names.NamespacedName(each["metadata"]["name"], self._name) for each in found]

    def reconcile(self, key: names.NamespacedName) -> None:
        """Make or mend the object, unless its namespace is gone or going."""
        namespace = self._registry.find(resources.NAMESPACES, key.namespace)
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return
        found = self._registry.find(self._resource, key.name, key.namespace)
        content = self._content()
        if found is None:
            metadata: Object = {"name": key.name, "namespace": key.namespace}
            if self._annotations:
                metadata["annotations"] = self._annotations
            self._registry.create(self._resource, {**content, "metadata": metadata})
        elif any(found.get(field) != value for field, value in content.items()):
            self._registry.update(self._resource, {**found, **content})


def service_accounts(objects: registry.Registry) -> NamespaceObject:
    """The ServiceAccount `default` of each namespace."""
    return NamespaceObject(objects, resources.SERVICE_ACCOUNTS, SERVICE_ACCOUNT)


def root_certificates(objects: registry.Registry, pem: Callable[[], bytes]) -> NamespaceObject:
    """The ConfigMap `kube-root-ca.crt` of each namespace; `pem` is the certificate as it is."""
    return NamespaceObject(
        objects,
        resources.CONFIG_MAPS,
        ROOT_CERTIFICATE,
        annotations={"kubernetes.io/description": _DESCRIPTION},
        content=lambda: {"data": {"ca.crt": pem().decode()}},
    )
