"""connect, request, bulk: throughput, and the CPU time of an operation. Closed loops."""

from kproxy.bench import budget
from kproxy.bench.lab import processes, recording, rig, rounds
from kproxy.bench.load import messages
from kproxy.bench.report import arithmetic
from kproxy.bench.subjects import subject

CONNECTIONS = 64

_MICROSECONDS = 1e6
_GIGA = 1e9
_TURN_S = 0.007  # seconds of a turn beside its load: reading CPU times, and the last answers

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
        self._spent: dict[str, dict[int, tuple[float, float]]] = {}

    def add(self, name: str, number: int, usage: processes.Usage, operations: float) -> None:
        """What subject `name` used in a turn of round `number`, for so many operations."""
        used = self._used[name] = self._used.get(name, processes.Usage()) + usage
        spent = self._spent.setdefault(name, {})
        seconds, count = spent.get(number, (0.0, 0.0))
        spent[number] = seconds + usage.total, count + operations
        for each, (seconds, count) in spent.items():
            cost = seconds * self._scale / count
            self._into.figure(self._user, name, each, cost * used.user_share)
            self._into.figure(self._kernel, name, each, cost * (1 - used.user_share))


def connect(lab: rig.Rig, into: recording.Recording) -> None:
    """Short connections, 64 at once, one request each."""
    _closed_loop(lab, into, "connect", lab.size.connect_s, CONNECTIONS_PER_SECOND, "connection")


def request(lab: rig.Rig, into: recording.Recording) -> None:
    """Requests over 64 connections that stay open."""
    _closed_loop(lab, into, "request", lab.size.request_s, REQUESTS_PER_SECOND, "request")


def closed_loop_cut(size: budget.Budget, seconds: float) -> rounds.Cut:
    """How `connect` and `request` are cut into turns of so many seconds of load."""
    return rounds.Cut(size.fast_rounds, size.turns, size.lead_in_s + seconds + 2 * _TURN_S)


def _closed_loop(
    lab: rig.Rig,
    into: recording.Recording,
    kind: messages.Kind,
    seconds: float,
    main: recording.FigureKind,
    operation: str,
) -> None:
    cut = closed_loop_cut(lab.size, seconds)
    lead_in = lab.size.lead_in_s
    if kind in lab.tools:  # wrk counts in whole seconds
        seconds, lead_in = 1.0, 0.0
        cut = rounds.Cut(cut.rounds, 1, seconds + _TURN_S)
    plan = messages.Plan(
        kind=kind,
        target=lab.endpoints[0],
        seconds=seconds,
        connections=CONNECTIONS,
        keep=kind == "request",
    )
    cpu_time = CpuTime(into, operation, "µs", _MICROSECONDS)
    limits = rounds.Limits()
    sums: rounds.Sums[tuple[str, int]] = rounds.Sums()

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        loaded = rounds.load(lab, into.name, name, running, plan, lead_in=lead_in)
        if running.process is not None:
            cpu_time.add(name, number, loaded.usage, loaded.outcome.done)
            limits.add(name, loaded)
        outcome = sums.add((name, number), loaded.outcome)
        rate = outcome.done / outcome.seconds
        into.figure(main, name, number, rate)
        times = sorted(time * _MICROSECONDS for time in outcome.times)
        into.figure(MEDIAN, name, number, arithmetic.percentile(times, 50))
        into.figure(TAIL, name, number, arithmetic.percentile(times, 99))
        return rounds.Result(rate, main.unit)

    turns = "a turn" if cut.turns == 1 else f"{cut.turns} turns"
    into.note(f"{CONNECTIONS} connections at once, {turns} of {seconds:g} s per subject and round.")
    try:
        rounds.interleave(lab, into, plan, [lab.endpoints[:1]], cut, measure)
    finally:
        limits.report(lab, into.name)


def bulk(lab: rig.Rig, into: recording.Recording) -> None:
    """A fixed number of bytes: down, up, and both ways at once; over one stream and over many."""
    size = lab.size.bulk_mib << 20
    one, *more = lab.size.bulk_streams
    cases: list[tuple[messages.Direction, int]] = [
        ("down", one), ("up", one), ("both", one), *(("down", many) for many in more)
    ]  # fmt: skip
    plan = messages.Plan(kind="bulk", target=lab.bulk, size=size, connections=one)
    cpu_time = CpuTime(into, "gigabyte, one stream to the client", "s", 1.0)
    sums: rounds.Sums[tuple[str, int, messages.Direction, int]] = rounds.Sums()

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        for direction, streams in cases:
            current = messages.Plan(
                kind="bulk", target=lab.bulk, size=size, connections=streams, direction=direction
            )
            loaded = rounds.load(lab, into.name, name, running, current)
            if running.process is not None and (direction, streams) == cases[0]:
                cpu_time.add(name, number, loaded.usage, loaded.outcome.done / _GIGA)
            outcome = sums.add((name, number, direction, streams), loaded.outcome)
            rate = outcome.done * 8 / outcome.seconds / _GIGA
            into.figure(_bulk_kind(direction, streams), name, number, rate)
        return rounds.Result(rate, "Gbit/s")

    cut = bulk_cut(lab.size)
    into.note(
        f"{lab.size.bulk_mib * cut.turns} MiB in each direction per subject and round, in "
        f"{cut.turns} turns, split among the streams."
    )
    rounds.interleave(lab, into, plan, [[lab.bulk]], cut, measure)


def bulk_cut(size: budget.Budget) -> rounds.Cut:
    """How `bulk` is cut into turns: each four loads, with five times so many bytes at 9 Gbit/s."""
    return rounds.Cut(size.rounds, size.bulk_turns, 4 * _TURN_S + 5 * size.bulk_mib / 1100)


def _bulk_kind(direction: messages.Direction, streams: int) -> recording.FigureKind:
    count = "one stream" if streams == 1 else f"{streams} streams"
    ways = {"down": "to the client", "up": "to the backend", "both": "both ways at once"}
    name = f"{direction}_{streams}"
    return recording.FigureKind(name, f"{count} {ways[direction]}", "Gbit/s", "higher")
