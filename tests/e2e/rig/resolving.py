"""Programs with an `/etc/resolv.conf`, and an `/etc/hosts`, of their own: as in a pod."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.rig import programs

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")


class Resolver:
    """What a program sees that has these two files. Mount namespaces need root."""

    def __init__(
        self, folder: Path, resolv_conf: str, hosts: str = "127.0.0.1 localhost\n"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = {"/etc/resolv.conf": resolv_conf, "/etc/hosts": hosts}
        self._folder = folder
        for path, text in self._files.items():
            self._own(path).write_text(text)

    def run(self, *command: str) -> str:
        """What a program prints; "" if it fails."""
        mounts = " && ".join(f"mount --bind {self._own(path)} {path}" for path in self._files)
        inside = ("sh", "-c", f'{mounts} && exec "$@"', "sh", *command)
        done = subprocess.run(
            [programs.need("unshare"), "--mount", *inside],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def addresses(self, name: str) -> set[str]:
        """What glibc makes of a name, with the search list: getaddrinfo(3)."""
        return {line.split()[0] for line in self.run("getent", "ahosts", name).splitlines()}

    def dig(self, *words: str) -> str:
        """What dig prints with the search list."""
        return self.run(programs.need("dig"), "+search", "+short", "+time=5", *words)

    def _own(self, path: str) -> Path:
        return self._folder / path.rpartition("/")[2]
