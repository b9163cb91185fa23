"""The kubectls of this machine, and how tests run them."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.rig.programs import need

ENVIRONMENT_VARIABLE = "KPROXY_TEST_KUBECTL_DIR"
"""Names a directory with one more kubectl."""


class Kubectl(NamedTuple):
    """A kubectl with a home, a cache and a kubeconfig of its own."""

    program: Path
    home: Path

    def run(
        self, *arguments: str, stdin: str = "", editor: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run it and return how that ended."""
        return subprocess.run(
            self._command(*arguments),
            input=stdin,
            env=self._environment() | {"KUBE_EDITOR": editor},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def __call__(self, *arguments: str, stdin: str = "", editor: str = "") -> str:
        """What it prints; it must succeed."""
        done = self.run(*arguments, stdin=stdin, editor=editor)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def streaming(self, *arguments: str) -> Iterator[Iterator[str]]:
        """The lines it prints, while it runs; a watch ends with the block, or after a minute."""
        process = subprocess.Popen(
            self._command(*arguments),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        limit = threading.Timer(60.0, process.kill)
        limit.start()
        try:
            with process.stdout:
                yield process.stdout
        finally:
            limit.cancel()
            process.kill()
            process.wait()

    def json(self, *arguments: str) -> Any:
        """What it prints with `-o json`, decoded."""
        return json.loads(self(*arguments, "-o", "json"))

    def _command(self, *arguments: str) -> list[str | Path]:
        return [self.program, f"--cache-dir={self.home / 'cache'}", *arguments]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(self.home / "kubeconfig"),
        }


def first_and_last() -> list[Any]:
    """`programs` for a fixture. The first and the last tell most of what there is to tell; those
    between them are left to the lane `extra`."""
    found = programs()
    return _parameters(found, [*found[:1], *found[-1:]])


def last() -> list[Any]:
    """The same where any kubectl will do."""
    found = programs()
    return _parameters(found, found[-1:])


def _parameters(found: list[Path], in_default_lane: list[Path]) -> list[Any]:
    return [
        pytest.param(
            each, id=each.name, marks=[] if each in in_default_lane else [pytest.mark.extra]
        )
        for each in found
    ]


def newest() -> Path:
    """The newest kubectl. Without any the test is skipped; but in CI it fails."""
    found = programs()
    return found[-1] if found else Path(need("kubectl"))


def programs() -> list[Path]:
    """The kubectl in the directory that the environment names, then every kubectl on PATH, the
    oldest and the newest of the versions beside it."""
    found: dict[Path, None] = {}
    extra = Path(os.environ.get(ENVIRONMENT_VARIABLE, "/nonexistent")) / "kubectl"
    if extra.exists():
        found[extra.resolve()] = None
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if program := shutil.which("kubectl", path=directory or "."):
            versions = sorted(Path(program).resolve().parent.glob("kubectl.1.*"), key=_minor)
            # Beside versions of its own, a plain kubectl is only what chooses among them.
            for each in (versions[0], versions[-1]) if versions else (Path(program),):
                found[each.resolve()] = None
    return list(found)


def _minor(program: Path) -> int:
    match = re.search(r"1\.(\d+)$", program.name)
    return int(match[1]) if match else 0
