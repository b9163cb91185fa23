"""The ready file in places that change, or that it cannot have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.ops.views import ready_file


def write(file: ready_file.ReadyFile, *pieces: bytes) -> None:
    """All steps of writing."""
    for _ in file.write(pieces):
        pass


def test_it_appears_whole_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    file = ready_file.ReadyFile(path)
    steps = file.write([b"a", b"b"])
    next(steps)
    assert not path.exists()

    assert list(steps)
    assert path.read_bytes() == b"ab"
    assert [each.name for each in tmp_path.iterdir()] == ["ready.json"]

    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()


def test_writing_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    file = ready_file.ReadyFile(tmp_path / "ready.json")
    steps = file.write([b"a", b"b"])
    next(steps)
    assert isinstance(steps, Iterator)
    steps.close()  # type: ignore[attr-defined]  # it is a generator

    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_from_a_directory_that_was_moved_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = ready_file.ReadyFile(folder / "ready.json")
    write(file, b"{}")
    folder.rename(tmp_path / "old")
    folder.mkdir()
    (folder / "ready.json").write_text("another's")

    file.remove()

    assert list((tmp_path / "old").iterdir()) == []
    assert (folder / "ready.json").read_text() == "another's"


@pytest.mark.parametrize("replacement", ["file", "nothing", "loop"])
def test_a_directory_that_was_replaced_by_something_else_is_no_failure_at_exit(
    tmp_path: Path, replacement: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = ready_file.ReadyFile(folder / "ready.json")
    write(file, b"{}")
    folder.rename(tmp_path / "old")
    if replacement == "file":
        folder.touch()
    elif replacement == "loop":
        folder.symlink_to(folder)

    file.remove()

    assert list((tmp_path / "old").iterdir()) == []


def test_the_file_of_a_later_proxy_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    file = ready_file.ReadyFile(path)
    write(file, b"{}")
    later = ready_file.ReadyFile(path)
    write(later, b"later")

    file.remove()

    assert path.read_bytes() == b"later"
    later.remove()
    assert not path.exists()


@pytest.mark.parametrize("gone", ["removed", "file", "loop", "full"])
def test_a_place_that_cannot_be_written_any_more_is_a_sentence(tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = ready_file.ReadyFile(folder / "ready.json")
    folder.rmdir()
    if gone == "file":
        folder.touch()
    elif gone == "loop":
        folder.symlink_to(folder)
    elif gone == "full":
        folder.mkdir()

        def full() -> Iterator[bytes]:
            yield b"a"
            raise OSError(28, "No space left on device")

        with pytest.raises(errors.KproxyError, match=f"{folder}/ready.json: the disk is full"):
            list(file.write(full()))
        assert list(folder.iterdir()) == []
        return

    with pytest.raises(errors.KproxyError, match=f"cannot write the ready file {folder}"):
        write(file, b"{}")
    file.remove()


@pytest.mark.parametrize(
    "place", ["loop", "loop/ready.json", "x" * 300, f"{'x' * 300}/ready.json", "a/../loop"]
)
def test_a_place_that_cannot_be_is_refused_with_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(errors.ConfigError, match=r"^--ready-file "):
        ready_file.check(tmp_path / place, [])


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    file = ready_file.ReadyFile(tmp_path / ("x" * 255))
    ready_file.check(tmp_path / ("x" * 255), [])
    write(file, b"{}")

    assert (tmp_path / ("x" * 255)).exists()
    file.remove()


def test_manifests_that_lead_round_in_a_circle_are_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    ready_file.check(tmp_path / "ready.json", [tmp_path / "loop"])
