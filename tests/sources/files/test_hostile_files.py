"""Files and names that strangers can make harm nothing: what is good is served and followed."""

import asyncio
import errno
import os
import random
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy import errors
from kproxy.sources.files import directory_watch, manifest_files, manifest_state, manifests
from tests.sources.files.test_manifests import (
    PATIENCE_SECONDS,
    running,
    service,
    settled,
    stream,
)

NAMES = [
    pytest.param(b"\xff", id="not UTF-8"),
    pytest.param(b"\xff.yaml", id="not UTF-8, a manifest"),
    pytest.param(b"a\nb.yaml", id="newline"),
    pytest.param(b"\xed\xa0\x80.yaml", id="surrogate"),
    pytest.param(b"x" * 255, id="long"),
    pytest.param(b"\x1b[31m.yaml", id="escape"),
    pytest.param(b" .yaml", id="space"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["beside", "directory", "parent", "later"])
async def test_h2_a_file_name_that_is_not_ours_stops_nothing(
    tmp_path: Path, name: bytes, place: str
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    file = folder / "web.yaml"
    file.write_text(service("a"))
    stranger = os.fsencode(tmp_path if place == "parent" else folder) + b"/" + name
    if place != "later":
        os.mknod(stranger)
    async with running(folder if place in {"directory", "parent"} else file) as watched:
        if place == "later":
            os.mknod(stranger)
        file.write_text(service("b", "10.0.0.2"))
        await watched.gives("b")
        assert not [each for each in watched.told if "cannot be watched" in str(each)]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(os.mkdir, id="directory"),
        pytest.param(make_socket, id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="/dev/zero"),
        pytest.param(lambda path: path.symlink_to("/dev/tty"), id="/dev/tty"),
        pytest.param(lambda path: path.symlink_to("/proc/kmsg"), id="waits for the kernel"),
        pytest.param(lambda path: path.symlink_to(path), id="link to itself"),
        pytest.param(lambda path: path.symlink_to("nothing"), id="link to nothing"),
        pytest.param(lambda path: path.symlink_to("/proc/self/mem"), id="memory"),
        pytest.param(make_sparse, id="1 TB"),
    ],
)
async def test_h13_what_is_no_file_is_said_and_the_others_are_followed(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "bad.yaml")
    good = tmp_path / "good.yaml"
    good.write_text(service("a"))
    async with running(tmp_path) as watched:
        assert watched.names() == {"a"}
        if not (tmp_path / "bad.yaml").is_symlink():
            assert ["bad.yaml" in str(each) for each in watched.told] == [True]
        good.write_text(service("b"))
        await watched.gives("b")


