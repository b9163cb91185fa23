"""While a command loads: which modules it loads, and signals that come meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.rig import manifests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a Service in web.yaml."""
    service = manifests.service("web", manifests.fresh_ip(), manifests.PORT)
    manifests.write(tmp_path / "web.yaml", service)
    return tmp_path


INTERRUPTED = """
import importlib.abc, sys
from kproxy.cli import main

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "kproxy.server":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["run", "--manifests", "web.yaml"]
main.main()
"""


def _run(folder: Path, *script: str) -> subprocess.CompletedProcess[str]:
    """A program in Python, with its arguments."""
    return subprocess.run(
        [sys.executable, "-c", *script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ctrl_c_while_the_program_loads_is_no_traceback(folder: Path) -> None:
    done = _run(folder, INTERRUPTED)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


ENDED = """
import importlib.abc, os, signal, sys
from kproxy.cli import main

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "kproxy.cli.run":
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                pass  # until the interpreter has called the handler

sys.meta_path.insert(0, Finder())
main.main()
"""


@pytest.mark.parametrize(
    ("command", "code"), [([], 0), (["--", "true"], 143)], ids=["no command", "a command"]
)
def test_an_end_while_the_program_loads_is_no_success_of_a_command(
    folder: Path, command: list[str], code: int
) -> None:
    done = _run(folder, ENDED, "run", "--manifests", "web.yaml", *command)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


TRANSLATED = """
import importlib.abc, os, signal, sys
from kproxy.cli import main

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "kproxy.cli.status":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                while True:
                    pass  # until the interpreter has called the handler
            except KeyboardInterrupt:
                if what == "swallow":
                    return None
                raise SyntaxError("cannot load unicodedata") from None

what = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
sys.argv.append("status")
main.main()
"""


@pytest.mark.parametrize("what", ["swallow", "translate"])
def test_ctrl_c_that_an_import_turns_into_something_else_is_no_bug(folder: Path, what: str) -> None:
    done = _run(folder, TRANSLATED, what)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


LOADED = """
import os, sys, threading, time
from pathlib import Path
from kproxy.cli import main

def watch():
    ready = Path(sys.argv[1])
    while not ready.exists():
        time.sleep(0.01)
    Path(sys.argv[2]).write_text(" ".join(sys.modules))
    os.kill(os.getpid(), 15)

if sys.argv[2]:
    threading.Thread(target=watch, daemon=True).start()
main.run(sys.argv[3:])
if not sys.argv[2]:
    print(*sys.modules)
"""
HEAVY = {
    *("aiohttp", "cryptography", "jsonpatch", "kubernetes", "matplotlib", "pydantic", "rich"),
    "watchfiles",
}


OPTIONAL = (
    *("kproxy.command.", "kproxy.dns.", "kproxy.gateway.", "kproxy.ingress."),
    *("kproxy.model.kinds.gateway.", "kproxy.model.kinds.ingress."),
)
"""Parts that this command line does not switch on."""
SEEN_BY_EVERY_PROXY = {
    *("kproxy.command.settings", "kproxy.dns.settings", "kproxy.gateway.settings"),
    *("kproxy.ingress.settings", "kproxy.gateway.state", "kproxy.ingress.state"),
}


def test_files_are_served_without_what_only_clusters_and_terminals_need(folder: Path) -> None:
    flags = [
        *("-f", "web.yaml", "--ready-file", "ready", "--control", "control.sock"),
        *("--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0"),
    ]
    subprocess.run(
        [sys.executable, "-c", LOADED, "ready", "modules", "run", *flags],
        cwd=folder,
        timeout=60,
        check=True,
    )

    loaded = set((folder / "modules").read_text().split())
    assert loaded & HEAVY == set()
    assert {"kproxy.server", "prometheus_client"} <= loaded
    assert {each for each in loaded if each.startswith(OPTIONAL)} == SEEN_BY_EVERY_PROXY


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        pytest.param(["--help"], {"asyncio", "structlog", "yaml"}, id="--help"),
        pytest.param(["version"], {"asyncio", "structlog", "yaml", "uvloop"}, id="version"),
        pytest.param(["config", "reference"], {"uvloop"}, id="config"),
    ],
)
def test_a_command_loads_nothing_that_is_another_ones(
    folder: Path, arguments: list[str], more: set[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "", "", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & (HEAVY - {"pydantic"} | more) == set()
