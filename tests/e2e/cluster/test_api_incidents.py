"""What befalls a real API server befalls the simulated one, while a proxy follows it.

Restarts without a watch cache, compaction, a new key, a new token, a pause. After each, pods come
and go, and the Service has to be served by just those that the API server names.
"""

import functools
import http.client
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kproxy.simulator.api import emulation
from tests.cli.simulating import Simulation, started
from tests.e2e.rig import daemon, simulation

EXAMPLE = Path(__file__).parents[3] / "examples" / "deployment-and-service.yaml"
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/web"
FAULTS = "/simulator/faults"


def _post(kind: str, **settings: Any) -> Callable[[Simulation], None]:
    return lambda cluster: void(cluster.post(FAULTS, {"kind": kind, **settings}))


def _revoke(cluster: Simulation) -> None:
    cluster.post(FAULTS, {"kind": "revoked-tokens"})
    cluster.post(FAULTS, {"kind": "rotated-token"})


def _pause(cluster: Simulation) -> None:
    cluster.process.send_signal(signal.SIGSTOP)
    time.sleep(2)  # the pause itself
    cluster.process.send_signal(signal.SIGCONT)


def void(_: object) -> None:
    """For functions whose result is no matter."""


INCIDENTS: dict[str, Callable[[Simulation], None]] = {
    "restart": _post("restart", seconds=1),
    "compaction": _post("compaction"),
    "new key": _post("rekey", seconds=0),
    "new token": _post("rotated-token"),
    "revoked token": _revoke,
    "pause": _pause,
}


def patient(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, once the API server is there to be asked."""
    answers: list[Any] = []

    def has_answered() -> bool:
        try:
            answers.append(ask())
        except (OSError, http.client.HTTPException):
            return False
        return True

    daemon.wait_until(has_answered, "an answer of the API server")
    return answers[0]


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(each, marks=pytest.mark.extra) if each is emulation.Version.V1_20 else each
        for each in emulation.Version
    ],
)
def test_a_proxy_agrees_with_the_api_server_after_each(
    tmp_path: Path, version: emulation.Version
) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with (
        started(folder, "-f", str(EXAMPLE), "--emulate", version) as cluster,
        _proxy(tmp_path, cluster),
    ):
        spec = cluster.get("/api/v1/namespaces/default/services/web")["spec"]
        address = (spec["clusterIP"], spec["ports"][0]["port"])
        for number, incident in enumerate(INCIDENTS.values()):
            incident(cluster)
            wanted = 2 + number % 2
            change = {"spec": {"replicas": wanted}}
            patient(functools.partial(cluster.patch, DEPLOYMENT, change))
            daemon.wait_until(functools.partial(_has, cluster, wanted), "the pods of the change")
            names = _pods(cluster)
            simulation.wait_up(address, names)
            simulation.wait_only(address, names)


def _has(cluster: Simulation, count: int) -> bool:
    return len(_pods(cluster)) == count


def _pods(cluster: Simulation) -> set[str]:
    """The pods that are ready and stay."""
    pods = patient(lambda: cluster.get("/api/v1/namespaces/default/pods"))["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in pod["status"].get("conditions", ())
        )
    }


def _proxy(folder: Path, cluster: Simulation) -> Any:
    cluster.wait_up()
    return daemon.running(folder / "proxy", cluster.kubeconfig, source="--kubeconfig")
