"""The kubeconfig for clients of the simulated API server."""

import base64
from typing import Any

NAME = "kproxy-simulator"
"""The name of its cluster, user and context."""


def kubeconfig(url: str, token: str, authority: bytes | None) -> dict[str, Any]:
    """A kubeconfig with one context. `authority` is the PEM to trust; None: there is no TLS.

    client-go, so kubectl, gives a user's credentials to TLS servers only
    (`tools/clientcmd/client_config.go`).
    """
    cluster = {"server": url}
    if authority is not None:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }
