"""What stands in the place of a kubeconfig's file holds nothing up, and ends in one sentence."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.sources.access import credentials, kubeconfig, rest_config, small_files
from tests.sources.access.test_credentials import Clock, made
from tests.sources.access.test_kubeconfig import config, user, write


def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * small_files.MAX_BYTES)
    assert len(small_files.read(path, "token file")) == small_files.MAX_BYTES
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(errors.ConfigError, match=r"token file: .*is larger than"):
        small_files.read(path, "token file")


def a_pipe_without_a_writer(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def a_name_that_is_too_long(tmp_path: Path) -> Path:
    return tmp_path / ("x" * 300)


def a_link_to_itself(tmp_path: Path) -> Path:
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop"


def a_file_below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


def no_end(_: Path) -> Path:
    return Path("/dev/zero")


def a_nul(tmp_path: Path) -> Path:
    return tmp_path / "a\0b"


ODD: list[tuple[Callable[[Path], Path], str]] = [
    (a_pipe_without_a_writer, ""),
    (a_name_that_is_too_long, "file name too long"),
    (a_link_to_itself, "symbolic links"),
    (a_file_below_a_file, "not a directory"),
    (no_end, "is larger than"),
    (a_nul, "embedded null"),
]


@pytest.mark.parametrize(("make", "reason"), ODD, ids=[each[0].__name__ for each in ODD])
async def test_a_token_file_that_is_none_is_an_error_at_once(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    held = made(kubeconfig.User(token_file=make(tmp_path)), Clock(0))
    with pytest.raises(credentials.CredentialsError, match=f"token file.*{reason}"):
        await held.get()


@pytest.mark.parametrize(("make", "reason"), ODD, ids=[each[0].__name__ for each in ODD])
def test_a_kubeconfig_that_is_none_is_said_with_its_reason(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(errors.ConfigError, match=reason or "has no current-context"):
        kubeconfig.read([make(tmp_path)], None)


async def test_a_pipe_whose_writer_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    path = a_pipe_without_a_writer(tmp_path)
    writer = os.open(path, os.O_RDWR)
    try:
        held = made(kubeconfig.User(token_file=path), Clock(0))
        with pytest.raises(credentials.CredentialsError, match="its writer is silent"):
            await held.get()
        with pytest.raises(errors.ConfigError, match="its writer is silent"):
            small_files.read(path, "kubeconfig", patience=0.01)
    finally:
        os.close(writer)


def test_a_kubeconfig_may_come_from_a_command_that_takes_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeconfig, "PIPE_SECONDS", 60.0)
    text = write(tmp_path / "config", config()).read_bytes()
    reading, writing = os.pipe()

    def answer() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(text)

    command = threading.Timer(0.05, answer)
    command.start()
    try:
        assert kubeconfig.read([Path(f"/dev/fd/{reading}")], None).context == "test"
    finally:
        command.join()
        os.close(reading)


def test_a_home_that_does_not_exist_is_part_of_the_name(tmp_path: Path) -> None:
    found = user(tmp_path, tokenFile="~no-such-user-here/token")
    assert found.token_file == tmp_path / "~no-such-user-here" / "token"


def test_a_home_directory_that_cannot_be_entered_has_no_kubeconfig(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", f"/{'x' * 300}")
    assert not rest_config.is_available()
