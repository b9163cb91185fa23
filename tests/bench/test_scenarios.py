"""Every scenario in a form that takes seconds: mechanics, not figures."""

import contextlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.bench import budget
from kproxy.bench.lab import network, processes, recording, rig, rounds
from kproxy.bench.load import http1, messages
from kproxy.bench.report import results
from kproxy.bench.scenarios import catalogue, dead_endpoints, throughput
from kproxy.bench.subjects import kproxy_run, peers, subject
from tests.bench import servers

pytestmark = pytest.mark.xdist_group("time")

TINY = budget.Budget(
    fast_rounds=1,
    rounds=1,
    slow_rounds=1,
    turns=2,
    lead_in_s=0.01,
    connect_s=0.05,
    request_s=0.05,
    bulk_turns=2,
    bulk_mib=2,
    bulk_streams=(1, 2),
    latency_turns=2,
    latency_s=0.05,
    latency_loads=((1, 200), (4, 400)),
    idle_connections=20,
    services=(1, 3),
    services_connections=5,
    affinity_clients=(10, 100),
    affinity_lookups=100,
    faults_s=0.4,
    faults_rate=50.0,
    strategies_connections=40,
)


class Silent:
    """A progress display that keeps what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str, total_seconds: float) -> Iterator[None]:
        assert total_seconds > 0
        self.stages.append(name)
        yield

    def figure(self, value: float, unit: str) -> None:
        assert math.isfinite(value)  # a process may have less memory than before
        assert unit

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextlib.contextmanager
def _rig(folder: Path, *subjects: subject.Subject) -> Iterator[rig.Rig]:
    with rig.start(subjects, TINY, folder, Silent(), []) as lab:
        yield lab


def run_in(lab: rig.Rig, name: str) -> results.Scenario:
    into = recording.Recording(name, "tried")
    catalogue.SCENARIOS[name].run(lab, into)
    # Who limits a load of a tenth of a second is this machine's affair.
    of_machine = ("is the bottleneck", "the load generator was busy")
    assert [each for each in lab.warnings if not any(map(each.__contains__, of_machine))] == []
    return into.result([])


EXPECTED = {
    "connect": {"connections_per_second", "p50", "p99", "cpu_user", "cpu_system"},
    "request": {"requests_per_second", "p50", "p99", "cpu_user", "cpu_system"},
    "bulk": {"down_1", "up_1", "both_1", "down_2", "cpu_user", "cpu_system"},
    "latency": {"p50_1", "p99_1", "p50_4", "p99_4"},
    "idle": {"memory", "resident"},
    "services": set(),
    "affinity": {"moved", "connections_per_second"},
    "strategies": {"chi_square", "p_value", "largest_share", "skew"},
}


def test_every_scenario_is_tried_here() -> None:
    assert set(catalogue.SCENARIOS) == {*EXPECTED, "faults"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[] if each == "connect" else pytest.mark.extra) for each in EXPECTED],
)
def test_a_scenario_measures_every_subject_that_it_concerns(name: str, tmp_path: Path) -> None:
    subjects = (peers.Direct(), kproxy_run.Kproxy())
    with _rig(tmp_path, *subjects) as lab:
        measured = run_in(lab, name)
    assert {figure.name for figure in measured.figures} == EXPECTED[name]
    for figure in measured.figures:
        assert all(value is not None for each in figure.series for value in each.rounds)
        concerned = {each.name for each in subjects if each.measures(name)}
        if figure.stack or name in {"idle", "affinity"}:
            concerned.discard("direct")  # nothing to weigh
        assert concerned <= {each.subject for each in figure.series}


def test_what_leads_in_to_a_load_is_served_and_counts_nowhere(tmp_path: Path) -> None:
    plan = messages.Plan(
        kind="request", target=network.Address("", 0), seconds=0.1, connections=4, keep=True
    )
    with (
        _rig(tmp_path, peers.Direct()) as lab,
        peers.Direct().start([lab.endpoints[:1]], lab.place) as running,
    ):
        before = lab.backends.served()
        loaded = rounds.load(lab, "request", "direct", running, plan, lead_in=0.1)
        after = lab.backends.served()
    assert sum(after.accepted.values()) - sum(before.accepted.values()) == plan.connections
    led_in = after.requests - before.requests - loaded.outcome.done - plan.connections
    assert led_in >= plan.connections  # each asks once at least, however busy the machine is
    assert len(loaded.outcome.times) == loaded.outcome.done


class Releasing:
    """A process whose server stalls until it is asked what it has used."""

    def __init__(self, server: servers.Plain) -> None:
        self._server = server

    def usage(self) -> processes.Usage:
        self._server.released.set()
        return processes.Usage()


@pytest.mark.extra
def test_what_fails_in_a_lead_in_is_reported_like_any_failure(tmp_path: Path) -> None:
    with servers.plain(stall_at=1, stall_s=math.inf) as server, _rig(tmp_path) as lab:
        # It asks for the usage when the lead-in is over.
        running = subject.Running((server.address,), Releasing(server))  # type: ignore[arg-type]  # as much of a process as is needed
        plan = messages.Plan(kind="connect", target=server.address, seconds=0.1, connections=1)
        loaded = rounds.load(lab, "tried", "plain", running, plan, lead_in=0.1)
    assert loaded.outcome.failures == {}
    assert lab.warnings == ["tried: 1 of 1 failed (no answer: 1) through plain"]


@pytest.mark.extra
def test_services_have_a_curve_each_for_start_change_latency_and_memory(tmp_path: Path) -> None:
    with _rig(tmp_path, kproxy_run.Kproxy()) as lab:
        measured = run_in(lab, "services")
    assert {curve.name for curve in measured.curves} == {
        "start_up",
        "change",
        "connect_p50",
        "resident",
    }
    for curve in measured.curves:
        assert [point.x for point in curve.series[0].points] == [1, 3]


@pytest.mark.extra
def test_affinity_keeps_every_client_where_it_was(tmp_path: Path) -> None:
    with _rig(tmp_path) as lab:
        measured = run_in(lab, "affinity")
    [moved] = [figure for figure in measured.figures if figure.name == "moved"]
    assert moved.series[0].rounds == (0.0,)


@pytest.mark.extra
def test_rotation_is_even_by_every_measure(tmp_path: Path) -> None:
    with _rig(tmp_path, peers.Streams("asyncio")) as lab:
        measured = run_in(lab, "strategies")
    by_name = {figure.name: figure.series[0].rounds[0] for figure in measured.figures}
    assert by_name["largest_share"] == pytest.approx(25, abs=5)
    assert by_name["skew"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.extra
def test_faults_cost_kproxy_no_connection_and_the_naive_proxy_some(tmp_path: Path) -> None:
    with _rig(tmp_path, kproxy_run.Kproxy(), peers.Streams("asyncio")) as lab:
        measured = run_in(lab, "faults")
    failed = {
        (figure.name, each.subject): each.rounds[0]
        for figure in measured.figures
        if figure.name.endswith("_failed")
        for each in figure.series
    }
    assert {failed[f"{fault}_failed", "kproxy"] for fault in dead_endpoints.FAULTS} == {0}
    assert failed["healthy_failed", "asyncio"] == 0
    assert (failed["refused_failed", "asyncio"] or 0) > 0
    assert ("churn_failed", "asyncio") not in failed  # its endpoints cannot change


def test_a_subject_that_does_not_start_is_named_and_the_others_are_measured(
    tmp_path: Path,
) -> None:
    broken = peers.Custom("broken", "false {listen} {backend}")
    with _rig(tmp_path, broken, peers.Direct()) as lab:
        into = recording.Recording("connect", "tried")
        catalogue.SCENARIOS["connect"].run(lab, into)
        assert [w for w in lab.warnings if "broken was left out" in w]
    assert {each.subject for each in into.result([]).figures[0].series} == {"direct"}


@pytest.mark.parametrize("name", ["haproxy", "nginx", "socat"])
def test_a_peer_leads_to_its_backend(name: str, tmp_path: Path) -> None:
    peer = peers.KNOWN[name]
    try:
        peer.version()
    except Exception as error:
        pytest.skip(str(error))
    with _rig(tmp_path) as lab, peer.start([lab.endpoints[:1]], lab.place) as running:
        plan = messages.Plan(kind="connect", target=running.target, seconds=0.2)
        loaded = rounds.load(lab, "tried", name, running, plan)
    assert loaded.outcome.done > 0
    assert loaded.usage.total > 0


def test_user_and_kernel_time_are_divided_by_what_all_rounds_have_sampled() -> None:
    """In ticks, round 0 saw no user time at all and round 1 saw 6 of 10: together 30 %."""
    into = recording.Recording("tried", "tried")
    cpu_time = throughput.CpuTime(into, "connection", "µs", 1e6)

    cpu_time.add("kproxy", 0, processes.Usage(0.10, 0, 10), operations=1000)
    cpu_time.add("kproxy", 1, processes.Usage(0.12, 6, 4), operations=1000)

    user, kernel = into.result([]).figures
    assert (user.title, kernel.title, user.stack) == ("user", "kernel", "CPU time per connection")
    assert user.series[0].rounds == pytest.approx((30.0, 36.0))
    assert kernel.series[0].rounds == pytest.approx((70.0, 84.0))


def test_a_command_with_backends_runs_once_for_each_service(tmp_path: Path) -> None:
    command = f"{sys.executable} -m kproxy.bench.subjects.streams_proxy asyncio "
    custom = peers.Custom("mine", f"{command}{{listen}}={{backends}}")
    with _rig(tmp_path) as lab:
        services = [[lab.endpoints[0]], [lab.endpoints[1]]]
        with custom.start(services, lab.place) as running:
            answered = [http1.ask(each) for each in running.frontends]
    assert answered == [lab.endpoints[0].port, lab.endpoints[1].port]


@pytest.mark.extra
def test_failures_are_reported_for_all_rounds_together(tmp_path: Path) -> None:
    with _rig(tmp_path, peers.Streams("asyncio")) as lab:
        measured = run_in(lab, "faults")
    [refused] = [note for note in measured.notes if note.startswith("One endpoint refuses")]
    assert re.fullmatch(
        r"One endpoint refuses connections: \d+ of 20 failed through asyncio\.", refused
    )
