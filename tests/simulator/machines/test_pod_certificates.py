"""Where a pod that speaks HTTPS has its certificate from."""

import asyncio
import ssl

from kproxy.simulator import certificates
from kproxy.simulator.kinds import pods
from kproxy.simulator.kinds.configuration import secret_rules
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from tests.simulator import simulated
from tests.simulator.simulated import PORT, START, Simulated, deployment


async def certificate_of(address: str, context: ssl.SSLContext, name: str) -> str:
    """The subject of the certificate that a pod shows to a client that trusts `context`."""
    _, writer = await asyncio.open_connection(address, PORT, ssl=context, server_hostname=name)
    shown = writer.get_extra_info("peercert")
    writer.transport.abort()
    ((_, subject),) = shown["subject"][0]
    return str(subject)


def secure(**annotations: str) -> Object:
    return deployment(
        replicas=1, annotations={pods.ANNOTATION_HTTPS_PORTS: str(PORT)} | annotations
    )


def test_the_authority_of_the_cluster_signs_for_the_pod_and_its_services() -> None:
    async def main(running: Simulated) -> None:
        running.apply([secure()])
        await running.until(running.ready)
        (pod,) = running.pods()
        context = ssl.create_default_context(cadata=running.authority.pem.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        for name in (pod["status"]["podIP"], "web.default.svc.cluster.local"):
            shown = await certificate_of(pod["status"]["podIP"], context, name)
            assert shown == pod["metadata"]["name"]

    simulated.run(main)


def test_a_pod_waits_for_its_secret_and_shows_the_certificate_in_it() -> None:
    made = certificates.self_signed(["127.0.0.1"], ["shop.example"], START)

    async def main(running: Simulated) -> None:
        running.apply([secure(**{pods.ANNOTATION_HTTPS_CERTIFICATE: "shop"})])
        await running.until(lambda: running.registry.list(resources.EVENTS, "default"))

        def complaints() -> set[str]:
            return {each["message"] for each in running.registry.list(resources.EVENTS, "default")}

        await running.until(lambda: 'cannot speak HTTPS: secret "shop" not found' in complaints())
        running.registry.create(resources.SECRETS, secret(b"x", b"y"))
        detail = 'secret "shop" has no certificate in tls.crt whose key is in tls.key'
        await running.until(lambda: f"cannot speak HTTPS: {detail}" in complaints())
        running.registry.update(resources.SECRETS, secret(made.pem, made.key))
        await running.until(running.ready)
        (pod,) = running.pods()
        context = ssl.create_default_context(cadata=made.pem.decode())
        shown = await certificate_of(pod["status"]["podIP"], context, "shop.example")
        assert shown == "kproxy-simulator"

    simulated.run(main)


def secret(certificate: bytes, key: bytes) -> Object:
    made = secret_rules.tls_secret("shop", certificate, key)
    return {**made, "metadata": {"name": "shop", "namespace": "default"}}
