"""What another host reaches of a proxy, and what a child process inherits (S07, S12, S22)."""

import contextlib
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, programs, sockets
from tests.relay import netns

_HEALTHZ, _METRICS = 10256, 10249


@pytest.mark.netns
@netns.needs_root
@netns.needs_tools
def test_s07_s12_from_another_host_only_healthz_is_reached(
    tmp_path: Path, run: conftest.Run
) -> None:
    """Services of the loopback portal are this host's alone, metrics and control too.

    CVE-2020-8558 made 127.0.0.1 of a node reachable because kube-proxy wrote route_localnet.
    """
    programs.need("ip")
    service = {
        **manifests.service("web", "10.96.0.10", 8080, type="NodePort"),
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.10",
            "ports": [{"port": 8080, "nodePort": 30080}],
        },
    }
    with netns.network() as network, contextlib.ExitStack() as stack:
        with netns.inside(network.proxy):
            pod = stack.enter_context(sockets.backend("127.0.0.1"))
            path = manifests.write(
                tmp_path / "web.yaml", service, manifests.endpoints("web", [pod.getsockname()])
            )
            before = _route_localnet()
            proxy = run(
                path,
                *("--healthz-bind-address", f"0.0.0.0:{_HEALTHZ}"),
                *("--metrics-bind-address", f"127.0.0.1:{_METRICS}"),
            )
            listening = {port for _, port in proxy.listening()}
            assert listening == {8080, 30080, _HEALTHZ, _METRICS}
            assert _route_localnet() == before
        with netns.inside(network.client):
            assert sockets.is_open((netns.PROXY_TO_CLIENT, _HEALTHZ))
            for port in (8080, 30080, _METRICS):
                assert sockets.is_refused((netns.PROXY_TO_CLIENT, port)), port
            netns.run(
                *("ip", "-n", network.client, "route", "add", "127.96.0.0/16"),
                *("via", netns.PROXY_TO_CLIENT),
            )
            with contextlib.closing(socket.socket()) as client:
                client.settimeout(1.0)
                with pytest.raises(OSError, match=r"timed out|unreachable|Invalid argument"):
                    client.connect(("127.96.0.10", 8080))


def _route_localnet() -> dict[str, str]:
    folder = Path("/proc/sys/net/ipv4/conf")
    return {each.parent.name: each.read_text() for each in folder.glob("*/route_localnet")}


_PLUGIN = """#!{python} -I
import os, pathlib, sys
links = dict()
for each in pathlib.Path("/proc/self/fd").iterdir():
    try:
        links[int(each.name)] = str(each.readlink())
    except FileNotFoundError:
        pass  # the folder itself, while it was listed
standard = [links[number] for number in (0, 1, 2)]
more = [link for link in links.values() if link not in standard]
found = pathlib.Path("{found}")
found.with_suffix(".new").write_text("\\n".join(more))
found.with_suffix(".new").rename(found)
sys.exit(1)
"""


def test_s22_a_child_process_inherits_nothing_but_the_standard_streams(
    tmp_path: Path, run: conftest.Run
) -> None:
    """A credential plugin is what this process runs; it is started among open sockets."""
    found, plugin = tmp_path / "found", tmp_path / "plugin"
    plugin.write_text(_PLUGIN.format(python=sys.executable, found=found))
    plugin.chmod(0o755)
    fields = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
    }
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": "https://127.0.0.1:9", "insecure-skip-tls-verify": True},
            }
        ],
        "users": [{"name": "u", "user": {"exec": fields}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    ports = ("--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0")

    run(path, *ports, source="--kubeconfig", await_ready=False)

    daemon.wait_until(found.exists, "the plugin has run")
    assert found.read_text() == ""
