"""Three network namespaces, client, proxy and backend, joined by veth; gone after the block."""

import asyncio
import collections.abc
import contextlib
import ctypes
import dataclasses
import fcntl
import itertools
import os
import pathlib
import random
import shutil
import struct
import subprocess
from typing import Final

import pytest

CLIENT: Final = "10.77.1.1"
PROXY_TO_CLIENT: Final = "10.77.1.2"
PROXY_TO_BACKEND: Final = "10.77.2.2"
BACKEND: Final = "10.77.2.1"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
needs_tools = pytest.mark.skipif(
    not (shutil.which("ip") and shutil.which("nft")),
    reason="needs the packages iproute2 and nftables",
)

needs_tun = pytest.mark.skipif(
    not pathlib.Path("/dev/net/tun").exists(), reason="needs TUN devices"
)

_CLONE_NEWNET: Final = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = itertools.count()


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """Names of the namespaces; links: `eth0` in client and backend, `cl` and `be` in proxy."""

    client: str
    proxy: str
    backend: str

    def tool(self, place: str, *command: str) -> str:
        """Run ip, tc or nft inside `place` and return what it prints."""
        return run("ip", "netns", "exec", place, *command)


def run(*command: str) -> str:
    """Run a program; CalledProcessError when it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def inside(name: str) -> collections.abc.Iterator[None]:
    """Move this thread into a namespace for a block: sockets made there stay there."""
    with pathlib.Path("/proc/thread-self/ns/net").open() as here:
        with pathlib.Path("/run/netns", name).open() as there:
            _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


@contextlib.contextmanager
def namespace(suffix: str = "") -> collections.abc.Iterator[str]:
    """One namespace, with its loopback up."""
    name = f"relay-{os.getpid()}-{next(_NUMBERS)}{suffix}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def network() -> collections.abc.Iterator[Network]:
    """Make the namespaces and links; remove them also after a failure half-way."""
    with namespace("-cl") as client, namespace("-px") as proxy, namespace("-be") as backend:
        made = Network(client, proxy, backend)
        _link(made.client, CLIENT, made.proxy, "cl", PROXY_TO_CLIENT)
        _link(made.backend, BACKEND, made.proxy, "be", PROXY_TO_BACKEND)
        yield made


@contextlib.contextmanager
def unruly_network(seed: int) -> collections.abc.Iterator[tuple[Network, "Disorder"]]:
    """As `network`, but what joins the namespaces are TUN devices and a `Disorder` between them.

    netem would do, where the kernel has it. `Disorder.run` must run for a packet to pass.
    """
    with namespace("-cl") as client, namespace("-px") as proxy, namespace("-be") as backend:
        made = Network(client, proxy, backend)
        with contextlib.ExitStack() as fds:

            def device(place: str, name: str, address: str) -> int:
                with inside(place):
                    fd = _tun(name)
                fds.callback(os.close, fd)
                run("ip", "-n", place, "addr", "add", f"{address}/24", "dev", name)
                run("ip", "-n", place, "link", "set", name, "up")
                return fd

            pairs = (
                (device(client, "eth0", CLIENT), device(proxy, "cl", PROXY_TO_CLIENT)),
                (device(backend, "eth0", BACKEND), device(proxy, "be", PROXY_TO_BACKEND)),
            )
            yield made, Disorder(pairs, random.Random(seed))


class Disorder:
    """Carries packets between pairs of TUN devices, and loses, doubles and delays some of them.

    It does so once a test has set `has_begun`: the handshakes before would else fail now and then,
    each attempt of which has a timeout.
    """

    LOST, DOUBLED, DELAYED = 0.02, 0.03, 0.05

    def __init__(
        self, pairs: collections.abc.Sequence[tuple[int, int]], chance: random.Random
    ) -> None:
        self._chance = chance
        self._ways = [way for near, far in pairs for way in ((near, far), (far, near))]
        self._held: dict[int, list[bytes]] = {far: [] for _, far in self._ways}
        self.lost = self.doubled = self.delayed = 0
        self.has_begun = False

    @contextlib.contextmanager
    def run(self, loop: asyncio.AbstractEventLoop) -> collections.abc.Iterator[None]:
        """Carry packets on `loop` for a block."""
        for near, far in self._ways:
            loop.add_reader(near, self._carry, near, far)
        try:
            yield
        finally:
            for near, _ in self._ways:
                loop.remove_reader(near)

    def _carry(self, near: int, far: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                self._pass_on(os.read(near, 65536), far)
        held = self._held[far]
        while held:  # behind what came after them
            self._put(far, held.pop())

    def _pass_on(self, packet: bytes, far: int) -> None:
        drawn = self._chance.random() if self.has_begun else 0.5
        if drawn < self.LOST:
            self.lost += 1
        elif drawn < self.LOST + self.DELAYED:
            self.delayed += 1
            self._held[far].append(packet)
        else:
            self._put(far, packet)
            if drawn > 1 - self.DOUBLED:
                self.doubled += 1
                self._put(far, packet)

    @staticmethod
    def _put(far: int, packet: bytes) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # a full queue loses packets, too
            os.write(far, packet)


def _tun(name: str) -> int:
    """A TUN device of the namespace this thread is in; gone when its descriptor is closed."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = 0x0001 | 0x1000  # IFF_TUN, IFF_NO_PI
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))  # TUNSETIFF
    except OSError:
        os.close(fd)
        raise
    return fd


def _link(outer: str, address: str, proxy: str, interface: str, proxy_address: str) -> None:
    run(
        "ip",
        "-n",
        proxy,
        "link",
        "add",
        interface,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        outer,
    )
    for name, device, ip in ((outer, "eth0", address), (proxy, interface, proxy_address)):
        run("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace; root is needed")
