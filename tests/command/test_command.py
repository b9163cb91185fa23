"""A command as a process: its exit codes, its environment, its signals, and its end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.command import command

SECONDS = 20.0
PATH = {"PATH": os.environ.get("PATH", os.defpath)}


@contextlib.contextmanager
def prepared(*words: str, **environment: str) -> Iterator[command.Command]:
    """A command that waits for its start, and is closed at the end."""
    with contextlib.closing(command.Command(words, PATH | environment)) as made:
        yield made


async def code_of(*words: str) -> int:
    """The exit code of a command."""
    with prepared(*words) as made:
        async with asyncio.timeout(SECONDS):
            return await made.run({})


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
        ("kill -PIPE $$", 141),
    ],
)
async def test_the_exit_code_is_what_a_shell_would_say(script: str, code: int) -> None:
    assert await code_of("sh", "-c", script) == code


@pytest.mark.parametrize(
    ("word", "code", "sentence"),
    [
        ("no-such-command", 127, "no-such-command: command not found"),
        ("", 127, "command not found"),
        ("./no/such", 127, "./no/such: no such file"),
        ("./plain", 126, "./plain: permission denied"),
        ("/", 126, "/: is a directory"),
    ],
)
def test_a_command_that_cannot_start_is_refused_at_once(
    word: str, code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").touch(mode=0o600)

    with pytest.raises(errors.KproxyError, match=sentence) as refused, prepared(word):
        pass
    assert refused.value.exit_code == code


async def test_a_program_that_is_none_is_found_out_late(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An executable file that the kernel refuses, and one that has gone away meanwhile."""
    odd = tmp_path / "odd"
    odd.write_text("no program\n")
    lost = tmp_path / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    for each in (odd, lost):
        each.chmod(0o700)

    assert await code_of(str(odd)) == 126
    assert await code_of(str(lost)) == 127
    said = capfd.readouterr().err.splitlines()
    assert said == [
        f"kproxy: {odd}: exec format error",
        f"kproxy: {lost}: the program that its first line names does not exist",
    ]


async def test_an_environment_that_is_too_long_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    variables = {f"SERVICE_{number}": "x" * 100_000 for number in range(100)}
    with prepared("true") as made:
        async with asyncio.timeout(SECONDS):
            assert await made.run(variables) == 126

    assert "kproxy: true: its environment is too long for execve(2)" in capfd.readouterr().err


async def test_it_has_its_environment_and_the_variables(tmp_path: Path) -> None:
    long = "x" * 100_000  # more than a pipe holds
    copy = tmp_path / "environment"
    words = ("cp", "/proc/self/environ", str(copy))
    with prepared(*words, OWN="a=b\nc", WEB_SERVICE_HOST="an old one") as made:
        await made.run({"WEB_SERVICE_HOST": "127.96.0.1", "LONG": long})

    expected = PATH | {"OWN": "a=b\nc", "WEB_SERVICE_HOST": "127.96.0.1", "LONG": long}
    found = copy.read_text().split("\0")[:-1]
    assert dict(item.split("=", 1) for item in found) == expected


def test_our_own_settings_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPROXY_READY_FILE", "/run/ready")
    monkeypatch.setenv("KPROXY_SERVICE_HOST", "10.96.0.7")

    left = command.own_environment(["KPROXY_READY_FILE", "KPROXY_CONTROL"])

    assert "KPROXY_READY_FILE" not in left
    assert left["KPROXY_SERVICE_HOST"] == "10.96.0.7"
    assert os.environ["KPROXY_READY_FILE"] == "/run/ready"


async def running(made: command.Command, sign: Path) -> "asyncio.Task[int]":
    """The command, once it has made the file `sign`."""
    task = asyncio.ensure_future(made.run({}))
    async with asyncio.timeout(SECONDS):
        while not sign.exists():  # noqa: ASYNC110, ASYNC240  # another process makes it
            await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize("number", command.RELAYED)
async def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    sign = tmp_path / "sign"
    name = number.name.removeprefix("SIG")
    script = f'trap "exit 42" {name}; touch {sign}; while :; do sleep 0.01; done'
    with prepared("sh", "-c", script) as made:
        assert not made.relay(number)  # it does not run yet: the signal is the proxy's
        task = await running(made, sign)

        assert made.relay(number)

        async with asyncio.timeout(SECONDS):
            assert await task == 42
        assert not made.relay(number)


async def test_its_signals_are_those_of_a_fresh_process(tmp_path: Path) -> None:
    copy = tmp_path / "status"

    assert await code_of("cp", "/proc/self/status", str(copy)) == 0

    status = dict(line.split(":\t") for line in copy.read_text().splitlines())
    # The C library keeps two signals to itself, and leaves them ignored in what it spawns.
    settable = sum(1 << number - 1 for number in signal.valid_signals())
    masks = {name: int(status[name], 16) & settable for name in ("SigBlk", "SigIgn", "SigCgt")}
    assert masks == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


async def test_it_is_asked_to_end_then_killed(tmp_path: Path) -> None:
    polite, stubborn = tmp_path / "polite", tmp_path / "stubborn"
    for sign, reaction, code in ((polite, "exit 3", 3), (stubborn, ":", 137)):
        script = f'trap "{reaction}" TERM; touch {sign}; while :; do sleep 0.01; done'
        with prepared("sh", "-c", script) as made:
            task = await running(made, sign)

            await made.end(SECONDS if code == 3 else 0.05)

            assert await task == code


def test_one_that_was_not_started_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    with prepared("sh", "-c", "echo it ran"):
        pass

    assert capfd.readouterr() == ("", "")
