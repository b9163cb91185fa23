"""A run from its command line: wrong usage, a whole one, and one that is interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench import budget, run
from kproxy.bench.lab import network
from kproxy.bench.load import http1
from kproxy.bench.report import results
from kproxy.bench.scenarios import catalogue
from kproxy.bench.subjects import kproxy_run, peers
from kproxy.cli import bench
from tests.bench import servers

pytestmark = pytest.mark.xdist_group("time")

KPROXY = [sys.executable, "-m", "kproxy", "bench"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--scenario", "nothing"], "unknown scenario 'nothing'", id="scenario"),
        pytest.param(["--peers", "haproxy,squid"], "unknown peer 'squid'", id="peer"),
        pytest.param(["--peers", "mine=prog {listen}"], "needs {listen} and", id="command"),
        pytest.param(["--load", "ab"], "unknown tool 'ab'", id="tool"),
        pytest.param(["--json", "no/such/folder/x"], "directory that exists", id="json"),
        pytest.param(["--html", ""], "directory that exists", id="html"),
        pytest.param(["load", "localhost"], "is no address", id="load-target"),
        pytest.param(["load", "127.0.0.1:1", "--kind", "x"], "no such load", id="load-kind"),
        pytest.param(["backend", "--listen", "1:2"], "is no address", id="backend-address"),
        pytest.param(["compare", "no-a", "no-b"], "cannot read no-a", id="compare"),
    ],
)
def test_wrong_usage_is_a_sentence(arguments: Sequence[str], complaint: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        bench.app(arguments, standalone_mode=False)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_peer_that_was_asked_for_and_is_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    asked = run.Run(run.Request(peers=(peers.HAProxy(),)))
    with pytest.raises(errors.ConfigError, match="--peers: haproxy is not installed; install"):
        asked.prepare()


def test_a_missing_default_peer_is_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    asked = run.Run(run.Request())
    asked.prepare()
    assert {each.name for each in asked.subjects} >= {"direct", "kproxy", "asyncio"}
    assert [w for w in asked.warnings if w.startswith("haproxy was left out: haproxy is not")]


@pytest.mark.parametrize(
    ("size", "limit"),
    [pytest.param(budget.QUICK, 90, id="quick"), pytest.param(budget.FULL, 900, id="full")],
)
def test_the_budget_stays_within_what_is_promised(size: budget.Budget, limit: float) -> None:
    planned = run.Run(run.Request(size=size))
    planned.subjects = [*peers.ALWAYS, *(peers.KNOWN[name] for name in peers.DEFAULT)]
    planned.subjects.append(kproxy_run.Kproxy())
    assert planned.planned_seconds() < limit


def _environment(folder: Path) -> tuple[dict[str, str], str]:
    mark = uuid.uuid4().hex
    inherited = {name: os.environ[name] for name in os.environ.keys() - {"FORCE_COLOR"}}
    return {**inherited, "TMPDIR": str(folder), "KPROXY_TEST_MARK": mark}, mark


def _alive(mark: str) -> list[int]:
    """Processes that were started, by whomever, with this mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_run_writes_its_results_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment, mark = _environment(scratch)
    target = tmp_path / "out.json"
    arguments = ["--quick", "--rounds", "1", "--scenario", "request", "--json", str(target)]
    naive = f"naive={sys.executable} -m kproxy.bench.subjects.streams_proxy asyncio "
    done = subprocess.run(
        [*KPROXY, *arguments, "--peers", f"{naive}{{listen}}={{backend}}"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = results.read(target)
    [scenario] = report.scenarios
    assert scenario.name == "request"
    measured = [each.subject for each in scenario.figures[0].series]
    assert measured == ["direct", "kproxy", "naive", "asyncio", "uvloop"]
    assert not report.interrupted
    assert set(report.machine.versions) >= set(measured)
    assert "request\trequests per second\tkproxy\t" in done.stdout
    assert done.stderr.startswith("comparing no proxy, kproxy, naive, asyncio and uvloop: about ")
    assert _alive(mark) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.extra
def test_an_interrupted_run_reports_what_it_has_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment, mark = _environment(scratch)
    target = tmp_path / "out.json"
    command = [*KPROXY, "--rounds", "50", "--scenario", "request", "--json", str(target)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        assert running.stderr is not None
        told = ""
        for line in running.stderr:
            told += line
            if "round 1 of 50" in line:
                break
        running.send_signal(signal.SIGINT)
        told += running.stderr.read()
        assert running.wait(120) == bench.INTERRUPTED, told
    finally:
        running.kill()
        running.wait()
        if running.stderr is not None:
            running.stderr.close()
    assert "Traceback" not in told
    report = results.read(target)
    assert report.interrupted
    assert report.scenarios[0].figures[0].series[0].rounds
    assert _alive(mark) == []
    assert list(scratch.iterdir()) == []


def test_the_scenarios_run_in_the_order_of_the_catalogue_whatever_was_asked_first() -> None:
    names = list(catalogue.SCENARIOS)
    assert bench.chosen_scenarios([names[2], names[0], names[2]]) == (names[0], names[2])
    assert bench.chosen_scenarios([]) == tuple(names)


def test_a_load_on_its_own_prints_rate_latency_and_headroom(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with servers.plain() as server:
        arguments = ["load", str(server.address), "--kind", "rate", "--seconds", "0.2"]
        assert bench.app([*arguments, "--rate", "500"], standalone_mode=False) == 0
    told = capsys.readouterr().out
    assert told.startswith("100 done in 0.20 s, 500 per second\nlatency p50 ")
    assert "generator idle " in told


def test_a_backend_on_its_own_serves_until_interrupted_and_prints_its_headroom() -> None:
    [address] = network.free_addresses(1)
    environment, mark = _environment(Path(tempfile.gettempdir()))
    with subprocess.Popen(
        [*KPROXY, "backend", "--listen", str(address)], env=environment,
        stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == f"listening on {address}\n"
            assert http1.ask(address) == address.port
            running.send_signal(signal.SIGINT)
            assert running.stdout.read().startswith("1 requests on 1 connections; idle ")
            assert running.wait(60) == 0
        finally:
            running.kill()
    assert _alive(mark) == []
