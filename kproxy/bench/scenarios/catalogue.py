"""All scenarios by name, in the order of a run, with the seconds that each is planned to take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kproxy.bench import budget
from kproxy.bench.lab import recording, rig
from kproxy.bench.scenarios import (
    dead_endpoints,
    idle,
    latency,
    many_services,
    spread,
    sticky_clients,
    throughput,
)
from kproxy.bench.subjects import subject


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` measures into a recording; `seconds` plans for a budget and a number of subjects."""

    name: str
    title: str
    run: Callable[[rig.Rig, recording.Recording], None]
    seconds: Callable[[budget.Budget, int], float]

    def planned(self, size: budget.Budget, subjects: Sequence[subject.Subject]) -> float:
        """Seconds that it is planned to take."""
        return self.seconds(size, sum(each.measures(self.name) for each in subjects))


def _connect(size: budget.Budget, count: int) -> float:
    return throughput.closed_loop_cut(size, size.connect_s).planned(count)


def _request(size: budget.Budget, count: int) -> float:
    return throughput.closed_loop_cut(size, size.request_s).planned(count)


def _bulk(size: budget.Budget, count: int) -> float:
    return throughput.bulk_cut(size).planned(count)


def _latency(size: budget.Budget, count: int) -> float:
    return latency.cut(size).planned(count)


def _idle(size: budget.Budget, count: int) -> float:
    return count * size.rounds * idle.seconds(idle.connections(size.idle_connections))


def _services(size: budget.Budget, count: int) -> float:
    return count * size.slow_rounds * sum(map(many_services.seconds, size.services))


def _affinity(size: budget.Budget, count: int) -> float:  # noqa: ARG001 (kproxy's own)
    table = sum(map(sticky_clients.table_seconds, size.affinity_clients))
    return table + sticky_clients.wire_seconds(size)


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("connect", "short connections", throughput.connect, _connect),
        Scenario("request", "requests over open connections", throughput.request, _request),
        Scenario("bulk", "bulk streams", throughput.bulk, _bulk),
        Scenario("latency", "latency at fixed rates", latency.latency, _latency),
        Scenario("idle", "idle connections", idle.idle, _idle),
        Scenario("services", "many Services", many_services.services, _services),
        Scenario("affinity", "ClientIP affinity", sticky_clients.affinity, _affinity),
        Scenario(
            "faults",
            "one of four endpoints at fault",
            dead_endpoints.faults,
            lambda size, count: size.slow_rounds * dead_endpoints.seconds(size.faults_s, count),
        ),
        Scenario(
            "strategies",
            "spread over endpoints",
            spread.strategies,
            lambda size, count: (
                (count + 1) * spread.seconds(size.slow_rounds, size.strategies_connections)
            ),
        ),
    )
}

IN_THE_KERNELS_COMPANY = ("connect", "request", "latency")
"""The scenarios that --kernel repeats in network namespaces, beside netfilter."""
