"""More frontends than files: the proxy is ready, serves what it can, and names the rest."""

import contextlib
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.ops.views import control_client
from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

PORT = 8080
SIZES = [
    pytest.param(512, 400, 600, id="small"),
    pytest.param(20_000, 10_000, 20_000, id="full", marks=pytest.mark.long),
]
"""Open files, Services of two ports, and ports of one Service."""


@pytest.fixture
def pod() -> Iterator[sockets.Namer]:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (made,):
        yield made


def service(name: str, cluster_ip: str, ports: int, namespace: str = "default") -> dict[str, Any]:
    spec = {
        "clusterIP": cluster_ip,
        "ports": [{"name": f"p{port}", "port": PORT + port} for port in range(ports)],
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def endpoints(
    name: str, backend: manifests.Address, ports: int, namespace: str = "default"
) -> dict[str, Any]:
    listed = [{"name": f"p{port}", "port": backend[1]} for port in range(ports)]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name, "namespace": namespace},
        "subsets": [{"addresses": [{"ip": backend[0]}], "ports": listed}],
    }


def write(path: Path, documents: list[dict[str, Any]]) -> Path:
    """One JSON List, which is read many times as fast as YAML."""
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    return manifests.write_text(path, json.dumps(listed))


def surfaces(folder: Path) -> tuple[str, ...]:
    """Flags for all three of them, at places of the test's own."""
    anywhere = "127.0.0.1:0"
    http = ("--healthz-bind-address", anywhere, "--metrics-bind-address", anywhere)
    return (*http, "--control", str(folder / "control"))


def limited(files: int) -> tuple[str, ...]:
    """A command that runs another with so many open files at most."""
    return ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")


def states(views: list[dict[str, Any]]) -> Counter[str]:
    return Counter(each["state"] for view in views for each in view["frontends"])


@pytest.mark.parametrize(("files", "services", "ports"), SIZES)
def test_more_services_than_files_are_served_in_part_and_the_rest_is_named(
    tmp_path: Path, run: conftest.Run, pod: sockets.Namer, files: int, services: int, ports: int
) -> None:
    documents = []
    for number in range(services):
        name, address = f"s{number}", f"10.77.{number // 250}.{number % 250}"
        documents += [service(name, address, 2), endpoints(name, pod.address, 2)]

    proxy = run(
        write(tmp_path / "many.json", documents), *surfaces(tmp_path), wrapper=limited(files)
    )

    views = proxy.ready["services"]
    counted = states(views)
    assert counted.keys() == {"bound", "over-budget"}
    assert counted.total() == 2 * services
    assert files // 3 < counted["bound"] < files
    each = Counter(view["name"] for view in views if view["frontends"][0]["state"] == "bound")
    assert max(each.values()) - min(each[f"s{n}"] for n in range(services)) <= 1
    told = {state["detail"] for view in views for state in view["frontends"]} - {""}
    assert [detail for detail in told if "--max-listeners" in detail] == list(told)

    bound = {
        view["name"]: (frontend["bound_address"], frontend["bound_port"])
        for view in views
        for frontend in view["frontends"]
        if frontend["state"] == "bound"
    }
    served = [name for name, count in each.items() if count]
    with contextlib.ExitStack() as stack:
        clients = files // 16
        for name in served[:clients]:
            sock = stack.enter_context(contextlib.closing(sockets.connect(bound[name])))
            assert sockets.read_all(sock) == b"pod"
        assert len(control_client.fetch(Path(proxy.ready["control"]), "services")) == 2 * services
        assert proxy.samples("kproxy_over_budget") == [counted["over-budget"]]
        with urllib.request.urlopen(f"http://{proxy.ready['healthz']}/healthz", timeout=60) as page:
            assert page.status == 200
    assert 1 <= len(proxy.wait_logged("over budget")) <= 12


@pytest.mark.parametrize(("files", "services", "ports"), SIZES)
def test_a_tenant_with_very_many_ports_harms_no_other(
    tmp_path: Path, run: conftest.Run, pod: sockets.Namer, files: int, services: int, ports: int
) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    address = manifests.fresh_ip()
    write(folder / "web.json", [service("web", address, 1), endpoints("web", pod.address, 1)])
    proxy = run(folder, *surfaces(tmp_path), wrapper=limited(files))
    web = (manifests.bound(address), PORT)
    greedy = [
        service("greedy", manifests.fresh_ip(), ports, "tenant"),
        endpoints("greedy", pod.address, ports, "tenant"),
    ]

    scratch = write(tmp_path / "greedy.json", greedy)
    scratch.rename(folder / "greedy.json")

    control = Path(proxy.ready["control"])

    def greedy_states() -> Counter[str]:
        assert sockets.ask(web) == "pod"
        return states(control_client.fetch(control, "services", namespace="tenant"))

    daemon.wait_until(lambda: greedy_states()["over-budget"] > 0, "the tenant is over budget")
    counted = greedy_states()
    assert counted.total() == ports
    late = manifests.fresh_ip()
    write(folder / "late.json", [service("late", late, 2), endpoints("late", pod.address, 2)])
    for port in (PORT, PORT + 1):
        bound = (manifests.bound(late), port)
        daemon.wait_until(lambda at=bound: sockets.is_open(at), "a Service that came later")  # type: ignore[misc]  # a default binds it
        assert sockets.ask(bound) == "pod"
    (folder / "greedy.json").unlink()
    daemon.wait_until(lambda: proxy.samples("kproxy_over_budget") == [0], "nothing is over budget")
    assert sockets.ask(web) == "pod"
