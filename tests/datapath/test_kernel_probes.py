"""What this kernel does in the corners that the data path relies on, or has to work around.

None of this tests kproxy. When a line here fails on another kernel, what is built on it is in
doubt: the comments say what that is.
"""

import array
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from kproxy.datapath import syscalls
from tests.datapath.rig import harness, scripts

KERNEL = syscalls.Kernel()
RESET = struct.pack("ii", 1, 0)
LOCALHOST = ("127.0.0.1", 0)
_TCP_USER_TIMEOUT = 18
_F_GETPIPE_SZ = 1032

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a namespace or a setuid")


class Sockets:
    """TCP connections over loopback, and pipes."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        self._stack.close()

    def keep(self, sock: socket.socket) -> socket.socket:
        return self._stack.enter_context(sock)

    def listener(self, backlog: int = 16) -> socket.socket:
        sock = self.keep(socket.socket())
        sock.bind(LOCALHOST)
        sock.listen(backlog)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection; the first does not block."""
        with self.listener() as listener:
            far = self.keep(socket.create_connection(listener.getsockname()))
            near = self.keep(listener.accept()[0])
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setblocking(False)
        return near, far

    def pipe(self, size: int = 65536) -> tuple[int, int]:
        read_end, write_end, _ = KERNEL.pipe(size)
        self._stack.callback(os.close, read_end)
        self._stack.callback(os.close, write_end)
        return read_end, write_end


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def wait(sock: socket.socket, mask: int) -> int:
    """Wait until poll(2) reports all of `mask`; returns what it reported last."""
    poll = select.poll()
    poll.register(sock, mask)
    seen = 0

    def has_come() -> bool:
        nonlocal seen
        seen = sum(each for _, each in poll.poll(1))
        return seen & mask == mask

    harness.settled(has_come, f"poll(2) reports {mask:#x}")
    return seen


