"""The directory of a proxy's nginx is removed whole, with no more rights than such a proxy has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.ingress.daemon import private_directory

MAKE = """
import os, sys
from pathlib import Path
from kproxy.system import privileges
from kproxy.ingress.daemon import private_directory

privileges.limit_to(privileges.LOOPBACK_PORTAL | privileges.INGRESS)
parent = Path(sys.argv[1])
made = private_directory.PrivateDirectory(parent, is_shared=True)
made.write("tls/shop.key", b"secret")
folder = made.path / "client_body_temp"
folder.mkdir(mode=0o700)
(folder / "0000000001").write_bytes(b"half a body")
(folder / "elsewhere").symlink_to(parent)
os.chown(folder, 65534, -1)
"""


def with_a_proxys_rights(script: str, parent: Path) -> None:
    """Run a script in a process of its own, which gives up rights as a proxy does."""
    subprocess.run([sys.executable, "-c", MAKE + script, str(parent)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's nginx has workers of another user")
def test_folders_of_nginxs_workers_go_with_the_rest(tmp_path: Path) -> None:
    with_a_proxys_rights("made.close()", tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's nginx has workers of another user")
def test_the_next_proxy_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    with_a_proxys_rights("os._exit(0)", tmp_path)
    left = list(tmp_path.iterdir())

    with_a_proxys_rights("assert private_directory.recover(parent) == 1; made.close()", tmp_path)

    assert len(left) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_proxy_has_left_can_be_looked_at_before(tmp_path: Path) -> None:
    left = tmp_path / f"{private_directory.PREFIX}left"
    left.mkdir()
    (left / "note").write_text("of a killed proxy")
    found: list[str] = []

    def look_at(path: Path) -> None:
        found.append((path / "note").read_text())

    assert private_directory.recover(tmp_path, look_at) == 1
    assert found == ["of a killed proxy"]
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_living_proxy_stays(tmp_path: Path) -> None:
    made = private_directory.PrivateDirectory(tmp_path)
    made.write("nginx.conf", b"events {}")

    assert private_directory.recover(tmp_path) == 0
    assert (made.path / "nginx.conf").exists()

    made.close()
    made.close()

    assert list(tmp_path.iterdir()) == []
