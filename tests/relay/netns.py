"""Three network namespaces, client, proxy and backend, joined by veth; gone after the block."""

import collections.abc
import contextlib
import ctypes
import dataclasses
import itertools
import os
import pathlib
import shutil
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
