"""The command line as a user meets it: help, versions, and one sentence for every mistake."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import kproxy
from kproxy import server
from kproxy.cli import main
from kproxy.system import privileges
from tests.e2e.rig import manifests, programs

COMMANDS = ["run", "get", "describe", "status", "simulate", "demo", "bench", "config", "version"]

MANIFEST = f"""
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: {manifests.fresh_ip()}, ports: [{{port: {manifests.PORT}}}]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def filled(folder: Path) -> Path:
    """The folder, with manifests in it."""
    (folder / "web.yaml").write_text(MANIFEST)
    (folder / "conf.d").mkdir()
    shutil.copy(folder / "web.yaml", folder / "conf.d")
    return folder


def call(
    arguments: list[str], folder: Path, *, wrapper: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`kproxy ARGUMENTS`, which must end by itself."""
    command = [*(wrapper or []), sys.executable, "-m", "kproxy", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


Inside: TypeAlias = Callable[[list[str]], subprocess.CompletedProcess[str]]


@pytest.fixture
def inside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Inside:
    """The same without a process of its own, whose start takes nearly all of the time.

    What goes on to serve, where it should not, is ended.
    """
    really_serve = server.serve

    async def serve(*arguments: Any) -> None:
        async with asyncio.timeout(20):
            await really_serve(*arguments)

    def inside(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        code = main.run(arguments)
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(server, "serve", serve)
    # What is given up is given up for good, by this process too.
    monkeypatch.setattr(privileges, "limit_to", lambda *_, **__: None)
    return inside


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


WRONG_USAGE = [
    pytest.param(["run"], ["--manifests"], id="nothing to serve"),
    pytest.param(["run", "--manifests", "nope.yaml"], ["nope.yaml", "no such"], id="no such file"),
    pytest.param(["run", "--manifests", ""], ["--manifests is empty"], id="an empty path"),
    pytest.param(
        ["run", "-f", "https://example.org/web.yaml"], ["URLs", "curl"], id="a URL to serve"
    ),
    pytest.param(
        ["simulate", "-f", "http://example.org/web.yaml"], ["URLs", "curl"], id="a URL to apply"
    ),
    pytest.param(
        ["run", "--manifests", "a\x1b[31m\nü\udcff.yaml"],
        ["a\\x1b[31m\\nü\\udcff.yaml: no such file"],
        id="a path that would drive the terminal",
    ),
    pytest.param(
        ["get", "a\nb\u202e\x1b[2J"], ["a\\nb\\u202e\\x1b[2J"], id="a resource that would do so"
    ),
    pytest.param(["a\nb\x1b[2J"], ["no such command"], id="a command that would do so"),
    pytest.param(["run", "--manifests", "x" * 300], ["too long"], id="a path that is too long"),
    pytest.param(
        ["run", "--manifests"],
        ["--manifests", "requires", "kproxy run --help"],
        id="a flag without value",
    ),
    pytest.param(
        ["simulate", "--nodes"], ["--nodes", "kproxy simulate --help"], id="a number that is absent"
    ),
    pytest.param(
        ["status", "--context=prod"], ["--context", "kproxy status", "--control"], id="a cluster"
    ),
    pytest.param(["run", "--nope"], ["no such option", "--nope", "--help"], id="unknown flag"),
    pytest.param(["run", "--manifest", "x"], ["--manifests"], id="a flag almost right"),
    pytest.param(["frob"], ["no such command", "frob", "--help"], id="unknown command"),
    pytest.param(["run", "web.yaml"], ["unexpected", "web.yaml"], id="an argument too many"),
    pytest.param(["run", "-f", "web.yaml", "--"], ["nothing follows --"], id="no command"),
    pytest.param(
        ["run", "--cleanup", "--", "true"], ["--cleanup", "no command"], id="a clean-up's command"
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--wait", "a/b/c", "--", "true"],
        ["--wait a/b/c", "prod/web"],
        id="a Service that is none",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--strategy", "fastest"],
        ["--strategy", "fastest", "round-robin", "random"],
        id="unknown strategy",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--portal", "tunnel"],
        ["--portal", "tunnel", "loopback"],
        id="unknown portal",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--idle-timeout", "0"],
        ["--idle-timeout 0", "between 100ms"],
        id="a timeout of nothing",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--half-closed-timeout", "0"],
        ["--half-closed-timeout 0", "between 100ms"],
        id="a half-closed timeout of nothing",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--grace-period", "-1"],
        ["--grace-period -1", "0s to 24h"],
        id="a negative grace period",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--grace-period", "soon"],
        ["--grace-period soon", "duration", "30s"],
        id="a grace period in words",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--max-connections", "100000000"],
        ["100000000", "ulimit -n"],
        id="more connections than files",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--max-connections", "0"],
        ["--max-connections 0", "between 1"],
        id="no connections",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--ready-file", "nowhere/ready.json"],
        ["--ready-file", "nowhere/ready.json", "does not exist"],
        id="a ready file in a missing directory",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--ready-file", "conf.d"],
        ["--ready-file", "conf.d", "regular file"],
        id="a ready file where a directory is",
    ),
    pytest.param(
        ["run", "-f", "conf.d", "--ready-file", "conf.d/ready.json"],
        ["--ready-file", "conf.d/ready.json", "manifests"],
        id="a ready file among the manifests",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--ready-file", "web.yaml"],
        ["--ready-file", "web.yaml", "manifests"],
        id="a ready file in the place of a manifest",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--hostname-override", " "],
        ["--hostname-override", "empty"],
        id="a node without name",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--namespace", ""],
        ["--namespace", "empty"],
        id="a namespace without name",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--log-level", "loud"],
        ["--log-level", "loud", "debug"],
        id="unknown log level",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--keepalive-idle", "40000"],
        ["--keepalive-idle 40000", "between 1s and 32767s"],
        id="more than the kernel takes",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--keepalive-idle", "99999999999"],
        ["--keepalive-idle 99999999999", "between 1s and 32767s"],
        id="far more than the kernel takes",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--idle-timeout", "nan"],
        ["--idle-timeout nan", "duration"],
        id="not a number",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--max-affinity-clients", "9" * 5000],
        ["--max-affinity-clients 999", "whole number"],
        id="5,000 digits",
    ),
    pytest.param(
        ["run", "-f", "web.yaml", "--proxy-mode", "iptables"],
        ["--proxy-mode iptables", "userspace"],
        id="a mode of kube-proxy's that kproxy has not",
    ),
    pytest.param(["run", "--master=https://x"], ["--master", "--kubeconfig"], id="--master"),
    pytest.param(["demo", "--pace", "2m"], ["--pace 2m", "1m"], id="a pace too slow"),
    pytest.param(
        ["bench", "load", "127.0.0.1:1", "--seconds", "nan"], ["--seconds nan"], id="no duration"
    ),
    pytest.param(["config"], ["missing command", "config --help"], id="a command without its own"),
    pytest.param(
        ["--show-completion", "tcsh"], ["--show-completion tcsh", "bash, zsh"], id="no such shell"
    ),
    pytest.param(["version", "-o", "xml"], ["-o xml", "yaml", "json"], id="unknown output"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG_USAGE)
def test_wrong_usage_is_one_sentence_and_exit_code_2_and_starts_nothing(
    arguments: list[str], said: list[str], folder: Path, inside: Inside
) -> None:
    before = files(folder)

    done = inside(arguments)

    assert done.returncode == 2
    assert_one_sentence(done, said)
    assert files(folder) == before


def assert_one_sentence(done: subprocess.CompletedProcess[str], said: list[str]) -> None:
    """One line on stderr, from us, with these words in it; nothing on stdout."""
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("kproxy: ")
    assert [word for word in said if word not in done.stderr] == []


@pytest.mark.parametrize("path", ["web.yaml", "conf.d"])
def test_manifests_that_may_not_be_read_are_named(folder: Path, path: str) -> None:
    (folder / path).chmod(0)
    try:
        done = call(["run", "--manifests", path], folder, wrapper=unprivileged())
    finally:
        (folder / path).chmod(0o755)

    assert done.returncode == 2
    assert_one_sentence(done, [f"cannot read manifests from {path}", "permission denied"])


def test_a_ready_file_in_a_directory_that_may_not_be_written_is_refused(folder: Path) -> None:
    (folder / "conf.d").chmod(0o555)
    arguments = ["run", "--manifests", "web.yaml", "--ready-file", "conf.d/ready"]

    done = call(arguments, folder, wrapper=unprivileged())

    assert done.returncode == 2
    assert_one_sentence(done, ["--ready-file conf.d/ready", "may not write"])


def unprivileged() -> list[str]:
    """A command that starts another without root's right to ignore permissions."""
    if os.geteuid() != 0:
        return []
    return [programs.need("setpriv"), "--bounding-set", "-dac_override,-dac_read_search"]


def test_a_special_file_is_never_replaced_by_a_ready_file(inside: Inside, folder: Path) -> None:
    special = folder / "special"
    os.mkfifo(special)

    done = inside(["run", "--manifests", "web.yaml", "--ready-file", "special"])

    assert done.returncode == 2
    assert_one_sentence(done, ["--ready-file special", "regular file"])
    assert special.is_fifo()


def test_a_ready_file_that_cannot_be_written_ends_the_proxy_with_one_sentence(
    folder: Path,
) -> None:
    flags = ["--ready-file", "/proc/ready", "--log-level", "error"]

    done = call(["run", "--manifests", "web.yaml", *flags], folder)

    assert done.returncode in (1, 2)
    assert_one_sentence(done, ["/proc/ready"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["nothing", "--help", "-h"])
def test_help_lists_the_commands(folder: Path, arguments: list[str]) -> None:
    done = call(arguments, folder)

    assert (done.returncode, done.stderr) == (0, "")
    described = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    listed = [words[0] for words in described if len(words) == 2 and words[0] in COMMANDS]
    assert listed == COMMANDS
    assert "..." not in done.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(inside: Inside, command: str) -> None:
    done = inside([command, "--help"])

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{command} [OPTIONS]" in done.stdout.splitlines()[0]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not re.search(r"<(list|str|int|float|path|bool)\b", done.stdout), "a type of Python's"


def test_help_of_run_names_every_flag_in_full_and_its_default(inside: Inside) -> None:
    shown = " ".join(inside(["run", "--help"]).stdout.split())

    for flag in (
        "--manifests PATH",
        "--kubeconfig PATH",
        "--context NAME",
        "--control PATH",
        "--healthz-bind-address",
        "--metrics-bind-address",
        "--namespace NS",
        "--portal <loopback|local>",
        "--strategy <round-robin|random|least-connections|power-of-two|source-hash>",
        "--hostname-override NAME",
        "--allow-loopback-endpoints",
        "--ready-file PATH",
        "--grace-period DURATION",
        "--half-closed-timeout DURATION",
        "--idle-timeout DURATION",
        "--keepalive-idle DURATION",
        "--max-connections N",
        "--max-affinity-clients N",
        "--max-listeners N",
        "--max-ports-per-service N",
        "--external-ip-cidrs CIDR",
        "--log-format <text|json>",
        "--log-level <debug|info|warning|error>",
        "--verbose",
    ):
        assert flag in shown
    for default in (
        "default: loopback",
        "default: round-robin",
        "default: hostname",
        "default: 30s",
    ):
        assert default in shown


def test_version_prints_the_version(folder: Path) -> None:
    done = call(["version"], folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"kproxy {kproxy.__version__}\n"


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_a_flag_too(inside: Inside, flag: str) -> None:
    assert inside([flag]).stdout == f"kproxy {kproxy.__version__}\n"
    assert "--version" in inside(["--help"]).stdout


@pytest.mark.parametrize("command", [[], ["get"], ["bench", "load"], ["config", "show"]])
def test_help_is_a_command_too(inside: Inside, command: list[str]) -> None:
    assert inside(["help", *command]).stdout == inside([*command, "--help"]).stdout
    assert inside(["help", "nosuch"]).returncode == 2


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [("rn", "run"), ("gte", "get"), ("simulte", "simulate"), ("verison", "version")],
)
def test_the_nearest_command_is_suggested(inside: Inside, mistake: str, meant: str) -> None:
    done = inside([mistake])

    assert done.returncode == 2
    assert_one_sentence(done, [f"did you mean '{meant}'"])


@pytest.mark.parametrize("arguments", [["config", "reference"], ["run", "--help"]])
def test_a_reader_that_has_enough_ends_it_in_silence(folder: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kproxy", *arguments]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["get", "svc", "--control", "nope"], id="get"),
        pytest.param(["describe", "svc/web", "--control", "nope"], id="describe"),
        pytest.param(["explain", "web", "--manifests", "web.yaml"], id="explain"),
    ],
)
def test_a_command_leaves_alone_what_signals_do(inside: Inside, arguments: list[str]) -> None:
    """A peer that closed a socket would otherwise end the process, in silence."""
    before = [signal.getsignal(each) for each in signal.valid_signals()]

    inside(arguments)

    assert [signal.getsignal(each) for each in signal.valid_signals()] == before


def test_a_full_disk_under_the_output_is_a_sentence(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "kproxy", "version"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )

    assert (done.returncode, done.stderr) == (1, "kproxy: the disk is full: make room on it\n")


def test_version_as_json_is_one_object(inside: Inside) -> None:
    done = inside(["version", "-o", "json"])

    told = json.loads(done.stdout)
    assert told.keys() == {"version", "python", "platform"}
    assert told["version"] == kproxy.__version__


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


def test_ctrl_c_while_the_program_loads_is_no_traceback(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

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
    done = subprocess.run(
        [sys.executable, "-c", ENDED, "run", "--manifests", "web.yaml", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

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
    done = subprocess.run(
        [sys.executable, "-c", TRANSLATED, what],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

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


def test_manifests_and_a_cluster_exclude_each_other(inside: Inside) -> None:
    done = inside(["run", "--manifests", "web.yaml", "--kubeconfig", "config"])

    assert done.returncode == 2
    assert_one_sentence(done, ["--manifests", "--kubeconfig", "exclude"])


BUG = """
import sys
from kproxy import server
from kproxy.cli import main

async def serve(*_):
    raise ValueError("two\\nlines")

server.serve = serve
sys.argv[1:] = ["run", "--manifests", "web.yaml"]
main.main()
"""


def test_a_bug_is_one_sentence_and_has_a_traceback_only_for_developers(
    folder: Path,
) -> None:
    def provoke(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *flags, "-c", BUG]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )

    done = provoke()

    assert done.returncode == 1
    assert_one_sentence(done, ["a bug", "ValueError: two lines", "report"])
    assert "Traceback" in provoke("-X", "dev").stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kproxy ge", ["get"]),
        ("kproxy get serv", ["services"]),
        ("kproxy get --no-h", ["--no-headers"]),
        ("kproxy run --strat", ["--strategy"]),
        ("kproxy get services no-such-", []),
        ("kproxy nonsense x", []),
        ("kproxy", []),
    ],
)
def test_a_shell_completes(
    inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    offered: list[str],
    tmp_path: Path,
) -> None:
    for name, value in completing(line, tmp_path).items():
        monkeypatch.setenv(name, value)

    done = inside([])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == offered or line == "kproxy"


def completing(line: str, runtime: Path) -> dict[str, str]:
    """The environment in which bash asks for completions of a line."""
    words = line.split()
    return {
        "_KPROXY_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "XDG_RUNTIME_DIR": str(runtime),
    }


def test_a_shell_starts_it_to_complete(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kproxy"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | completing("kproxy get serv", tmp_path),
    )

    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["services"], "")


def test_completion_is_shown_for_the_shell_one_uses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kproxy", "--show-completion"]
    environment = os.environ | {"SHELL": "/bin/bash"}
    shell = ["bash", "-c", f"{shlex.join(command)}; true"]
    done = subprocess.run(
        shell, capture_output=True, text=True, timeout=60, check=False, env=environment
    )

    assert "_KPROXY_COMPLETE=complete_bash" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["{flag} {shell}", "{flag}={shell}"])
