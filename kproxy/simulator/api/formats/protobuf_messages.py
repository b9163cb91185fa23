"""The protobuf messages of objects that kubectl creates, as far as it can fill them.

The numbers are those of k8s.io/api's `generated.proto` files.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Field(NamedTuple):
    """A field of a message. A zero is "not set" unless the field is a pointer in Go.

    `type` is string, bytes, raw (bytes that are read later), int, bool, map, map of bytes, or the
    name of a message. The fields of a message that `is_inline` are, in JSON, fields of what it is
    in.
    """

    name: str
    type: str = "string"
    is_list: bool = False
    is_pointer: bool = False
    is_inline: bool = False


_OBJECT = {1: Field("metadata", "ObjectMeta"), 3: Field("status", "Nothing")}
MESSAGES: Mapping[str, Mapping[int, Field]] = {
    "Unknown": {1: Field("typeMeta", "TypeMeta"), 2: Field("raw", "raw")},
    "TypeMeta": {1: Field("apiVersion"), 2: Field("kind")},
    "Nothing": {},
    "Namespace": {**_OBJECT, 2: Field("spec", "Nothing")},
    "Service": {**_OBJECT, 2: Field("spec", "ServiceSpec")},
    "Deployment": {**_OBJECT, 2: Field("spec", "DeploymentSpec")},
    "ObjectMeta": {
        1: Field("name"),
        2: Field("generateName"),
        3: Field("namespace"),
        11: Field("labels", "map"),
        12: Field("annotations", "map"),
    },
    "ServiceSpec": {
        1: Field("ports", "ServicePort", is_list=True),
        2: Field("selector", "map"),
        3: Field("clusterIP"),
        4: Field("type"),
        7: Field("sessionAffinity"),
        10: Field("externalName"),
    },
    "ServicePort": {
        1: Field("name"),
        2: Field("protocol"),
        3: Field("port", "int"),
        4: Field("targetPort", "IntOrString"),
        5: Field("nodePort", "int"),
    },
    "IntOrString": {1: Field("type", "int"), 2: Field("int", "int"), 3: Field("str")},
    "DeploymentSpec": {
        1: Field("replicas", "int", is_pointer=True),
        2: Field("selector", "LabelSelector"),
        3: Field("template", "PodTemplateSpec"),
    },
    "LabelSelector": {1: Field("matchLabels", "map")},
    "PodTemplateSpec": {1: Field("metadata", "ObjectMeta"), 2: Field("spec", "PodSpec")},
    "PodSpec": {2: Field("containers", "Container", is_list=True)},
    "Container": {
        1: Field("name"),
        2: Field("image"),
        3: Field("command", is_list=True),
        4: Field("args", is_list=True),
        6: Field("ports", "ContainerPort", is_list=True),
    },
    "ContainerPort": {
        1: Field("name"),
        3: Field("containerPort", "int"),
        4: Field("protocol"),
    },
    "DeleteOptions": {
        1: Field("gracePeriodSeconds", "int", is_pointer=True),
        2: Field("preconditions", "Preconditions"),
        4: Field("propagationPolicy"),
        5: Field("dryRun", is_list=True),
    },
    "Preconditions": {1: Field("uid"), 2: Field("resourceVersion")},
    "Secret": {
        1: Field("metadata", "ObjectMeta"),
        2: Field("data", "map of bytes"),
        3: Field("type"),
        4: Field("stringData", "map"),
        5: Field("immutable", "bool", is_pointer=True),
    },
    "ConfigMap": {
        1: Field("metadata", "ObjectMeta"),
        2: Field("data", "map"),
        3: Field("binaryData", "map of bytes"),
        4: Field("immutable", "bool", is_pointer=True),
    },
    "ServiceAccount": {1: Field("metadata", "ObjectMeta")},
    "Ingress": {**_OBJECT, 2: Field("spec", "IngressSpec")},
    "IngressSpec": {
        1: Field("defaultBackend", "IngressBackend", is_pointer=True),
        2: Field("tls", "IngressTLS", is_list=True),
        3: Field("rules", "IngressRule", is_list=True),
        4: Field("ingressClassName", is_pointer=True),
    },
    "IngressTLS": {1: Field("hosts", is_list=True), 2: Field("secretName")},
    "IngressRule": {1: Field("host"), 2: Field("", "IngressRuleValue", is_inline=True)},
    "IngressRuleValue": {1: Field("http", "HTTPIngressRuleValue", is_pointer=True)},
    "HTTPIngressRuleValue": {1: Field("paths", "HTTPIngressPath", is_list=True)},
    "HTTPIngressPath": {
        1: Field("path"),
        2: Field("backend", "IngressBackend"),
        3: Field("pathType", is_pointer=True),
    },
    "IngressBackend": {4: Field("service", "IngressServiceBackend", is_pointer=True)},
    "IngressServiceBackend": {1: Field("name"), 2: Field("port", "ServiceBackendPort")},
    "ServiceBackendPort": {1: Field("name"), 2: Field("number", "int")},
    "MapEntry": {1: Field("key"), 2: Field("value")},
    "BytesEntry": {1: Field("key"), 2: Field("value", "bytes")},
}
