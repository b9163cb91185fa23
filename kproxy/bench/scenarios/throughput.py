"""connect, request, bulk: how much, and what an operation costs. Closed loops."""

from kproxy.bench import messages, processes, recording, rig, rounds, statistics
from kproxy.bench.subjects import subject

CONNECTIONS = 64

_MICROSECONDS = 1e6
_GIGA = 1e9

CONNECTIONS_PER_SECOND = recording.FigureKind(
    "connections_per_second", "connections per second", "connections/s", "higher"
)
REQUESTS_PER_SECOND = recording.FigureKind(
    "requests_per_second", "requests per second", "requests/s", "higher"
)
MEDIAN = recording.FigureKind("p50", "median latency at full load", "µs")
TAIL = recording.FigureKind("p99", "99th percentile at full load", "µs")


class CpuTime:
    """CPU time per operation in user and kernel mode, as two figures that are parts of one whole.

    A round's time is exact. How much of it was the kernel's is sampled (`processes.Usage`), too
    seldom for a single round; so the rounds of a subject are divided by what was sampled in all
    of them together, and the earlier ones are recorded anew as later ones come.
    """

    def __init__(self, into: recording.Recording, operation: str, unit: str, scale: float) -> None:
        """`scale` is how many of `unit` there are in a second."""
        stack = f"CPU time per {operation}"
        self._into = into
        self._user = recording.FigureKind("cpu_user", "user", unit, "lower", stack)
        self._kernel = recording.FigureKind("cpu_system", "kernel", unit, "lower", stack)
        self._scale = scale
        self._used: dict[str, processes.Usage] = {}
        self._costs: dict[str, dict[int, float]] = {}

    def add(self, name: str, number: int, usage: processes.Usage, operations: float) -> None:
        """What subject `name` used in round `number` for so many operations."""
        used = self._used[name] = self._used.get(name, processes.Usage()) + usage
        costs = self._costs.setdefault(name, {})
        costs[number] = usage.total * self._scale / operations
        for each, cost in costs.items():
            self._into.figure(self._user, name, each, cost * used.user_share)
            self._into.figure(self._kernel, name, each, cost * (1 - used.user_share))


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
    cpu_time = CpuTime(into, operation, "µs", _MICROSECONDS)

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        outcome, usage = rounds.load(lab, into.name, name, running, plan)
        rate = outcome.done / outcome.seconds
        into.figure(main, name, number, rate)
        times = [time * _MICROSECONDS for time in outcome.times]
        into.figure(MEDIAN, name, number, statistics.percentile(times, 50))
        into.figure(TAIL, name, number, statistics.percentile(times, 99))
        if running.process is not None:
            cpu_time.add(name, number, usage, outcome.done)
        return rounds.Result(rate, main.unit)

    into.note(f"{CONNECTIONS} connections at once, {seconds:g} s per subject and round.")
    turn = turn_seconds(seconds)
    rounds.interleave(lab, into, plan, [lab.endpoints[:1]], lab.size.fast_rounds, turn, measure)


def turn_seconds(seconds: float) -> float:
    """What a turn of so many seconds under load takes in all, as planned."""
    return seconds + 0.05


def bulk(lab: rig.Rig, into: recording.Recording) -> None:
    """A fixed number of bytes: down, up, and both ways at once; over one stream and over many."""
    size = lab.size.bulk_mib << 20
    one, *more = lab.size.bulk_streams
    cases: list[tuple[messages.Direction, int]] = [
        ("down", one), ("up", one), ("both", one), *(("down", many) for many in more)
    ]  # fmt: skip
    plan = messages.Plan(kind="bulk", target=lab.bulk, size=size, connections=one)
    cpu_time = CpuTime(into, "gigabyte, one stream to the client", "s", 1.0)

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        for direction, streams in cases:
            current = messages.Plan(
                kind="bulk", target=lab.bulk, size=size, connections=streams, direction=direction
            )
            outcome, usage = rounds.load(lab, into.name, name, running, current)
            rate = outcome.done * 8 / outcome.seconds / _GIGA
            into.figure(_bulk_kind(direction, streams), name, number, rate)
            if running.process is not None and (direction, streams) == cases[0]:
                cpu_time.add(name, number, usage, outcome.done / _GIGA)
        return rounds.Result(rate, "Gbit/s")

    into.note(f"{lab.size.bulk_mib} MiB in each direction, split among the streams.")
    rounds.interleave(
        lab, into, plan, [[lab.bulk]], lab.size.rounds, bulk_seconds(lab.size.bulk_mib), measure
    )


def bulk_seconds(mib: int) -> float:
    """What a turn of `bulk` is planned to take: five times so many bytes at 9 Gbit/s."""
    return 5 * mib / 1100


def _bulk_kind(direction: messages.Direction, streams: int) -> recording.FigureKind:
    count = "one stream" if streams == 1 else f"{streams} streams"
    ways = {"down": "to the client", "up": "to the backend", "both": "both ways at once"}
    name = f"{direction}_{streams}"
    return recording.FigureKind(name, f"{count} {ways[direction]}", "Gbit/s", "higher")
