"""Which cluster to follow: that of a kubeconfig, or the one in which this process is a pod.

As client-go's `rest.InClusterConfig` and kubectl find it. Nothing here connects.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from kproxy.sources.access import kubeconfig, small_files

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a pod's token and its cluster's authority."""

IN_CLUSTER = "in-cluster"


def is_available() -> bool:
    """Whether KUBECONFIG is set, or a kubeconfig or a mounted service account would be found."""
    if os.environ.get("KUBECONFIG"):
        return True  # `load` reports files that do not exist, by their names
    return bool(_existing(os.environ)) or _is_in_cluster(SERVICE_ACCOUNT, os.environ)


def load(
    kubeconfig_path: str | None,
    context: str | None,
    *,
    environment: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> kubeconfig.ClusterAccess:
    """How to reach a cluster: by kubeconfig, or as a pod when there is none.

    `kubeconfig_path` may list several files, as KUBECONFIG may, which is used without it; then
    comes ~/.kube/config, then the mounted service account. Raises ConfigError, also when a
    certificate cannot be used. Takes a second: the transport is imported to find out.
    """
    # As for kubectl, a KUBECONFIG whose files do not exist counts as unset.
    explicit = bool(kubeconfig_path or context)
    if not explicit and not _existing(environment) and _is_in_cluster(service_account, environment):
        access = _in_cluster(service_account, environment)
    else:
        access = kubeconfig.read(kubeconfig.paths(kubeconfig_path, environment), context)
    # Importing it takes half a second, so files do without it.
    from kproxy.sources.api import client  # noqa: PLC0415

    client.check(access, environment)
    return access


def _existing(environment: Mapping[str, str]) -> list[Path]:
    """The kubeconfigs that are there. In a pod, the home directory is often another user's."""
    found = kubeconfig.paths(None, environment)
    if environment.get("KUBECONFIG"):
        return [path for path in found if not small_files.is_missing(path)]
    return [path for path in found if os.path.exists(path)]  # noqa: PTH110 - Path.exists() raises


def _is_in_cluster(service_account: Path, environment: Mapping[str, str]) -> bool:
    return bool(environment.get("KUBERNETES_SERVICE_HOST")) and (service_account / "token").exists()


def _in_cluster(service_account: Path, environment: Mapping[str, str]) -> kubeconfig.ClusterAccess:
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    authority = service_account / "ca.crt"
    small_files.read(authority, "the service account's authority")
    return kubeconfig.ClusterAccess(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        context=IN_CLUSTER,
        user=kubeconfig.User(token_file=service_account / "token"),
        authority=authority,
    )
