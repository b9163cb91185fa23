"""A file is replaced as a whole, or not at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.system import files


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_takes_the_place_of_another_one(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_bytes(b"old")
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["report"]


def test_a_private_file_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(b"old")
    path.chmod(0o644)
    files.replace(path, b"secret", mode=files.PRIVATE)
    assert mode_of(path) == 0o600


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    files.replace(path, b"")
    assert path.exists()


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    link = tmp_path / "link"
    link.symlink_to(target)
    files.replace(link, b"new")
    assert target.read_bytes() == b"kept"
    assert not link.is_symlink()


def test_nothing_is_left_of_a_file_that_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "taken", b"new")
    assert names_in(tmp_path) == ["taken"]


@pytest.mark.parametrize("ends", ["closed", "failed"])
def test_nothing_is_left_of_a_file_that_is_not_finished(tmp_path: Path, ends: str) -> None:
    (tmp_path / "ready").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    directory = files.open_directory(tmp_path)
    try:
        steps = files.replace_steps(directory, "ready", pieces())
        next(steps)
        assert len(names_in(tmp_path)) == 2
        if ends == "closed":
            steps.close()
        else:
            with pytest.raises(ZeroDivisionError):
                next(steps)
    finally:
        os.close(directory)
    assert names_in(tmp_path) == ["ready"]
    assert (tmp_path / "ready").read_bytes() == b"old"


def test_a_directory_that_is_moved_meanwhile_gets_the_file(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    directory = files.open_directory(there)
    try:
        steps = files.replace_steps(directory, "ready", (b"done",))
        next(steps)
        there.rename(tmp_path / "moved")
        assert list(steps) == []
    finally:
        os.close(directory)
    assert (tmp_path / "moved" / "ready").read_bytes() == b"done"


def test_a_directory_that_cannot_be_written_to_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "missing" / "report", b"new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        files.replace(tmp_path / "file" / "report", b"new")
