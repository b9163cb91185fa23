"""Pods and Services of a simulated cluster, made as Kubernetes' own end-to-end tests make them."""

from collections.abc import Sequence

from kproxy.model.names import Protocol
from tests.e2e.rig import daemon
from tests.e2e.rig.simulation import HOST, PORT, Address, Api, Object

REPLICAS = 3


def template(app: str, *ports: Object, **annotations: str) -> Object:
    """A pod that ends as soon as it is deleted, unless its annotations say otherwise."""
    given = {"kproxy.io/termination-seconds": "0", **annotations}
    container = {"name": "c", "image": "agnhost", "ports": ports or ({"containerPort": PORT},)}
    return {
        "metadata": {"labels": {"app": app}, "annotations": given},
        "spec": {"containers": [container]},
    }


def deploy(
    api: Api,
    app: str,
    replicas: int = REPLICAS,
    protocols: Sequence[Protocol] = (Protocol.TCP,),
) -> set[str]:
    """A Deployment, as soon as all its pods are ready; their names.

    The pods have one port, of these protocols.
    """
    ports = [
        {"name": each.lower(), "containerPort": PORT, "protocol": each.value} for each in protocols
    ]
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": app}},
        "template": template(app, *ports),
    }
    api.create("Deployment", app, {"spec": spec})
    return set(ready(api, app, replicas))


def scale(api: Api, app: str, replicas: int) -> set[str]:
    """The names of the pods, as soon as so many are left or ready."""
    api.patch("Deployment", app, {"spec": {"replicas": replicas}})
    return set(ready(api, app, replicas))


def ready(api: Api, app: str, count: int) -> dict[str, str]:
    """The addresses of the pods by name, as soon as there are `count`, all of them ready."""
    pods: list[Object] = []

    def are_ready() -> bool:
        pods[:] = api.list("Pod", f"app={app}")
        return len(pods) == count and all(map(is_ready, pods))

    daemon.wait_until(are_ready, f"{count} ready pods of {app}")
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}


def is_ready(pod: Object) -> bool:
    """Whether its condition says so."""
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def serve(api: Api, app: str, name: str = "", **spec: object) -> Object:
    """A Service of the pods of `app`."""
    ports = [{"port": PORT}]
    body = {"spec": {"selector": {"app": app}, "ports": ports, **spec}}
    return api.create("Service", name or app, body)


def cluster_ip(service: Object) -> Address:
    """Its first ClusterIP, with its first port."""
    return service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"]


def node_port(service: Object) -> Address:
    """The node port of its first port, on this node."""
    return HOST, service["spec"]["ports"][0]["nodePort"]
