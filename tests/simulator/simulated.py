"""A whole simulated cluster on a clock that jumps, with addresses of its own."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kproxy.demo import stage
from kproxy.simulator import cluster
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from tests import virtual_time

_T = TypeVar("_T")
PORT = stage.free_port()
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
"""OpenSSL has no other clock than the machine's, and a cluster's certificates last for a year."""


class Simulated(cluster.Cluster):
    """A cluster, and what tests ask of one."""

    def pods(self) -> list[Object]:
        """All pods."""
        return self.registry.list(resources.PODS, "default")

    def ready(self) -> list[Object]:
        """The pods that take new connections."""
        return [pod for pod in self.pods() if pods.is_ready(pod) and not pods.is_terminating(pod)]

    def deployment(self, name: str = "web") -> Object:
        """A Deployment."""
        return self.registry.get(resources.DEPLOYMENTS, name, "default")

    def is_rolled_out(self, name: str = "web") -> bool:
        """What `kubectl rollout status` waits for."""
        found = self.deployment(name)
        status, wanted = found["status"], found["spec"]["replicas"]
        counts = ("replicas", "updatedReplicas", "availableReplicas")
        is_seen = status.get("observedGeneration") == found["metadata"]["generation"]
        return is_seen and all(status.get(count, 0) == wanted for count in counts)

    def slices(self, service: str = "web") -> list[Object]:
        """The EndpointSlices of a Service."""
        return [
            each
            for each in self.registry.list(resources.ENDPOINT_SLICES, "default")
            if each["metadata"]["labels"].get("kubernetes.io/service-name") == service
        ]

    def endpoints(self, service: str = "web") -> list[Object]:
        """What the slices of a Service hold."""
        return [endpoint for each in self.slices(service) for endpoint in each["endpoints"]]

    def patch(self, resource: Any, name: str, body: Object) -> Object:
        """What `kubectl patch --type merge` does."""
        return self.registry.patch(resource, "default", name, "merge", body)

    async def settle(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, and then everything happen that is to happen at once."""
        await asyncio.sleep(seconds)
        last = -1
        while last != self.registry.storage.resource_version:
            last = self.registry.storage.resource_version
            for _ in range(50):
                await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Return as soon as `condition` holds; TimeoutError after `seconds` of the clock."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # the clock is virtual
                await asyncio.sleep(0.05)


def run(main: Callable[[Simulated], Awaitable[_T]], **options: Any) -> _T:
    """Run `main` in a cluster that begins at `START`."""

    async def wrapped() -> _T:
        loop = asyncio.get_running_loop()
        with stage.claimed_ranges() as ranges:
            chosen = cluster.Options(
                service_cidr=ranges.services,
                pod_cidr=ranges.pods,
                load_balancer_cidr=ranges.load_balancers,
                tls=False,
                **options,
            )
            made = Simulated(
                chosen,
                now=lambda: START + timedelta(seconds=loop.time()),
                rng=random.Random(1),
            )
            async with made:
                return await main(made)

    return virtual_time.run(wrapped)


def deployment(
    name: str = "web",
    replicas: int = 3,
    image: str = "web:1",
    annotations: dict[str, str] | None = None,
    strategy: Object | None = None,
    ports: Sequence[Object] = ({"name": "http", "containerPort": PORT},),
) -> Object:
    """A Deployment as a manifest."""
    metadata: Object = {"labels": {"app": name}}
    if annotations:
        metadata["annotations"] = annotations
    spec: Object = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": metadata,
            "spec": {
                "containers": [
                    {"name": "c", "image": image, "ports": [dict(port) for port in ports]}
                ]
            },
        },
    }
    if strategy:
        spec["strategy"] = strategy
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def service(name: str = "web", **spec: Any) -> Object:
    """A Service as a manifest; it selects the pods of its own name by default."""
    ports = [{"port": PORT, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


async def get(address: str, path: str = "/", port: int = PORT) -> str:
    """The body of an HTTP answer; "refused" when nothing listens."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return "refused"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer.partition("\r\n\r\n")[2]
