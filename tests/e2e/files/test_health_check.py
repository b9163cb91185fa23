"""Rows 30 and 31 of docs/behaviour.md: a load balancer asks a node about a Service."""

import contextlib
import http.client
from pathlib import Path

from tests import isolation
from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests

FIRST, SECOND = isolation.port() + 801, isolation.port() + 802


def ask(port: int) -> tuple[int, str]:
    """Status and body; 0 where nothing listens."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=daemon.DEADLINE)
    try:
        asking.request("GET", "/healthz")
        answer = asking.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionRefusedError:
        return 0, ""
    finally:
        asking.close()


def test_rows_30_and_31_the_health_of_a_service_on_this_node_is_followed(
    tmp_path: Path, run: conftest.Run
) -> None:
    cluster_ip, pod = manifests.fresh_ip(), (manifests.fresh_ip(127), 8080)

    def written(node: str, **spec: object) -> Path:
        service = manifests.service("web", cluster_ip, manifests.PORT, **spec)
        endpoints = manifests.endpoints("web", [pod])
        endpoints["subsets"][0]["addresses"][0]["nodeName"] = node
        return manifests.write(tmp_path / "web.yaml", service, endpoints)

    def soon(port: int, status: int) -> None:
        def is_so() -> bool:
            # A port that closes resets what waits in its queue.
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                return ask(port)[0] == status
            return False

        daemon.wait_until(is_so, f"{port} answers {status}")

    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    first = written("node-a", **local, healthCheckNodePort=FIRST)
    proxy = run(first, "--hostname-override", "node-a")
    soon(FIRST, 200)
    assert proxy.address("web", "health-check") == ("127.0.0.1", FIRST)
    said = '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "web"\n\t},\n'
    assert ask(FIRST)[1] == said + '\t"localEndpoints": 1\n}'
    written("node-b", **local, healthCheckNodePort=FIRST)
    soon(FIRST, 503)
    written("node-a", **local, healthCheckNodePort=SECOND)
    soon(SECOND, 200)
    soon(FIRST, 0)
    written("node-a")
    soon(SECOND, 0)
