"""Services with endpoints in the pods of `namespaces.network`, as manifests."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.rig import daemon, namespaces
from tests.e2e.rig.pods import PORT

Object = dict[str, Any]

_PODS: Final = {
    "pod-a": (namespaces.POD_A, "node-a"),
    "pod-b": (namespaces.POD_B, "node-b"),
}
EVERY: Final = tuple(_PODS)


def of(host: namespaces.Host, family: Family) -> str:
    """The address of a family."""
    return host.v4 if family is Family.IPV4 else host.v6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service with one TCP and one UDP port, of the same number, in both families.

    `number` is that of its ClusterIP and its node ports. `spec` is added to its spec; `ingress` are
    the addresses that a load balancer gave it.
    """

    name: str
    number: int
    pods: Sequence[str] = EVERY
    port: int = 80
    target: int = PORT
    has_node_ports: bool = False
    ingress: Sequence[str] = ()
    spec: Mapping[str, object] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def cluster_ips(self) -> namespaces.Host:
        """Its ClusterIPs."""
        return namespaces.Host(f"10.96.0.{self.number}", f"fd00:10:96::{self.number:x}")

    @property
    def node_port(self) -> int:
        """Of both protocols, if it has any."""
        return 30000 + self.number

    def at(self, family: Family) -> daemon.Address:
        """Its ClusterIP and port."""
        return of(self.cluster_ips, family), self.port

    def on(self, node: namespaces.Host, family: Family) -> daemon.Address:
        """Its node port at a node."""
        return of(node, family), self.node_port

    def objects(self) -> list[Object]:
        """The Service and its EndpointSlices."""
        return [self.service(), *(self.slice(family) for family in Family if self.pods)]

    def service(self) -> Object:
        """The v1 Service."""
        node_port = {"nodePort": self.node_port} if self.has_node_ports else {}
        ports = [
            {
                "name": protocol.lower(),
                "protocol": protocol.value,
                "port": self.port,
                "targetPort": self.target,
                **node_port,
            }
            for protocol in (Protocol.TCP, Protocol.UDP)
        ]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, **self.metadata},
            "spec": {
                "clusterIP": self.cluster_ips.v4,
                "clusterIPs": list(self.cluster_ips),
                "ipFamilies": [family.value for family in Family],
                "ipFamilyPolicy": "RequireDualStack",
                "type": "NodePort" if self.has_node_ports else "ClusterIP",
                "ports": ports,
                **self.spec,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": each} for each in self.ingress]}},
        }

    def slice(self, family: Family) -> Object:
        """The EndpointSlice of one family."""
        endpoints = [
            {"addresses": [of(host, family)], "nodeName": node, "conditions": {"ready": True}}
            for host, node in (_PODS[name] for name in self.pods)
        ]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{self.name}-{family.lower()}",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family.value,
            "endpoints": endpoints,
            "ports": [
                {"name": protocol.lower(), "protocol": protocol.value, "port": self.target}
                for protocol in (Protocol.TCP, Protocol.UDP)
            ],
        }
