"""Puts the proxy under test behind the fixture `proxied`: `kproxy run`, and on a faulty kernel.

Both run in a process of their own, one for the whole session, since a case leaves nothing behind.
"""

import collections.abc
import contextlib
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import steady_time
from tests.e2e.rig import daemon, manifests
from tests.relay import netns, proxying, rig

HALF_CLOSE_TIMEOUT = 8.0
"""Seconds; what the proxies are configured with and R27 judges. Longer than a half-closed peer is
silent in the long lane (5 s, R02), or anywhere on a machine that lets nothing run for a while."""

KEEPALIVE_IDLE = 3
"""Seconds; a peer that vanished is given up after twice that."""

DEAD_PEER_LIMIT = 15.0
"""Seconds within which the proxy must have given up a peer that vanished; R25 and R26 judge it."""

_MANIFEST = """
apiVersion: v1
kind: Service
metadata: {{name: relay, annotations: {annotations}}}
spec: {{clusterIP: "{cluster_ip}", ports: [{{port: {service_port}}}]}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: relay}}
subsets: [{{addresses: [{{ip: "{host}"}}], ports: [{{port: {port}}}]}}]
"""


def pytest_asyncio_loop_factories() -> dict[
    str, collections.abc.Callable[[], steady_time.SteadyLoop]
]:
    """No deadline of a case is over because the suite could not run."""
    return {"steady": steady_time.SteadyLoop}


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A proxy in a process of its own."""

    address: rig.Address
    pid: int


@contextlib.contextmanager
def kproxy_run(
    backend: rig.Address,
    folder: pathlib.Path,
    half_close_timeout: float = HALF_CLOSE_TIMEOUT,
    *more_flags: str,
    cluster_ip: str = "",
    annotations: collections.abc.Mapping[str, str] | None = None,
) -> collections.abc.Iterator[Running]:
    """`kproxy run`, as users start it. At its end nothing may have gone wrong unseen.

    `cluster_ip` is an address for the portal that the flags ask for.
    """
    manifest = folder / "relay.yaml"
    text = _MANIFEST.format(
        cluster_ip=cluster_ip or manifests.fresh_ip(127),
        service_port=manifests.PORT,
        host=backend[0],
        port=backend[1],
        annotations=json.dumps(dict(annotations or {})),
    )
    manifest.write_text(text)
    flags = (
        *("--half-closed-timeout", str(half_close_timeout)),
        *("--keepalive-idle", str(KEEPALIVE_IDLE)),
        # Its sockets are counted.
        *("--control", ""),
        *more_flags,
    )
    with daemon.running(folder, manifest, *flags) as proxy:
        yield Running(proxy.address("relay"), proxy.pid)
        assert proxy.stop() == 0
        assert not proxy.log_lines("error"), proxy.log()
        assert not proxy.log_lines("Traceback"), proxy.log()


@contextlib.contextmanager
def data_path(
    backend: rig.Address,
    *flags: str,
    host: str = "127.0.0.1",
    half_close_timeout: float = HALF_CLOSE_TIMEOUT,
    keepalive_idle: int = KEEPALIVE_IDLE,
) -> collections.abc.Iterator[Running]:
    """The data path alone, on a kernel that may be faulty. At its end it holds nothing."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.datapath.rig.faulty_proxy"),
            *(f"{host}:0", f"{backend[0]}:{backend[1]}"),
            *("--half-close-timeout", str(half_close_timeout)),
            *("--keepalive-idle", str(keepalive_idle), *flags),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            word, _, address = process.stdout.readline().strip().partition(" ")
            assert word == "ready", word
            yield Running((host, int(address.rpartition(":")[2])), process.pid)
            process.send_signal(signal.SIGTERM)
            counters = json.loads(process.stdout.read().splitlines()[-1])
            for name in (
                "bugs",
                "inconsistent",
                "connections",
                "left_at_end",
                "lent_pipes",
                "stalls_recovered",
            ):
                assert counters[name] == 0, counters
        finally:
            daemon.end(process)


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """A proxy that is asked for everything."""

    name: str
    loopback: str = "127.0.0.1"
    """Where the backend is."""
    kernel: str = ""
    """Of the data path alone; "" for `kproxy run`."""
    flags: collections.abc.Sequence[str] = ()
    cluster_ip: str = ""
    """An address for the portal that `flags` ask for; "" for one of the loopback portal."""
    annotations: collections.abc.Mapping[str, str] = dataclasses.field(default_factory=dict)
    greet: rig.Exchange | None = None
    expect_greeting: rig.Exchange | None = None


def _options(version: str) -> dict[str, str]:
    """Headers to the backend, and limits on lifetimes that are not met."""
    return {
        "kproxy.io/proxy-protocol": version,
        "kproxy.io/max-connection-age": "1h",
        "kproxy.io/on-endpoint-removed": "drain",
    }


_LOCAL = ("--portal", "local", "--service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112")
_PLAIN = (*_LOCAL, "--no-bpf")
_V4, _V6 = "10.96.0.10", "fd00:10:96::a"

_MORE = (
    Variant("faulty kernel", kernel="rough"),
    Variant("data path, IPv6", "::1", kernel="real"),
    Variant(
        "PROXY v1 to the backend",
        annotations=_options("v1"),
        expect_greeting=proxying.reads_v1,
    ),
    Variant(
        "PROXY v2 on both sides",
        flags=("--proxy-protocol-from", "127.0.0.0/8"),
        annotations=_options("v2"),
        greet=proxying.sends_v2,
        expect_greeting=proxying.reads_v2,
    ),
)
_NEED_ROOT = (
    Variant("local by sk_lookup, IPv4", flags=_LOCAL, cluster_ip=_V4),
    Variant("local by sk_lookup, IPv6", "::1", flags=_LOCAL, cluster_ip=_V6),
    Variant("local by sockets, IPv4", flags=_PLAIN, cluster_ip=_V4),
    Variant("local by sockets, IPv6", "::1", flags=_PLAIN, cluster_ip=_V6),
)


@pytest.fixture(
    scope="package",
    params=[
        Variant("kproxy run"),
        *(pytest.param(each, marks=pytest.mark.extra) for each in _MORE),
        *(
            pytest.param(each, marks=[pytest.mark.extra, pytest.mark.netns, netns.needs_root])
            for each in _NEED_ROOT
        ),
    ],
    ids=lambda variant: variant.name,
)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> collections.abc.Iterator[rig.Target]:
    """Yield a proxy in front of a backend listener, both until the suite is done."""
    variant: Variant = request.param
    with rig.listen((variant.loopback, 0)) as listener:
        backend = listener.getsockname()
        if variant.kernel:
            started = data_path(
                backend,
                *("--kernel", variant.kernel),
                host=variant.loopback,
            )
        else:
            started = kproxy_run(
                backend,
                tmp_path_factory.mktemp("relay"),
                HALF_CLOSE_TIMEOUT,
                *variant.flags,
                cluster_ip=variant.cluster_ip,
                annotations=variant.annotations,
            )
        with started as proxy:
            yield rig.Target(
                proxy.address,
                listener,
                proxy.pid,
                HALF_CLOSE_TIMEOUT,
                greet=variant.greet,
                expect_greeting=variant.expect_greeting,
            )


@pytest.fixture
async def proxied(running: rig.Target) -> rig.Target:
    """Yield the proxy under test."""
    return running
