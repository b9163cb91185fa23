"""What a process may still do after it has given up what it does not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.system import privileges

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to lose")

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from kproxy.system import privileges
C = privileges.Capability
if sys.argv[1] == "limit":
    privileges.limit_to([C.NET_BIND_SERVICE])
    print(Path("/proc/self/status").read_text())
    print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
else:
    privileges.limit_to([C.NET_BIND_SERVICE, C.DAC_READ_SEARCH])
    print(privileges.unreadable(map(Path, sys.argv[2:])))
"""
ONE = f"{1 << privileges.Capability.NET_BIND_SERVICE:016x}"


def run(*arguments: str) -> str:
    """What PROGRAM prints."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_one_capability_is_left_here_and_in_children() -> None:
    fields = [line.split() for line in run("limit").splitlines() if line]

    for name, value in (
        *(("CapPrm:", ONE), ("CapEff:", ONE), ("CapBnd:", ONE)),
        *(("CapInh:", "0" * 16), ("CapAmb:", "0" * 16), ("NoNewPrivs:", "1")),
    ):
        assert [each[1] for each in fields if each[0] == name] == [value, value]
    assert [each[1] for each in fields if each[0] == "Uid:"] == ["0", "0"]


def test_files_that_only_a_capability_opens_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    public, secret = tmp_path / "public", folder / "secret"
    for path, mode in ((public, 0o644), (secret, 0o600)):
        path.touch()
        path.chmod(mode)
        os.chown(path, 65534, 65534)

    assert run("files", str(public), str(tmp_path / "missing")).strip() == "None"
    assert run("files", str(public), str(folder)).strip() == str(secret)
    os.chown(secret, 0, 0)
    assert run("files", str(folder)).strip() == "None"
