"""Who may listen where, and whose socket is replaced."""

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.ops.serving import places


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kproxy" / "control.sock"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_socket_is_for_its_owner_alone_whatever_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        bound = places.UnixPlace(path).bind()
    finally:
        os.umask(old)

    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert bound.address == str(path)
    bound.close()
    assert not path.exists()


def test_what_a_dead_process_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    bound = places.UnixPlace(path).bind()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_a_living_process_keeps_its_socket_and_is_named(path: Path) -> None:
    first = places.UnixPlace(path).bind()

    with pytest.raises(errors.KproxyError, match=f"process {os.getpid()} listens.*--control"):
        places.UnixPlace(path).bind()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_living_process_that_is_too_busy_to_accept_keeps_its_socket(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))

        with pytest.raises(errors.KproxyError, match="another process listens there"):
            places.UnixPlace(path).bind()

    assert path.exists()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.write_text("precious"), id="a file"),
        pytest.param(lambda path: path.mkdir(), id="a directory"),
        pytest.param(lambda path: path.symlink_to("/nowhere"), id="a link to nothing"),
    ],
)
def test_anything_else_is_left_alone(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.mkdir()
    make(path)
    before = path.lstat()

    with pytest.raises(errors.KproxyError, match="something other than a socket"):
        places.UnixPlace(path).bind()

    assert path.lstat() == before


def test_closing_leaves_the_socket_of_a_successor(path: Path) -> None:
    first = places.UnixPlace(path).bind()
    path.unlink()
    second = places.UnixPlace(path).bind()

    first.close()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()


def test_two_that_start_at_once_do_not_remove_each_others_socket(path: Path) -> None:
    path.parent.mkdir()
    holder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)

    with pytest.raises(errors.KproxyError, match="--control"):
        places.UnixPlace(path).bind()

    os.close(holder)
    places.UnixPlace(path).bind().close()


@pytest.mark.parametrize("bits", [0o770, 0o701, 0o755])
def test_a_default_place_that_others_can_get_at_is_refused(path: Path, bits: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(bits)

    with pytest.raises(errors.KproxyError, match="open to other users"):
        places.UnixPlace(path, is_private=True).bind()

    assert not path.exists()


def test_a_default_place_behind_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    path.parent.symlink_to(target)

    with pytest.raises(errors.KproxyError, match="--control"):
        places.UnixPlace(path, is_private=True).bind()

    assert list(target.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_default_place_that_belongs_to_someone_else_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 65534, 65534)

    with pytest.raises(errors.KproxyError, match="open to other users"):
        places.UnixPlace(path, is_private=True).bind()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(places.UnixPlace(Path("/nowhere/at/all.sock")), id="no directory"),
        pytest.param(places.UnixPlace(Path("/tmp", "x" * 200)), id="a path that is too long"),
        pytest.param(places.UnixPlace(Path("/proc/kproxy.sock")), id="no right to write"),
        pytest.param(places.TcpPlace("192.0.2.1", 0, "--control"), id="an address elsewhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(place: places.Place) -> None:
    with pytest.raises(errors.KproxyError, match=r"^cannot .*; .*--control"):
        place.bind()


def test_ipv6_is_written_in_brackets() -> None:
    bound = places.TcpPlace("::1", 0, "--flag").bind()

    assert bound.address == f"[::1]:{bound.socket.getsockname()[1]}"
    bound.close()


def test_any_address_takes_both_families() -> None:
    bound = places.TcpPlace("::", 0, "--flag").bind()
    port = bound.socket.getsockname()[1]

    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=30).close()
    bound.close()


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        pytest.param("/run/user/7", "/run/user/7/kproxy.sock", id="as the session says"),
        pytest.param("", "/tmp/kproxy-7/kproxy.sock", id="no session"),
        pytest.param("run", "/tmp/kproxy-7/kproxy.sock", id="a relative path, which is void"),
    ],
)
def test_the_default_path_is_in_a_directory_of_this_users_own(runtime: str, expected: str) -> None:
    assert places.default_control_path({"XDG_RUNTIME_DIR": runtime}, 7) == Path(expected)
