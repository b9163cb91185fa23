"""idle: what an unused connection costs."""

import resource
import time

from kproxy import errors
from kproxy.bench.lab import recording, rig, rounds
from kproxy.bench.load import messages
from kproxy.bench.subjects import subject

_SETTLE_S = 0.2  # seconds: a proxy gives memory back once a connection is quiet
_SPARE_FILES = 600

MEMORY = recording.FigureKind("memory", "memory per idle connection", "bytes")
EMPTY = recording.FigureKind("resident", "memory of the process before", "MiB")


def idle(lab: rig.Rig, into: recording.Recording) -> None:
    """Resident memory per connection, each idle after one answered request.

    Memory of the kernel's sockets is not in it; it is the same for every proxy.
    """
    count = connections(lab.size.idle_connections)
    if count < lab.size.idle_connections:
        into.note(f"The limit of open files (ulimit -n) allows {count:,} connections.")
    into.note(f"{count:,} connections, each after one request.")
    for number in range(lab.size.rounds):
        for each in rounds.rotated(lab.concerned(into.name), number):
            where = f"{into.name}: {each.name}, round {number + 1} of {lab.size.rounds}"
            with (
                lab.shown.stage(where, seconds(count)),
                rounds.warning(lab, f"{where}: not measured"),
            ):
                lab.shown.figure(_measure(lab, each, count, into, number), "bytes")


def seconds(count: int) -> float:
    """Seconds that are planned for a start and `count` connections."""
    return rounds.START_S + _SETTLE_S + count / 2000


def connections(wanted: int) -> int:
    """How many connections the limit of open files allows: a proxy needs two files for each."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, max(1, (limit - _SPARE_FILES) // 2))


def _measure(
    lab: rig.Rig, each: subject.Subject, count: int, into: recording.Recording, number: int
) -> float:
    with each.start([lab.endpoints[:1]], lab.place) as running:
        assert running.process is not None
        plan = messages.Plan(kind="hold", target=running.target, connections=count)
        rounds.warm_up(lab, running, plan)
        before = running.process.rss_bytes()
        held = lab.generators.run(plan)
        if held.done < count:
            raise errors.KproxyError(f"only {held.done} of {count} connections were answered")
        time.sleep(_SETTLE_S)
        per_connection = (running.process.rss_bytes() - before) / count
    into.figure(MEMORY, each.name, number, per_connection)
    into.figure(EMPTY, each.name, number, before / 2**20)
    return per_connection
