"""The metrics `process_*` are those of the client library."""

import gc
import math
import os
import resource
import socket
from pathlib import Path

import pytest
from prometheus_client import process_collector
from prometheus_client.metrics_core import Metric

from kproxy.ops.prometheus import process_metrics


def collected() -> dict[str, Metric]:
    """Each metric by its name."""
    return {each.name: each for each in process_metrics.ProcessCollector().collect()}


def value(name: str) -> float:
    """What a metric says."""
    (sample,) = collected()[name].samples
    return float(sample.value)


def test_they_are_named_and_measured_as_the_librarys() -> None:
    theirs = {
        each.name: each for each in process_collector.ProcessCollector(registry=None).collect()
    }
    mine = collected()
    assert mine.keys() == theirs.keys()
    for name, metric in mine.items():
        assert (metric.type, metric.documentation) == (
            theirs[name].type,
            theirs[name].documentation,
        )
        (sample,), (other,) = metric.samples, theirs[name].samples
        assert sample.name == other.name
        assert math.isclose(sample.value, other.value, rel_tol=0.2, abs_tol=1.0)


@pytest.fixture(params=["number", "list"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the kernel counts descriptors: Linux before 6.2 gives only a list of them."""
    if request.param == "list":
        monkeypatch.setattr(Path, "stat", lambda *_, **__: os.stat_result((0,) * 10))


@pytest.mark.usefixtures("way")
def test_descriptors_are_counted() -> None:
    gc.collect()  # what earlier tests have left is closed now, and not below
    before = value("process_open_fds")
    opened = [socket.socket() for _ in range(100)]
    try:
        assert value("process_open_fds") == before + 100
    finally:
        for each in opened:
            each.close()


def test_no_limit_is_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert value("process_max_fds") == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert value("process_max_fds") == math.inf