@pytest.mark.parametrize(
    ("shell", "sign"),
    [("bash", "complete_bash"), ("zsh", "#compdef kproxy"), ("fish", "--command")],
)
def test_completion_is_shown_for_the_shell_one_names(
    inside: Inside, form: str, shell: str, sign: str
) -> None:
    done = inside(form.format(flag="--show-completion", shell=shell).split())

    assert (done.returncode, done.stderr) == (0, "")
    assert sign in done.stdout


def test_completion_is_installed_in_the_home_folder(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    done = inside(["--install-completion", "fish"])

    assert (done.returncode, done.stderr) == (0, "")
    (script,) = tmp_path.rglob("kproxy.fish")
    assert str(script) in done.stdout


def test_completion_that_cannot_be_installed_is_one_sentence(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))

    done = inside(["--install-completion", "bash"])

    assert done.returncode == 1
    assert_one_sentence(done, ["--install-completion", f"{tmp_path}/file", "--show-completion"])


def test_the_script_for_bash_completes_in_bash(tmp_path: Path) -> None:
    """Bash itself reads the script, and asks the program by it."""
    program = tmp_path / "kproxy"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m kproxy "$@"\n')
    program.chmod(0o755)
    script = """
        source <(kproxy --show-completion bash)
        read -r _ _ _ _ function _ <<< "$(complete -p kproxy)"
        COMP_WORDS=(kproxy get --no-h) COMP_CWORD=2
        $function kproxy --no-h get
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "--no-headers\n", "")