class Stuck:
    """A file system that does not answer for one name, until `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.let_go = threading.Event()
        self.called = threading.Event()
        self.calls = 0
        read = manifest_files.read_if_changed

        def stuck(path: Path, *args: object, **options: object) -> object:
            if path.name == name:
                self.calls += 1
                self.called.set()
                self.let_go.wait(PATIENCE_SECONDS)
            return read(path, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(manifest_files, "read_if_changed", stuck)


async def test_h13_a_read_that_does_not_end_is_said_and_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "START_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(manifests, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(manifests, "RETRY_SECONDS", 0.05)
    stuck = Stuck(monkeypatch, "hung.yaml")
    (tmp_path / "hung.yaml").write_text(service("hung"))
    good = tmp_path / "good.yaml"
    good.write_text(service("a"))
    async with running(tmp_path) as watched:
        await watched.says("hung.yaml: reading it takes long, and goes on beside the others")
        await watched.gives("a")
        for name in ("b", "c", "d"):
            good.write_text(service(name))
            await watched.gives(name)
        assert stuck.calls == 1  # it is not waited for a second time
        # On a busy machine other calls may take as long.
        assert len([each for each in watched.told if "hung.yaml" in str(each)]) == 1
        stuck.let_go.set()
        await watched.gives("d", "hung")
        await settled(lambda: not watched.source.problems())


async def test_h13_cancelling_does_not_wait_for_a_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch, "hung.yaml")
    (tmp_path / "hung.yaml").write_text(service("hung"))
    source = manifests.ManifestSource([tmp_path], on_problem=lambda _: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.run())
        assert await asyncio.to_thread(stuck.called.wait, PATIENCE_SECONDS)
        task.cancel()
    assert not stuck.let_go.is_set()
    assert not source.has_synced
    stuck.let_go.set()


async def test_more_hung_files_than_threads_leave_the_others_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kproxy.sources.files.background.MAX_LATE", 2)
    monkeypatch.setattr(manifests, "START_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(manifests, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(manifests, "POLL_SECONDS", 0.01)
    stuck = Stuck(monkeypatch, "hung.yaml")
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "hung.yaml").write_text(service(name))
    async with running(*(tmp_path / name for name in "abc")) as watched:
        await watched.says("takes long")
        stuck.let_go.set()
        await watched.gives("a", "b", "c")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["__init__", "add"])
async def test_what_cannot_be_watched_is_said_once_and_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(directory_watch.DirectoryWatch, call, fail)
    monkeypatch.setattr(manifests, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(manifests, "RETRY_SECONDS", 0.02)
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(file) as watched:
        await watched.says(f"changes cannot be watched: {os.strerror(code)}")
        for name in ("b", "c"):
            file.write_text(service(name))
            await watched.gives(name)
        assert len(watched.told) == 1


async def test_a_directory_that_goes_away_leads_to_a_look(tmp_path: Path) -> None:
    told: list[set[Path]] = []
    is_told = asyncio.Event()

    def on_change(changed: set[Path]) -> None:
        told.append(changed)
        is_told.set()

    watch = directory_watch.DirectoryWatch(lambda _: False, on_change)
    try:
        watch.add(tmp_path)
        os.rename(tmp_path, f"{tmp_path}-moved")  # noqa: PTH104 - at once
        async with asyncio.timeout(PATIENCE_SECONDS):
            await is_told.wait()
        assert told == [set()]
    finally:
        watch.close()


@pytest.mark.parametrize("above", [0, 1], ids=["directory", "parent"])
async def test_a_directory_made_again_under_its_old_inode_number_is_followed(
    tmp_path: Path, above: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems such as ext4 give the number of a removed directory to the next one."""
    monkeypatch.setattr(manifests, "RESCAN_SECONDS", 3600.0)
    monkeypatch.setattr(manifests, "MAX_RESCAN_SECONDS", 3600.0)
    monkeypatch.setattr(manifest_files, "_identified", lambda paths: [(p, 1, 1) for p in paths])
    folder = tmp_path / "a" / "b"
    removed = (folder, folder.parent)[above]
    folder.mkdir(parents=True)
    (folder / "web.yaml").write_text(service("one"))
    async with running(folder) as watched:
        for name in ("two", "three"):
            shutil.rmtree(removed)
            folder.mkdir(parents=True)
            (folder / "web.yaml").write_text(service(name))
            await watched.gives(name)
            (folder / "more.yaml").write_text(service(f"more-{name}"))
            await watched.gives(name, f"more-{name}")


@pytest.mark.extra
async def test_a_flood_of_names_beside_the_file_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(file) as watched:
        for number in range(5_000):
            (tmp_path / f"{number}").touch()
        file.write_text(service("b"))
        await watched.gives("b")
        assert len(watched.changes) == 2


async def test_h16_many_bad_documents_are_counted_and_the_good_one_is_served(
    tmp_path: Path,
) -> None:
    bad = "apiVersion: v1\nkind: Service\nmetadata: {name: Bad}\n"
    file = tmp_path / "web.yaml"
    file.write_text(stream(*[bad] * 3_000, service("good")))
    async with running(file) as watched:
        assert watched.names() == {"good"}
        assert len(watched.told) == manifest_state.MAX_PROBLEMS + 1
        assert str(watched.told[-1]).endswith("2900 more findings are not listed")
        assert f"{file}:1, document 1: " in str(watched.told[0])


async def test_a_malformed_document_costs_the_others_in_its_file_nothing(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(stream(service("a"), "a: [\n", service("c")))
    async with running(file) as watched:
        assert watched.names() == {"a", "c"}
        (problem,) = watched.told
        assert str(problem).startswith(f"{file}:6, document 2: not valid YAML: line ")


async def test_an_emptied_file_counts_only_when_it_stays_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "EMPTY_SECONDS", 2 * PATIENCE_SECONDS)
    file = tmp_path / "web.yaml"
    other = tmp_path / "other.yaml"
    file.write_text(stream(service("a"), service("b")))
    other.write_text(service("x"))
    async with running(tmp_path) as watched:
        file.write_text("")
        other.write_text(service("v"))
        await watched.gives("a", "b", "v")  # others are not held up
        file.write_text(stream(service("a"), service("c")))
        await watched.gives("a", "c", "v")
        assert all("a" not in {name.name for name in dirty} for dirty in watched.changes[1:])
        monkeypatch.setattr(manifest_state, "EMPTY_SECONDS", 0.05)
        file.write_text("")
        await watched.gives("v")


