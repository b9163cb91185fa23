"""Well-known load generators in place of ours: wrk for requests, iperf3 for streams.

Figures taken with both should agree, which also checks our generator.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.load import messages

_TIMEOUT = 30.0
_BUSY_PAUSE = 0.05

# A summary as one JSON line; only `done` is defined, so that wrk runs no Lua per request.
_WRK_SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  local quantiles = {}
  for i = 1, 1000 do quantiles[i] = string.format("%d", latency:percentile(i / 10)) end
  io.write(string.format(
    '{"done": %d, "seconds": %f, "connect": %d, "read": %d, "write": %d, "timeout": %d, ' ..
    '"status": %d, "quantiles": [%s]}\\n',
    summary.requests, summary.duration / 1e6, e.connect, e.read, e.write, e.timeout, e.status,
    table.concat(quantiles, ",")))
end
"""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that carries out plans of some kinds; `run` raises KproxyError when it fails."""

    name: str
    kinds: frozenset[messages.Kind]
    run: Callable[[messages.Plan, Path], messages.Outcome]

    def version(self) -> str:
        """Its version. Raises KproxyError when it is not installed."""
        return processes.first_line(processes.find_program(self.name, self.name), "-v")


def _wrk(plan: messages.Plan, folder: Path) -> messages.Outcome:
    """wrk counts in whole seconds. `times` are a thousand quantiles, not single operations."""
    script = folder / "wrk.lua"
    script.write_text(_WRK_SCRIPT)
    argv = [
        processes.find_program("wrk", "wrk"),
        *("-t", "1", "-c", str(plan.connections), "-d", f"{max(1, round(plan.seconds))}s"),
        *("-s", str(script)),
        *(("-H", "Connection: close") if plan.kind == "connect" else ()),
        f"http://{plan.target}/",
    ]
    result = _run("wrk", argv, folder, plan.seconds)
    reasons = ("connect", "read", "write", "timeout", "status")
    return messages.Outcome(
        seconds=result["seconds"],
        done=result["done"],
        times=[micros / 1e6 for micros in result["quantiles"]],
        failures={reason: result[reason] for reason in reasons if result[reason]},
    )


def _iperf3(plan: messages.Plan, folder: Path) -> messages.Outcome:
    direction = {"down": ("--reverse",), "up": (), "both": ("--bidir",)}[plan.direction]
    argv = [
        processes.find_program("iperf3", "iperf3"),
        *("--client", plan.target.host, "--port", str(plan.target.port), "--json"),
        *("--bytes", str(plan.size), "--parallel", str(plan.connections), *direction),
    ]
    deadline = time.monotonic() + _TIMEOUT
    while "error" in (result := _run("iperf3", argv, folder, plan.seconds)):
        # A server takes one client at a time, and ends with the one before a moment after it left.
        if "busy" not in result["error"] or time.monotonic() > deadline:
            raise errors.KproxyError(f"iperf3: {result['error']}")
        time.sleep(_BUSY_PAUSE)
    end = result["end"]
    sums = [end["sum_received"]]
    if plan.direction == "both":
        sums.append(end["sum_received_bidir_reverse"])
    cpu = end["cpu_utilization_percent"]["host_total"]
    return messages.Outcome(
        seconds=max(each["seconds"] for each in sums),
        done=sum(each["bytes"] for each in sums),
        busy=cpu / 100,
    )


def _run(name: str, argv: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    with processes.start(name, argv, folder, interactive=True) as child:
        output = child.output(seconds + _TIMEOUT)
    try:
        return dict(json.loads(output[output.index(b"{") :]))
    except ValueError:
        raise errors.KproxyError(f"{name} printed no result") from None


TOOLS = {
    each.name: each
    for each in (
        Tool("wrk", frozenset({"connect", "request"}), _wrk),
        Tool("iperf3", frozenset({"bulk"}), _iperf3),
    )
}


@contextlib.contextmanager
def iperf3_server(folder: Path) -> Iterator[network.Address]:
    """An iperf3 server until the context ends."""
    [address] = network.free_addresses(1)
    argv = [processes.find_program("iperf3", "iperf3"), "--server"]
    argv += ["--bind", address.host, "--port", str(address.port)]
    with processes.start("iperf3", argv, folder) as server:
        processes.wait_listening(server, address)
        yield address
