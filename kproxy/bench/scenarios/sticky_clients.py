"""affinity: the time to find a client's endpoint among up to a million clients, and a load."""

import random
import time

from kproxy.balancer import affinity as tables
from kproxy.balancer import member
from kproxy.bench import budget
from kproxy.bench.lab import recording, rig, rounds
from kproxy.bench.load import closedloop, http1, messages
from kproxy.bench.subjects import kproxy_run
from kproxy.model import addresses

_NANOSECONDS = 1e9
_TTL = 10800  # Kubernetes' default
_X_LABEL = "clients in the table"
_WIRE_CLIENTS = 50
_SUBJECT = "kproxy"

HIT = recording.CurveKind("lookup", "finding a client that is bound", _X_LABEL, "ns")
BIND = recording.CurveKind("bind", "binding a new client in a full table", _X_LABEL, "ns")
MOVED = recording.FigureKind("moved", f"of {_WIRE_CLIENTS} clients, moved elsewhere", "clients")
RATE = recording.FigureKind(
    "connections_per_second", "connections per second with affinity", "connections/s", "higher"
)


def affinity(lab: rig.Rig, into: recording.Recording) -> None:
    """The table alone, in this process; then a Service with ClientIP affinity, from 50 clients."""
    for count in lab.size.affinity_clients:
        with lab.shown.stage(f"{into.name}: {count:,} clients", table_seconds(count)):
            hits, binds = costs(count, lab.size.affinity_lookups, lab.size.rounds)
            for number, (hit, bind) in enumerate(zip(hits, binds, strict=True)):
                into.point(HIT, _SUBJECT, count, number, hit)
                into.point(BIND, _SUBJECT, count, number, bind)
            lab.shown.figure(hits[-1], "ns per lookup")
    wire = wire_seconds(lab.size)
    with (
        lab.shown.stage(f"{into.name}: over the wire", wire),
        rounds.warning(lab, f"{into.name}: not measured over the wire"),
    ):
        lab.shown.figure(_over_the_wire(lab, into), "connections/s")


def table_seconds(count: int) -> float:
    """Seconds that are planned to fill and read a table of that size."""
    return 0.2 + count / 400_000


def wire_seconds(size: budget.Budget) -> float:
    """Seconds that are planned for all rounds over the wire."""
    return rounds.START_S + 0.3 + size.rounds * _round_seconds(size)


def _round_seconds(size: budget.Budget) -> float:
    """Seconds of a round, which is one load, as long as all turns of `connect` together."""
    return size.turns * size.connect_s


def costs(clients: int, lookups: int, count: int, seed: int = 1) -> tuple[list[float], list[float]]:
    """Nanoseconds per hit, and per new client when the table is full, in each of `count` rounds.

    Clients come in random order; all hits are timed first, since new clients push old ones out.
    """
    table = tables.AffinityTable(_TTL, clients)
    bound = member.Member(addresses.SocketAddress("10.0.0.1", 80))
    names = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(clients)]
    for name in names:
        table.bind(name, bound, 0.0)
    chance = random.Random(seed)
    hits, binds = [], []
    for _ in range(count):
        asked = chance.choices(names, k=lookups)
        began = time.perf_counter()
        for name in asked:
            table.lookup(name, 1.0)
        hits.append((time.perf_counter() - began) / lookups * _NANOSECONDS)
    for number in range(count):
        new = [f"{172 + number}.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(lookups)]
        began = time.perf_counter()
        for name in new:
            table.bind(name, bound, 1.0)
        binds.append((time.perf_counter() - began) / lookups * _NANOSECONDS)
    return hits, binds


def _over_the_wire(lab: rig.Rig, into: recording.Recording) -> float:
    subject = kproxy_run.Kproxy(affinity=True)
    with subject.start([lab.endpoints], lab.place) as running:
        clients = [closedloop.client_address(number) for number in range(_WIRE_CLIENTS)]
        before = [http1.ask(running.target, client=client) for client in clients]
        plan = messages.Plan(
            kind="connect",
            target=running.target,
            seconds=_round_seconds(lab.size),
            clients=_WIRE_CLIENTS,
        )
        limits = rounds.Limits()
        for number in range(lab.size.rounds):
            loaded = rounds.load(lab, into.name, _SUBJECT, running, plan)
            limits.add(_SUBJECT, loaded)
            rate = loaded.outcome.done / loaded.outcome.seconds
            into.figure(RATE, _SUBJECT, number, rate)
        limits.report(lab, into.name)
        after = [http1.ask(running.target, client=client) for client in clients]
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    into.figure(MOVED, _SUBJECT, 0, moved)
    return rate
