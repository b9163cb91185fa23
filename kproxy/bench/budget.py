"""How many rounds, seconds and bytes a run measures; all of it stands here.

A quick run of every scenario stays under 90 s on two cores with six subjects, a full one under
15 minutes; `--kernel` adds seven minutes. Many short turns give a better ratio than a few long
ones (see `rounds`).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds and counts are per subject and round unless stated otherwise; MiB is 2^20 bytes.

    `fast_rounds` are those of connect and request, and in each a subject has `turns` of `connect_s`
    or `request_s`, after `lead_in_s` of the same that do not count. `slow_rounds` are those of
    services and faults, which start all subjects anew in each, and of strategies, where one is
    enough. `rounds` are those of everything else: in one of bulk a subject has `bulk_turns` of
    `bulk_mib`, in one of latency `latency_turns` of `latency_s`.
    `compare` needs four rounds at least.
    """

    fast_rounds: int
    rounds: int
    slow_rounds: int
    turns: int
    lead_in_s: float
    connect_s: float
    request_s: float
    bulk_turns: int
    bulk_mib: int
    bulk_streams: tuple[int, ...]
    latency_turns: int
    latency_s: float
    latency_loads: tuple[tuple[int, float], ...]
    """(connections, requests per second): one open loop each."""
    idle_connections: int
    services: tuple[int, ...]
    services_connections: int
    """Short connections, one at a time, whose latency is taken."""
    affinity_clients: tuple[int, ...]
    affinity_lookups: int
    faults_s: float
    """Per fault and round, all subjects side by side. Long enough that fewer than one in ten
    connections meet a fault before the proxy knows of it: the 90th percentile does not contain
    them."""
    faults_rate: float
    """New connections per second, to each subject."""
    strategies_connections: int


QUICK = Budget(
    fast_rounds=12,
    rounds=4,
    slow_rounds=1,
    turns=3,
    lead_in_s=0.01,
    connect_s=0.04,
    request_s=0.04,
    bulk_turns=4,
    bulk_mib=12,
    bulk_streams=(1, 8),
    latency_turns=3,
    latency_s=0.04,
    latency_loads=((1, 1000), (100, 4000)),
    idle_connections=300,
    services=(1, 100, 1000),
    services_connections=100,
    affinity_clients=(1_000, 10_000, 100_000),
    affinity_lookups=20_000,
    faults_s=1.2,
    faults_rate=50.0,
    strategies_connections=100,
)

FULL = Budget(
    fast_rounds=30,
    rounds=5,
    slow_rounds=5,
    turns=5,
    lead_in_s=0.02,
    connect_s=0.04,
    request_s=0.04,
    bulk_turns=16,
    bulk_mib=32,
    bulk_streams=(1, 8),
    latency_turns=2,
    latency_s=0.4,
    latency_loads=((1, 1000), (10, 2000), (100, 4000), (1000, 4000)),
    idle_connections=9000,
    services=(1, 10, 100, 1000, 10_000),
    services_connections=500,
    affinity_clients=(1_000, 10_000, 100_000, 1_000_000),
    affinity_lookups=50_000,
    faults_s=2.0,
    faults_rate=50.0,
    strategies_connections=1000,
)


def with_rounds(budget: Budget, rounds: int) -> Budget:
    """The same budget with this many rounds of everything."""
    return replace(budget, fast_rounds=rounds, rounds=rounds, slow_rounds=rounds)
