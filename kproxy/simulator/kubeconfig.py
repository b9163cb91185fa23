"""The kubeconfig that leads clients to the simulated API server."""

from typing import Any

NAME = "kproxy-simulator"
"""The name of its cluster, user and context."""


def kubeconfig(url: str) -> dict[str, Any]:
    """A kubeconfig with one context. `url` has the credentials in it: see `apiserver`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": url}}],
        "users": [{"name": NAME, "user": {}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }
