"""The metrics `process_*`, which all Prometheus clients have.

`prometheus_client.ProcessCollector` counts descriptors by listing them: 5 ms for each thousand,
in one go, and a proxy has two for each connection. Linux 6.2 and later give the number at once.
"""

import math
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import registry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

_STAT = Path("/proc/self/stat")
_DESCRIPTORS = Path("/proc/self/fd")

_START_TIME, _VIRTUAL_BYTES, _RESIDENT_PAGES = 19, 20, 21
"""Fields of /proc/self/stat, see proc_pid_stat(5), counted from the one after the name."""


class ProcessCollector(registry.Collector):
    """The metrics of this process. Without /proc there are none, as with the library's."""

    def __init__(self) -> None:
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._booted = time.time() - uptime

    def collect(self) -> Iterator[Metric]:
        """Read /proc and the kernel's clocks. Where a file cannot be read, nothing is given."""
        try:
            fields = _STAT.read_bytes().rpartition(b")")[2].split()
            descriptors = _count_descriptors()
        except OSError:
            return
        ticks = os.sysconf("SC_CLK_TCK")
        spent = time.process_time()
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield _gauge(
            "virtual_memory_bytes", "Virtual memory size in bytes.", int(fields[_VIRTUAL_BYTES])
        )
        yield _gauge(
            "resident_memory_bytes",
            "Resident memory size in bytes.",
            int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE"),
        )
        yield _gauge(
            "start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            int(fields[_START_TIME]) / ticks + self._booted,
        )
        yield CounterMetricFamily(
            "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", spent
        )
        yield _gauge("open_fds", "Number of open file descriptors.", descriptors)
        limit = math.inf if most == resource.RLIM_INFINITY else most
        yield _gauge("max_fds", "Maximum number of open file descriptors.", limit)


def _count_descriptors() -> int:
    """Raises OSError."""
    return _DESCRIPTORS.stat().st_size or sum(1 for _ in _DESCRIPTORS.iterdir())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"process_{name}", text, value)