def arrived(sock: socket.socket, count: int) -> None:
    """Wait until `count` bytes are in the receive queue."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    wait(sock, select.POLLIN)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def test_splice_returns_zero_at_the_end_and_eagain_before_it(sockets: Sockets) -> None:
    near, far = sockets.pair()
    _, write_end = sockets.pipe()
    with pytest.raises(BlockingIOError):
        KERNEL.splice(near.fileno(), write_end, 65536)
    far.shutdown(socket.SHUT_WR)
    wait(near, select.POLLIN)
    assert KERNEL.splice(near.fileno(), write_end, 65536) == 0


def test_a_pipe_full_of_one_byte_segments_makes_splice_say_eagain_with_bytes_left(
    sockets: Sockets,
) -> None:
    """Why the pipe is filled only when it is empty: EAGAIN would else be ambiguous."""
    near, far = sockets.pair()
    _, write_end = sockets.pipe(4096)
    for _ in range(64):
        far.send(b"x")
    arrived(near, 64)
    moved = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            moved += KERNEL.splice(near.fileno(), write_end, 65536)
    assert moved < fcntl.fcntl(write_end, _F_GETPIPE_SZ)
    assert KERNEL.unread(near.fileno()) + moved == 64


@pytest.mark.parametrize("with_fin", [False, True], ids=["open", "with FIN"])
def test_splice_stops_at_the_urgent_mark_with_bytes_left(sockets: Sockets, with_fin: bool) -> None:
    """Why only recv decides on the end: after a FIN, 0 is returned with data still queued."""
    near, far = sockets.pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    _, write_end = sockets.pipe()
    far.send(b"ab")
    far.send(b"!", socket.MSG_OOB)
    far.send(b"cd")
    arrived(near, 5)
    if with_fin:
        far.shutdown(socket.SHUT_WR)
        wait(near, select.POLLRDHUP)
    wait(near, select.POLLPRI)
    assert KERNEL.splice(near.fileno(), write_end, 65536) == 2
    if with_fin:
        assert KERNEL.splice(near.fileno(), write_end, 65536) == 0
    else:
        with pytest.raises(BlockingIOError):
            KERNEL.splice(near.fileno(), write_end, 65536)
    assert near.recv(100) == b"!cd"


def test_a_read_stops_at_the_urgent_mark_in_line(sockets: Sockets) -> None:
    """Why a short read does not mean drained once EPOLLPRI was seen."""
    near, far = sockets.pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    far.send(b"ab")
    far.send(b"!", socket.MSG_OOB)
    wait(near, select.POLLPRI)
    assert near.recv(100) == b"ab"
    assert near.recv(100) == b"!"


def test_a_read_after_rdhup_takes_everything_up_to_the_fin(sockets: Sockets) -> None:
    """Why a short read after EPOLLRDHUP is taken for the end."""
    near, far = sockets.pair()
    for size in (1, 1000, 10, 5000):
        far.send(b"x" * size)
    far.shutdown(socket.SHUT_WR)
    wait(near, select.POLLRDHUP)
    assert len(near.recv(65536)) == 6011
    assert near.recv(65536) == b""


def test_data_queued_before_a_reset_is_readable_after_it(sockets: Sockets) -> None:
    near, far = sockets.pair()
    far.send(b"last words")
    reset(far)
    wait(near, select.POLLERR)
    assert near.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        near.recv(100)


def test_a_reset_is_reported_once_and_then_reads_as_a_clean_end(sockets: Sockets) -> None:
    """Why a leg remembers that it failed: SO_ERROR, send and recv all take the error away."""
    near, far = sockets.pair()
    reset(far)
    wait(near, select.POLLERR)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert near.recv(100) == b""


@pytest.mark.parametrize("unread", [False, True])
def test_closing_with_unread_bytes_resets(sockets: Sockets, unread: bool) -> None:
    """Why a leg is not closed while its other direction flushes (RFC 2525, 2.17)."""
    near, far = sockets.pair()
    if unread:
        far.send(b"never read")
        wait(near, select.POLLIN)
    near.close()
    if unread:
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    else:
        assert far.recv(1) == b""


@pytest.mark.parametrize("linger", [False, True], ids=["as it is", "armed"])
def test_a_killed_process_ends_its_connections_cleanly_unless_armed(
    sockets: Sockets, linger: bool
) -> None:
    """Why connections that last get a reset on close: a cut transfer would look complete."""
    listener = sockets.listener()
    script = f"""
        import socket, struct, sys, time
        sock = socket.create_connection({listener.getsockname()!r})
        if {linger}:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.send(b"half")
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command) as process:
        peer = sockets.keep(listener.accept()[0])
        assert peer.recv(4) == b"half"
        process.send_signal(signal.SIGKILL)
    if linger:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    else:
        assert peer.recv(1) == b""


def test_rdhup_and_hup_come_with_unread_bytes(sockets: Sockets) -> None:
    """Why no event decides anything: acting on HUP would cut the last bytes off."""
    near, far = sockets.pair()
    far.send(b"last words")
    far.shutdown(socket.SHUT_WR)
    seen = wait(near, select.POLLIN | select.POLLRDHUP)
    assert not seen & (select.POLLHUP | select.POLLERR)
    near.shutdown(socket.SHUT_WR)
    wait(near, select.POLLIN | select.POLLRDHUP | select.POLLHUP)
    assert near.recv(100) == b"last words"


def test_an_unconnected_socket_reports_hup(sockets: Sockets) -> None:
    """Why a dialling socket is registered after connect(2)."""
    sock = sockets.keep(socket.socket())
    assert wait(sock, select.POLLOUT | select.POLLHUP)


def test_an_edge_triggered_listener_is_silent_about_clients_already_waiting(
    sockets: Sockets,
) -> None:
    """Why listeners are level-triggered: after EMFILE the queue would be forgotten."""
    listener = sockets.listener()
    with select.epoll() as edge, select.epoll() as level:
        edge.register(listener, select.EPOLLIN | select.EPOLLET)
        level.register(listener, select.EPOLLIN)
        for _ in range(2):
            sockets.keep(socket.create_connection(listener.getsockname()))
        harness.settled(lambda: harness.accept_queue(listener)[0] == 2, "both are in the queue")
        assert edge.poll(1)
        sockets.keep(listener.accept()[0])  # then accept(2) says EMFILE, and one client is left
        assert edge.poll(0) == []
        assert level.poll(0)
        sockets.keep(listener.accept()[0])


