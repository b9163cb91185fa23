"""How much of everything a run does: the only place that says so.

A quick run of every scenario stays under 90 s on two cores with six subjects, a full one under
15 minutes. More rounds that are short beat fewer that are long: what disturbs a shared machine
lasts seconds, and should fall on all subjects alike.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds are per subject and round where nothing else is said; MiB is 2^20 bytes."""

    rounds: int
    connect_s: float
    request_s: float
    bulk_mib: int
    bulk_streams: tuple[int, ...]
    latency_s: float
    latency_loads: tuple[tuple[int, float], ...]
    """(connections, requests per second): one open loop each."""
    idle_connections: int
    idle_rounds: int
    services: tuple[int, ...]
    services_connections: int
    """Short connections, one at a time, whose latency is taken."""
    services_rounds: int
    affinity_clients: tuple[int, ...]
    affinity_lookups: int
    faults_s: float
    """Per fault, all subjects side by side."""
    faults_rate: float
    """New connections per second, to each subject."""
    strategies_connections: int


QUICK = Budget(
    rounds=4,
    connect_s=0.4,
    request_s=0.3,
    bulk_mib=64,
    bulk_streams=(1, 8),
    latency_s=0.2,
    latency_loads=((1, 1000), (100, 4000)),
    idle_connections=1000,
    idle_rounds=1,
    services=(1, 100, 1000),
    services_connections=100,
    services_rounds=1,
    affinity_clients=(1_000, 10_000, 100_000),
    affinity_lookups=50_000,
    faults_s=1.2,
    faults_rate=50.0,
    strategies_connections=400,
)

FULL = Budget(
    rounds=5,
    connect_s=2.0,
    request_s=2.0,
    bulk_mib=1024,
    bulk_streams=(1, 8),
    latency_s=1.0,
    latency_loads=((1, 1000), (10, 2000), (100, 4000), (1000, 4000)),
    idle_connections=9000,
    idle_rounds=3,
    services=(1, 10, 100, 1000, 10_000),
    services_connections=500,
    services_rounds=2,
    affinity_clients=(1_000, 10_000, 100_000, 1_000_000),
    affinity_lookups=200_000,
    faults_s=10.0,
    faults_rate=50.0,
    strategies_connections=4000,
)


def with_rounds(budget: Budget, rounds: int) -> Budget:
    """The same with so many rounds of everything that has rounds."""
    return replace(budget, rounds=rounds, idle_rounds=rounds, services_rounds=rounds)
