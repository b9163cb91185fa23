"""Cells as kubectl prints them."""

from datetime import timedelta
from typing import Any

import pytest

from kproxy.simulator.api.reading import kubectl_tables
from kproxy.simulator.store import resources, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import NOW


def ended(seconds: int) -> Object:
    """The state of a container that ended so long ago."""
    return {"terminated": {"finishedAt": storage.timestamp(NOW - timedelta(seconds=seconds))}}


PORT = {"port": 80, "nodePort": 30001, "protocol": "TCP"}
EXPRESSION = {"key": "app", "operator": "In", "values": ["x", "y"]}
ADDRESSES = [{"ip": f"10.0.0.{n}"} for n in range(1, 6)]


@pytest.mark.parametrize(
    ("resource", "item", "cells"),
    [
        (
            resources.SERVICES,
            {"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "ports": [PORT]}},
            ["x", "NodePort", "10.96.0.1", "<none>", "80:30001/TCP", "0s", "<none>"],
        ),
        (
            resources.SERVICES,
            {"spec": {"type": "LoadBalancer", "selector": {"b": "2", "a": "1"}}},
            ["x", "LoadBalancer", "<none>", "<pending>", "<none>", "0s", "a=1,b=2"],
        ),
        (
            resources.SERVICES,
            {"spec": {"type": "ExternalName", "externalName": "example.org"}},
            ["x", "ExternalName", "<none>", "example.org", "<none>", "0s", "<none>"],
        ),
        (
            resources.ENDPOINTS,
            {"subsets": [{"addresses": ADDRESSES, "ports": [{"port": 80}]}]},
            ["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "0s"],
        ),
        (resources.ENDPOINTS, {}, ["x", "<none>", "0s"]),
        (
            resources.ENDPOINT_SLICES,
            {"addressType": "IPv4"},
            ["x", "IPv4", "<unset>", "<unset>", "0s"],
        ),
        (
            resources.PODS,
            {
                "spec": {"containers": [{}, {}], "nodeName": "n"},
                "status": {
                    "phase": "Running",
                    "podIP": "10.0.0.1",
                    "containerStatuses": [
                        {"ready": True, "restartCount": 2},
                        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                    ],
                },
            },
            ["x", "1/2", "CrashLoopBackOff", "2", "0s", "10.0.0.1", "n", "<none>", "<none>"],
        ),
        (
            resources.PODS,
            {
                "spec": {"containers": [{}, {}]},
                "status": {
                    "phase": "Running",
                    "containerStatuses": [
                        {"restartCount": 1, "lastState": ended(90)},
                        {"restartCount": 2, "lastState": ended(5)},
                    ],
                },
            },
            ["x", "0/2", "Running", "3 (5s ago)", "0s", *4 * ["<none>"]],
        ),
        (
            resources.NODES,
            {
                "spec": {"unschedulable": True},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "none"},
                },
            },
            [
                *("x", "Ready,SchedulingDisabled", "<none>", "0s", "v1.33.0"),
                *("127.0.0.1", "<none>", "none", "<unknown>", "<unknown>"),
            ],
        ),
        (
            resources.DEPLOYMENTS,
            {
                "spec": {
                    "replicas": 3,
                    "selector": {"matchExpressions": [EXPRESSION], "matchLabels": {"a": "b"}},
                    "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
                },
                "status": {"readyReplicas": 2, "updatedReplicas": 3},
            },
            ["x", "2/3", 3, 0, "0s", "c", "i", "a=b,app in (x,y)"],
        ),
        (
            resources.EVENTS,
            {
                "involvedObject": {"kind": "Pod", "name": "p"},
                "firstTimestamp": storage.timestamp(NOW - timedelta(minutes=2)),
                "lastTimestamp": storage.timestamp(NOW - timedelta(seconds=4)),
                "source": {"component": "kubelet"},
                "type": "Normal",
                "reason": "Started",
                "message": "m\n",
                "count": 7,
            },
            ["4s", "Normal", "Started", "pod/p", "", "kubelet", "m", "2m", 7, "x"],
        ),
        (resources.NAMESPACES, {"status": {"phase": "Active"}}, ["x", "Active", "0s"]),
        (
            resources.INGRESSES,
            {"spec": {"defaultBackend": {}}},
            ["x", "<none>", "*", "", "80", "0s"],
        ),
        (
            resources.INGRESSES,
            {
                "spec": {
                    "ingressClassName": "kproxy",
                    "rules": [{"host": "a"}, {}, {"host": "b"}, {"host": "c"}, {"host": "d"}],
                    "tls": [{}],
                },
                "status": {"loadBalancer": {"ingress": [{"hostname": "h"}, {"ip": "10.0.0.1"}]}},
            },
            ["x", "kproxy", "a,b,c + 2 more...", "10.0.0.1,h", "80, 443", "0s"],
        ),
        (
            resources.INGRESSES,
            {"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}]}},
            ["x", "<none>", "a,b,c", "", "80", "0s"],
        ),
        (
            resources.INGRESS_CLASSES,
            {"spec": {"controller": "a.io/b"}},
            ["x", "a.io/b", "<none>", "0s"],
        ),
        (
            resources.INGRESS_CLASSES,
            {
                "spec": {
                    "controller": "a.io/b",
                    "parameters": {"apiGroup": "c.io", "kind": "K", "name": "n"},
                }
            },
            ["x", "a.io/b", "K.c.io/n", "0s"],
        ),
        (
            resources.SECRETS,
            {"type": "Opaque", "data": {"a": "", "b": ""}},
            ["x", "Opaque", 2, "0s"],
        ),
        (
            resources.GATEWAY_CLASSES,
            {"spec": {"controllerName": "a.io/b", "description": "d"}},
            ["x", "a.io/b", None, "0s", "d"],
        ),
        (
            resources.GATEWAYS,
            {
                "spec": {"gatewayClassName": "c"},
                "status": {
                    "addresses": [{"value": "10.0.0.1"}, {"value": "10.0.0.2"}],
                    "conditions": [{"type": "Programmed", "status": "True"}],
                },
            },
            ["x", "c", "10.0.0.1", "True", "0s"],
        ),
        (resources.TCP_ROUTES, {}, ["x", "0s"]),
        (resources.CONFIG_MAPS, {"data": {"a": ""}, "binaryData": {"b": ""}}, ["x", 2, "0s"]),
        (resources.SERVICE_ACCOUNTS, {"secrets": [{"name": "a"}]}, ["x", 1, "0s"]),
    ],
)
def test_cells(resource: Resource, item: dict[str, Any], cells: list[Any]) -> None:
    metadata = {"name": "x", "creationTimestamp": storage.timestamp(NOW)}
    table = kubectl_tables.table(
        resource, [{"metadata": metadata, **item}], version="v1", metadata={}, now=NOW
    )
    assert table["rows"][0]["cells"] == cells
    assert len(table["columnDefinitions"]) == len(cells)