async def test_a_file_that_shrinks_to_less_than_half_counts_only_when_it_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "SHRUNK_SECONDS", 2 * PATIENCE_SECONDS)
    file = tmp_path / "web.yaml"
    file.write_text(stream(*(service(name) for name in "abcde")))
    async with running(tmp_path) as watched:
        file.write_text(stream(service("a"), service("b")))
        (tmp_path / "other.yaml").write_text(service("f"))
        await watched.gives(*"abcdef")
        monkeypatch.setattr(manifest_state, "SHRUNK_SECONDS", 0.05)
        (tmp_path / "other.yaml").write_text(service("g"))
        await watched.gives("a", "b", "g")


@pytest.mark.parametrize("name", NAMES)
async def test_s17_a_file_name_writes_no_line_of_its_own(tmp_path: Path, name: bytes) -> None:
    folder = os.fsencode(tmp_path) + b"/" + name[:200]
    os.mkdir(folder)  # noqa: PTH102 - bytes
    os.mknod(folder + b"/" + name[:200] + b".yaml")
    async with running(Path(os.fsdecode(folder))) as watched:
        for text in (*map(str, watched.told), watched.source.describe()):
            assert text.isprintable()
            assert text.encode().isascii()


CORPUS = [
    path.read_bytes()
    for path in sorted((Path(__file__).parent.parent.parent / "fixtures" / "manifests").iterdir())
]


@given(st.sampled_from(CORPUS), st.randoms(use_true_random=False))
def test_s20_mutated_manifests_are_read_or_refused_and_nothing_else(
    text: bytes, dice: random.Random
) -> None:
    data = bytearray(text)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(data))
        end = min(len(data), at + dice.randint(0, 40))
        piece = dice.choice(
            [b"", b"\xff", b"---\n", b"{", b'"', b"\t", b": ", b"&a ", b"*a", b"<<: "]
        )
        data[at:end] = dice.choice([piece, bytes(data[at:end]) * 2, dice.randbytes(3)])
    reading = manifest_files.judged(bytes(data), None, lambda: None, allow_loopback=False)
    assert "bug" not in reading.failure
    for entry in reading.entries:
        assert entry.line >= 1
        assert entry.admission.subject.isprintable()
        assert entry.admission.finding is None or entry.admission.finding.text.isprintable()


async def test_h2_a_working_directory_that_is_removed_and_made_again_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "web.yaml").write_text(service("a"))
    monkeypatch.chdir(folder)
    async with running(Path()) as watched:
        shutil.rmtree(folder)
        await watched.says(".: no such file or directory")
        assert watched.names() == {"a"}
        folder.mkdir()
        (folder / "web.yaml").write_text(service("b", "10.0.0.2"))
        await watched.gives("b")
        assert not [each for each in watched.told if "a bug" in str(each)]


@pytest.mark.parametrize("root", [Path(), Path("../conf/web.yaml")])
async def test_h2_a_relative_path_without_a_working_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(errors.ConfigError, match="the working directory has been removed"):
        manifests.ManifestSource([root], on_problem=lambda _: None)


async def test_h13_files_are_followed_while_a_look_at_their_directory_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a directory of 200,000 entries."""
    let_go = threading.Event()
    entered = threading.Event()
    is_slow = threading.Event()
    listing = manifest_files.listing

    def slow(root: Path, path: Path) -> manifest_files.Listing:
        if is_slow.is_set():
            entered.set()
            let_go.wait(PATIENCE_SECONDS)
        return listing(root, path)

    monkeypatch.setattr(manifest_files, "listing", slow)
    monkeypatch.setattr(manifests, "LISTING_PATIENCE_SECONDS", 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(manifest_state, "LATE_SECONDS", 2 * PATIENCE_SECONDS)
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(tmp_path) as watched:
        monkeypatch.setattr(manifests, "PATIENCE_SECONDS", 0.1)
        is_slow.set()
        for name in ("b", "c"):
            file.write_text(service(name))
            await watched.gives(name)
        assert entered.is_set()
        assert watched.told == []
        monkeypatch.setattr(manifests, "LISTING_PATIENCE_SECONDS", 0.0)
        file.write_text(service("d"))
        await watched.says("looking at it takes long, and goes on beside the others")
        await watched.gives("d")
        is_slow.clear()
        let_go.set()
        await settled(lambda: not watched.source.problems())
        assert len(watched.told) == 1
