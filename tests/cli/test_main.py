"""The command line as a user meets it: help, versions, and one sentence for every mistake."""

import asyncio
import json
import os
import re
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
