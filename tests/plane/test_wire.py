"""Messages survive the way to another process, however their bytes are cut."""

import random
import struct
from typing import Any, get_args

import pytest

from kproxy import events
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding, names
from kproxy.plane import snapshots, wire
from tests.reconcile import builders

WEB = builders.port_of("web")
HERE = addresses.SocketAddress("127.0.9.1", 80)
BOUND = forwarding.PortalAddress(*HERE)
FRONTEND = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", 80)
POLICY = forwarding.Policy(affinity_seconds=10)
TOTALS = snapshots.Totals(
    connections=1, max_connections=2, flows=0, max_flows=1, penalized=3, counters={"bugs": 0}
)
PORT = snapshots.ServicePort(
    active=1,
    accepted=2,
    ended={"C/H": 1},
    bytes_from_clients=3,
    bytes_from_backends=4,
    dial_failures={"ECONNREFUSED": 5},
    listen_drops=6,
    reached=7,
    affinity_entries=None,
    affinity_evictions=None,
)
VIEW = data_path.ConnectionView(WEB, "127.0.0.1", 5, HERE, None, 1, 2, "dialling", 0.5)
BINDING = snapshots.Binding(
    scope=forwarding.Scope.LOCAL, client="127.0.0.1", backend=HERE, seconds_left=1.5
)
POOL = forwarding.Pool(forwarding.Scope.LOCAL, addresses.Family.IPV4, (HERE,))
MESSAGES: list[Any] = [
    forwarding.SetLocalEndpoints(WEB, ((addresses.Family.IPV4, 2),)),
    forwarding.SetBackends(WEB, POLICY, (POOL,)),
    forwarding.SetNear(("10.0.0.0/8",)),
    forwarding.OpenFrontend(WEB, FRONTEND, BOUND, HERE),
    forwarding.OpenFrontend(WEB, FRONTEND, BOUND, HERE, ()),
    forwarding.Admit(BOUND, ("10.0.0.0/8",)),
    forwarding.Admit(BOUND, None),
    forwarding.CloseFrontend(BOUND),
    forwarding.Forget(WEB),
    forwarding.Bar(HERE, "healthz"),
    forwarding.Opened(BOUND),
    forwarding.OpenFailed(BOUND, "Address already in use"),
    wire.Look(1, 3),
    wire.WantFacts(is_so=True),
    wire.Drain(0.5),
    wire.Abort(),
    wire.Started(9, frozenset(names.Protocol), TOTALS),
    wire.Refused("too many"),
    wire.SeenPort(WEB, PORT, ((HERE, snapshots.Endpoint(total=1, penalized_until=2.5)),)),
    wire.SeenBindings(WEB, (BINDING,)),
    wire.SeenConnections((VIEW,)),
    wire.Looked(1, TOTALS),
    wire.Drained(4),
]


def test_every_message_of_the_seam_is_among_them() -> None:
    seam = {*get_args(forwarding.Message), *get_args(forwarding.Report)}
    assert seam <= {type(each) for each in MESSAGES}


def test_every_message_arrives_as_it_was_sent() -> None:
    frames = wire.Frames()
    arrived = [each for sent in MESSAGES for each in frames.feed(wire.encode(sent))]
    assert arrived == MESSAGES
    assert [type(each) for each in arrived] == [type(each) for each in MESSAGES]


def test_bytes_may_come_in_any_pieces() -> None:
    stream = b"".join(map(wire.encode, MESSAGES))
    rng = random.Random(1)
    frames = wire.Frames()
    arrived: list[Any] = []
    while stream:
        cut = rng.randint(1, 40)
        arrived += frames.feed(stream[:cut])
        stream = stream[cut:]
    assert arrived == MESSAGES


@pytest.mark.parametrize("kind", events.Fact.__subclasses__())
def test_every_fact_has_a_place_on_the_wire(kind: type[events.Fact]) -> None:
    assert kind.__name__ in wire._FACTS


def test_a_fact_arrives_as_it_was_sent() -> None:
    fact = events.ConnectionAccepted(1.5, str(WEB), ("127.0.0.1", 5))
    (seen,) = wire.Frames().feed(wire.encode(wire.pack(fact, is_kept=True)))
    assert wire.unpack(seen) == fact
    assert seen.is_kept


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", wire.MAX_FRAME + 1),
        struct.pack(">I", 3) + b"abc",
        wire.encode(forwarding.Opened(BOUND)).replace(b"Opened", b"Open_d"),
    ],
    ids=["too-large", "no-message", "unknown-kind"],
)
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        list(wire.Frames().feed(data))
