"""services: what 10,000 unused Services cost. Start-up, one change, a connection."""

import time
from collections.abc import Sequence

from kproxy import errors
from kproxy.bench.lab import network, recording, rig, rounds
from kproxy.bench.load import http1, messages
from kproxy.bench.report import arithmetic
from kproxy.bench.subjects import subject

_X_LABEL = "Services"
_MICROSECONDS = 1e6
_CHANGE_TIMEOUT = 30.0
_LOOK_EVERY = 0.002

START_UP = recording.CurveKind("start_up", "from start to serving all Services", _X_LABEL, "s")
CHANGE = recording.CurveKind("change", "until a changed endpoint answers", _X_LABEL, "ms")
LATENCY = recording.CurveKind("connect_p50", "median of a short connection", _X_LABEL, "µs")
MEMORY = recording.CurveKind("resident", "memory of the process", _X_LABEL, "MiB")


def services(lab: rig.Rig, into: recording.Recording) -> None:
    """Start with so many Services, connect to the last of them, change its endpoint."""
    size = lab.size
    into.note("Connections are made one at a time, to the last Service.")
    for number in range(size.slow_rounds):
        for count in size.services:
            for each in rounds.rotated(lab.concerned(into.name), number):
                where = f"{into.name}: {each.name}, {count:,} of them, round {number + 1}"
                with (
                    lab.shown.stage(where, seconds(count)),
                    rounds.warning(lab, f"{where}: not measured"),
                ):
                    lab.shown.figure(_measure(lab, each, count, into, number), "µs to connect")


def seconds(count: int) -> float:
    """Seconds that one measurement is planned to take."""
    return rounds.START_S + 0.1 + count / 4000


def _measure(
    lab: rig.Rig, each: subject.Subject, count: int, into: recording.Recording, number: int
) -> float:
    began = time.perf_counter()
    with each.start([lab.endpoints[:1]] * count, lab.place) as running:
        start_up = time.perf_counter() - began
        plan = messages.Plan(
            kind="connect",
            target=running.frontends[-1],
            seconds=5.0,
            connections=1,
            count=lab.size.services_connections,
        )
        outcome = lab.generators.run(plan)
        if not outcome.times:
            raise errors.KproxyError(f"the last of {count} Services does not answer")
        median = arithmetic.percentile(outcome.times, 50) * _MICROSECONDS
        into.point(LATENCY, each.name, count, number, median)
        if running.process is not None:
            into.point(START_UP, each.name, count, number, start_up)
            resident = running.process.rss_bytes() / 2**20
            into.point(MEMORY, each.name, count, number, resident)
        if running.change is not None:
            running.change(lab.endpoints[1:2])
            took = _seconds_until_answered_by(running.frontends[-1], lab.endpoints[1:2])
            into.point(CHANGE, each.name, count, number, took * 1000)
    return median


def _seconds_until_answered_by(
    target: network.Address, endpoints: Sequence[network.Address]
) -> float:
    began = time.perf_counter()
    ports = {each.port for each in endpoints}
    while http1.ask(target) not in ports:
        if time.perf_counter() - began > _CHANGE_TIMEOUT:
            raise errors.KproxyError(f"a change was not in force after {_CHANGE_TIMEOUT:.0f} s")
        time.sleep(_LOOK_EVERY)
    return time.perf_counter() - began
