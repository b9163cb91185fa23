"""Names of chains: a prefix, and 16 letters of a hash.

The hash is of the service port's name, its protocol in lower case and, for an endpoint, its
address, without separators (kube-proxy `pkg/proxy/iptables/proxier.go`, `portProtoHash`). Up to
1.19 an unnamed port's name ended with a colon; that is the form of many articles.
"""

import base64
import hashlib

from kproxy.modes.world import Backend, Port

_BYTES = 10
"""Of the hash: sixteen letters of five bits each."""


def of_port(prefix: str, port: Port) -> str:
    """The chain of a service port, such as KUBE-SVC-SCFPZ36VFLUNBB47."""
    return _hashed(prefix, port.text + port.protocol)


def of_endpoint(port: Port, backend: Backend) -> str:
    """The chain of an endpoint of a service port."""
    return _hashed("KUBE-SEP-", f"{port.text}{port.protocol}{backend.address}")


def _hashed(prefix: str, text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return prefix + base64.b32encode(digest[:_BYTES]).decode()