def test_modifying_a_registration_reports_readiness_anew(sockets: Sockets) -> None:
    """What the watchdog and the faulty kernel of these tests rely on."""
    near, far = sockets.pair()
    far.send(b"x")
    wait(near, select.POLLIN)
    mask = select.EPOLLIN | select.EPOLLET
    with select.epoll() as epoll:
        epoll.register(near, mask)
        assert epoll.poll(1)
        assert epoll.poll(0) == []
        epoll.modify(near, mask)
        assert epoll.poll(0) == [(near.fileno(), select.EPOLLIN)]


def test_a_closed_descriptor_number_is_given_out_again_at_once(sockets: Sockets) -> None:
    """Why sockets are closed only after the last event of a batch."""
    near, _ = sockets.pair()
    number = near.fileno()
    near.close()
    assert sockets.keep(socket.socket()).fileno() <= number


_REUSEPORT = """
    import socket
    def listen(port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(64)
        return sock
    first = listen(0)
    second = listen(first.getsockname()[1])
    clients = [socket.create_connection(first.getsockname()) for _ in range(32)]
    first.close()
    resets = 0
    for client in clients:
        client.settimeout(0.01)
        try:
            client.recv(1)
        except ConnectionResetError:
            resets += 1
        except TimeoutError:
            pass
    print(resets)
"""


def test_closing_one_of_several_listeners_resets_the_clients_in_its_queue() -> None:
    """Why a listener's queue is served before it is closed, and why groups are not shrunk."""
    assert 0 < int(scripts.run(_REUSEPORT)) < 32


@needs_root
@pytest.mark.netns
def test_with_tcp_migrate_req_the_queue_goes_to_another_listener() -> None:
    script = f"""
        import subprocess
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with open("/proc/sys/net/ipv4/tcp_migrate_req", "w") as file:
            file.write("1")
        {textwrap.indent(textwrap.dedent(_REUSEPORT), " " * 8).strip()}
    """
    assert scripts.run(script, *scripts.IN_NAMESPACE) == "0"


@needs_root
def test_past_its_share_of_pipe_pages_a_user_gets_small_pipes_and_eperm() -> None:
    """Why the size of a pipe is asked for and not believed in."""
    script = """
        import fcntl, os
        soft = int(open("/proc/sys/fs/pipe-user-pages-soft").read())
        os.setgroups([]); os.setgid(65534); os.setuid(54321)
        pipes, refused = [], False
        while len(pipes) <= soft // 256 + 1 and not refused:
            pipes.append(os.pipe())
            try:
                fcntl.fcntl(pipes[-1][1], 1031, 1 << 20)
            except PermissionError:
                refused = True
        print(soft, refused, fcntl.fcntl(os.pipe()[1], 1032))
    """
    soft, refused, size = scripts.run(script).split()
    if soft == "0":
        pytest.skip("fs.pipe-user-pages-soft is off")
    assert refused == "True"
    assert int(size) < 65536


def test_a_socket_can_be_connected_to_itself(sockets: Sockets) -> None:
    """Why dials to ephemeral ports compare both ends."""
    sock = sockets.keep(socket.socket())
    sock.bind(LOCALHOST)
    sock.connect(sock.getsockname())
    assert sock.getsockname() == sock.getpeername()
    sock.send(b"echo")
    assert sock.recv(4) == b"echo"


def test_queue_lengths_are_true_for_spliced_sockets(sockets: Sockets) -> None:
    """What the stall watchdog looks at."""
    near, far = sockets.pair()
    out, out_far = sockets.pair()
    read_end, write_end = sockets.pipe()
    far.send(b"x" * 1000)
    arrived(near, 1000)
    assert KERNEL.unread(near.fileno()) == 1000
    assert KERNEL.splice(near.fileno(), write_end, 600) == 600
    assert KERNEL.unread(near.fileno()) == 400
    assert KERNEL.splice(read_end, out.fileno(), 600) == 600
    assert out_far.recv(600, socket.MSG_WAITALL) == b"x" * 600
    harness.settled(lambda: KERNEL.unsent(out.fileno()) == 0, "all is acknowledged")


