"""The certificates of pods that speak HTTPS: from a Secret, or from the cluster's authority."""

import ssl
from collections.abc import Callable, Sequence

from kproxy.simulator import certificates
from kproxy.simulator.kinds import pods
from kproxy.simulator.kinds.configuration import data, secret_rules
from kproxy.simulator.store import registry, resources
from kproxy.simulator.store.storage import Object


class PodCertificates:
    """Makes the TLS contexts of pods. `authority` gives the authority of the cluster as it is."""

    def __init__(
        self, objects: registry.Registry, authority: Callable[[], certificates.Certificate]
    ) -> None:
        self._registry = objects
        self._authority = authority

    def context(self, pod: Object, addresses: Sequence[str]) -> ssl.SSLContext | None:
        """The context of a pod that starts now, None if it speaks no HTTPS.

        Raises OSError if its Secret is not there, or holds no certificate with its key.
        """
        if not pods.https_ports(pod):
            return None
        name = pods.certificate_secret(pod)
        return self._of_secret(pod, name) if name else self._issued(pod, addresses)

    def _of_secret(self, pod: Object, name: str) -> ssl.SSLContext:
        secret = self._registry.find(resources.SECRETS, name, pod["metadata"]["namespace"])
        if secret is None:
            raise OSError(f'secret "{name}" not found')
        contents = data.decoded(resources.SECRETS, secret.get("data"))
        pem = contents.get(secret_rules.CERTIFICATE, b"")
        key = contents.get(secret_rules.PRIVATE_KEY, b"")
        try:
            return certificates.Certificate(pem, key).server_context()
        except ssl.SSLError as error:
            detail = "has no certificate in tls.crt whose key is in tls.key"
            raise OSError(f'secret "{name}" {detail}') from error

    def _issued(self, pod: Object, addresses: Sequence[str]) -> ssl.SSLContext:
        """For its addresses, its name, and the names of Services in its namespace."""
        metadata = pod["metadata"]
        namespace = metadata["namespace"]
        zones = (f"{namespace}.svc", f"{namespace}.svc.cluster.local")
        names = (metadata["name"], "localhost", *(f"*.{zone}" for zone in zones))
        now = self._registry.storage.now()
        made = certificates.issued(self._authority(), addresses, names, now)
        return made.server_context()
