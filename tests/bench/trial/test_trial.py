"""A Service in a real kernel, by rules and by kproxy. Small: its figures are not judged."""

import dataclasses
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.report import results
from kproxy.bench.trial import clients, trial
from kproxy.modes import registry, world
from tests.e2e.rig import namespaces
from tests.modes import worlds

pytestmark = [pytest.mark.extra, namespaces.needs_root, namespaces.needs_programs]


CONNECTIONS = 200
"""A fifth of them are made while one of two endpoints is dead: that rules which choose by chance
choose it for none of 40 happens once in 10^12 times."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client gives up because this machine is busy."""
    monkeypatch.setattr(clients, "_PATIENCE", 20.0)


def tried(mode: str, **changes: object) -> dict[str, results.Scenario]:
    """The scenarios of a short trial, by name."""
    seen = world.World(worlds.NODE, (dataclasses.replace(worlds.plain(7), **changes),))  # type: ignore[arg-type]  # as given
    report = trial.run(seen, registry.MODES[mode], sizes=(3,), connections=CONNECTIONS)
    return {scenario.name: scenario for scenario in report.scenarios}


def values(figure: results.Figure) -> dict[str, float | None]:
    """The value of each subject."""
    return {series.subject: series.rounds[0] for series in figure.series}


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_rules_and_kproxy_are_tried_alike(mode: str) -> None:
    found = tried(mode)
    failed, share = map(values, found["spread"].figures)
    assert failed == {mode: 0.0, "kproxy": 0.0}
    assert share["kproxy"] == 50.0, "round robin over two"
    assert all(f"{name}: " in " ".join(found["spread"].notes) for name in (mode, "kproxy"))
    dead = values(found["dead"].figures[0])
    assert dead["kproxy"] == 0.0, "the next endpoint is tried"
    assert dead[mode], "a rule picks the dead endpoint for good"
    assert found["empty"].notes == (f"{mode}: refused", "kproxy: refused")
    (curve,) = found["cost"].curves
    assert {series.subject: [point.x for point in series.points] for series in curve.series} == {
        mode: [3.0],
        "kproxy": [3.0],
    }


def test_affinity_is_tried_too() -> None:
    found = tried("iptables", affinity_seconds=60)
    said = f"session affinity: {CONNECTIONS} connections went to 1 endpoint(s)"
    assert found["spread"].notes[1:] == (f"iptables: {said}", f"kproxy: {said}")


def test_without_endpoints_both_refuse() -> None:
    found = tried("nftables", everywhere=())
    assert found["spread"].notes[1:] == ("nftables: refused", "kproxy: refused")


def test_a_mode_that_cannot_be_tried_is_named() -> None:
    with pytest.raises(errors.ConfigError, match="ipvs mode cannot be tried"):
        trial.subjects(registry.MODES["ipvs"])


def test_no_descriptor_is_left() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    tried("nftables", everywhere=())
    assert sorted(Path("/proc/self/fd").iterdir()) == before