def test_a_message_carries_253_descriptors_and_no_more() -> None:
    """How many listeners one message can hand over."""
    one, other = socket.socketpair()
    with one, other:
        for count, works in ((253, True), (254, False)):
            rights = array.array("i", [one.fileno()] * count)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            if works:
                assert one.sendmsg([b"x"], ancillary) == 1
            else:
                with pytest.raises(OSError, match=r"Invalid argument|Too many references"):
                    one.sendmsg([b"x"], ancillary)
        _, received, _, _ = other.recvmsg(1, socket.CMSG_SPACE(4 * 253))
        for _, _, data in received:
            for fd in array.array("i", data):
                os.close(fd)


_ANY_IP = """
    import os, socket, subprocess
    def run(*command):
        subprocess.run(command, check=True)
    run("ip", "link", "set", "lo", "up")
    run("ip", "route", "add", "local", "10.96.0.0/12", "dev", "lo")
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    listener = socket.socket()
    listener.bind(("10.96.0.10", 8080))
    listener.listen()
    client, late = socket.socket(), socket.socket()
    client.connect(("10.96.0.10", 8080))
    try:
        late.connect(("10.96.0.11", 8080))
        refused = False
    except ConnectionRefusedError:
        refused = True
    stranger = socket.socket()
    try:
        stranger.bind(("192.0.2.1", 8080))
        plain = True
    except OSError:
        plain = False
    stranger.setsockopt(socket.IPPROTO_IP, 15, 1)
    stranger.bind(("192.0.2.1", 8080))
    print(listener.accept()[1][0], refused, plain)
"""


@needs_root
@pytest.mark.netns
def test_a_local_route_makes_a_whole_network_bindable_and_freebind_any_address() -> None:
    """Neither bind needs a privilege; an address of the route where nothing listens refuses."""
    assert scripts.run(_ANY_IP, *scripts.IN_NAMESPACE) == "10.96.0.10 True False"


def test_a_zero_window_and_a_user_timeout_end_a_connection_to_a_live_peer(
    sockets: Sockets,
) -> None:
    """Why TCP_USER_TIMEOUT is not for relays: window probes count, though they are answered."""
    listener = sockets.keep(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(LOCALHOST)
    listener.listen()
    sender = sockets.keep(socket.create_connection(listener.getsockname()))
    sockets.keep(listener.accept()[0])
    sender.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 500)
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(b"x" * 65536)
    wait(sender, select.POLLERR)
    assert sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT


def test_accepted_sockets_inherit_the_options_of_their_listener(sockets: Sockets) -> None:
    """Why they are set once, on the listener."""
    listener = sockets.listener()
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
    ]
    for level, option, value in options:
        listener.setsockopt(level, option, value)
    sockets.keep(socket.create_connection(listener.getsockname()))
    accepted = sockets.keep(listener.accept()[0])
    for level, option, value in options:
        assert accepted.getsockopt(level, option) == value


def test_accepted_sockets_inherit_their_listener_s_congestion_control(sockets: Sockets) -> None:
    listener = sockets.listener()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    sockets.keep(socket.create_connection(listener.getsockname()))
    accepted = sockets.keep(listener.accept()[0])
    assert harness.congestion_control(accepted) == b"reno"


def test_a_listener_with_a_full_queue_answers_no_syn(sockets: Sockets) -> None:
    """How these tests make a black hole."""
    listener = sockets.listener(0)
    sockets.keep(socket.create_connection(listener.getsockname()))
    harness.settled(lambda: harness.accept_queue(listener)[0] == 1, "the queue is full")
    late = sockets.keep(socket.socket())
    late.setblocking(False)
    assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    poll = select.poll()
    poll.register(late, select.POLLOUT | select.POLLERR)
    assert poll.poll(100) == []
