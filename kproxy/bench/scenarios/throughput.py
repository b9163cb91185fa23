"""connect, request, bulk: how much, and what an operation costs. Closed loops."""

from kproxy.bench import messages, recording, rig, rounds, statistics
from kproxy.bench.subjects import subject

CONNECTIONS = 64

_MICROSECONDS = 1e6
_GIGA = 1e9

CONNECTIONS_PER_SECOND = recording.FigureKind(
    "connections_per_second", "short connections", "connections/s", "higher"
)
REQUESTS_PER_SECOND = recording.FigureKind(
    "requests_per_second", "requests over open connections", "requests/s", "higher"
)
MEDIAN = recording.FigureKind("p50", "median latency at full load", "µs")
TAIL = recording.FigureKind("p99", "99th percentile at full load", "µs")


def cpu_kinds(operation: str) -> tuple[recording.FigureKind, recording.FigureKind]:
    """User and kernel time per operation: parts of one whole."""
    stack = f"CPU time per {operation}"
    return (
        recording.FigureKind("cpu_user", "in the subject's code", "µs", "lower", stack),
        recording.FigureKind("cpu_system", "in the kernel", "µs", "lower", stack),
    )


def connect(lab: rig.Rig, into: recording.Recording) -> None:
    """Short connections, 64 at once, one request each."""
    _closed_loop(lab, into, "connect", lab.size.connect_s, CONNECTIONS_PER_SECOND, "connection")


def request(lab: rig.Rig, into: recording.Recording) -> None:
    """Requests over 64 connections that stay open."""
    _closed_loop(lab, into, "request", lab.size.request_s, REQUESTS_PER_SECOND, "request")


def _closed_loop(
    lab: rig.Rig,
    into: recording.Recording,
    kind: messages.Kind,
    seconds: float,
    main: recording.FigureKind,
    operation: str,
) -> None:
    plan = messages.Plan(
        kind=kind, target=lab.endpoints[0], seconds=seconds, connections=CONNECTIONS
    )
    cpu_user, cpu_system = cpu_kinds(operation)

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        outcome, usage = rounds.load(lab, into.name, name, running, plan)
        rate = outcome.done / outcome.seconds
        into.figure(main, name, number, rate)
        times = [time * _MICROSECONDS for time in outcome.times]
        into.figure(MEDIAN, name, number, statistics.percentile(times, 50))
        into.figure(TAIL, name, number, statistics.percentile(times, 99))
        if running.process is not None:
            into.figure(cpu_user, name, number, usage.user * _MICROSECONDS / outcome.done)
            into.figure(cpu_system, name, number, usage.system * _MICROSECONDS / outcome.done)
        return rounds.Result(rate, main.unit)

    into.note(f"{CONNECTIONS} connections at once, {seconds:g} s per subject and round.")
    rounds.interleave(lab, into, plan, [lab.endpoints[:1]], lab.size.rounds, seconds + 0.1, measure)


def bulk(lab: rig.Rig, into: recording.Recording) -> None:
    """A fixed number of bytes: down, up, and both ways at once; over one stream and over many."""
    size = lab.size.bulk_mib << 20
    one, *more = lab.size.bulk_streams
    cases: list[tuple[messages.Direction, int]] = [
        ("down", one), ("up", one), ("both", one), *(("down", many) for many in more)
    ]  # fmt: skip
    plan = messages.Plan(kind="bulk", target=lab.bulk, size=size, connections=one)

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        for direction, streams in cases:
            current = messages.Plan(
                kind="bulk", target=lab.bulk, size=size, connections=streams, direction=direction
            )
            outcome, usage = rounds.load(lab, into.name, name, running, current)
            rate = outcome.done * 8 / outcome.seconds / _GIGA
            into.figure(_bulk_kind(direction, streams), name, number, rate)
            if running.process is not None and (direction, streams) == cases[0]:
                gigabytes = outcome.done / _GIGA
                into.figure(BULK_USER, name, number, usage.user / gigabytes)
                into.figure(BULK_SYSTEM, name, number, usage.system / gigabytes)
        return rounds.Result(rate, "Gbit/s")

    into.note(f"{lab.size.bulk_mib} MiB in each direction, split among the streams.")
    rounds.interleave(
        lab, into, plan, [[lab.bulk]], lab.size.rounds, bulk_seconds(lab.size.bulk_mib), measure
    )


_BULK_STACK = "CPU time per gigabyte, one stream down"
BULK_USER = recording.FigureKind("cpu_user", "in the subject's code", "s", "lower", _BULK_STACK)
BULK_SYSTEM = recording.FigureKind("cpu_system", "in the kernel", "s", "lower", _BULK_STACK)


def bulk_seconds(mib: int) -> float:
    """What a turn of `bulk` is planned to take: five transfers at 12 Gbit/s."""
    return 5 * mib / 1500


def _bulk_kind(direction: messages.Direction, streams: int) -> recording.FigureKind:
    count = "one stream" if streams == 1 else f"{streams} streams"
    ways = {"down": "to the client", "up": "to the backend", "both": "both ways at once"}
    name = f"{direction}_{streams}"
    return recording.FigureKind(name, f"{count} {ways[direction]}", "Gbit/s", "higher")
