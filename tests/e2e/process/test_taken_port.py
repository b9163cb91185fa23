"""A port that another program holds affects no other Service.

Cases: C15 of docs/faults.md.
"""

import contextlib
import socket
from pathlib import Path

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets


def test_a_taken_port_is_reported_the_others_served_and_it_is_served_once_released(
    tmp_path: Path, run: conftest.Run
) -> None:
    taken, free = manifests.fresh_ip(), manifests.fresh_ip()
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = manifests.write(
            tmp_path / "two.yaml",
            manifests.service("taken", taken, manifests.PORT),
            manifests.endpoints("taken", [pod.address]),
            manifests.service("free", free, manifests.PORT),
            manifests.endpoints("free", [pod.address]),
        )
        address = (manifests.bound(taken), manifests.PORT)
        with contextlib.closing(socket.create_server(address)):
            proxy = run(path)

            (frontend,) = proxy.service("taken")["frontends"]
            assert frontend["state"] == "unavailable"
            assert "already in use" in frontend["detail"].lower()
            assert (
                len(proxy.wait_logged("[error", "default/taken", f"{address[0]}:{manifests.PORT}"))
                == 1
            )
            assert sockets.ask(proxy.address("free")) == "pod"

        daemon.wait_until(lambda: address in proxy.listening(), "the released port is served")
        assert sockets.ask(address) == "pod"
