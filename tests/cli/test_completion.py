"""What a shell is offered, and the script that makes it ask; with a proxy it is in `test_get`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import inside


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
def test_a_shell_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    done = inside.run(**completing(line, tmp_path))

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
def test_completion_is_shown_for_the_shell_one_names(form: str, shell: str, sign: str) -> None:
    done = inside.run(*form.format(flag="--show-completion", shell=shell).split())

    assert (done.returncode, done.stderr) == (0, "")
    assert sign in done.stdout


def test_completion_is_installed_in_the_home_folder(tmp_path: Path) -> None:
    done = inside.run("--install-completion", "fish", HOME=str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    (script,) = tmp_path.rglob("kproxy.fish")
    assert str(script) in done.stdout


def test_completion_that_cannot_be_installed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = inside.run("--install-completion", "bash", HOME=str(tmp_path / "file"))

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("kproxy: --install-completion: ")
    assert f"{tmp_path}/file" in line
    assert line.endswith("--show-completion prints the script")


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
