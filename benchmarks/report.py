"""What the reader sees: the table of figures, the targets, and the JSON kept beside them."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import figures, peers
from benchmarks.figures import Round, Summary, Target, Verdict
from benchmarks.processes import BenchmarkError

SCHEMA = 1
ROUNDS_FOR_A_CLAIM = 5
_WIDTH_WITHOUT_TERMINAL = 120


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure, its unit, and how many decimals are worth reading."""

    figure: str
    label: str
    decimals: int = 0


ROWS = (
    Row("connect.connections_per_s", "connections/s, 64 at once"),
    Row("connect.cpu_us_per_connection", "CPU µs per connection", 1),
    Row("request.requests_per_s", "requests/s, 64 keep-alive"),
    Row("request.cpu_us_per_request", "CPU µs per request", 2),
    Row("request.p99_us", "p99 µs, 64 keep-alive"),
    Row("bulk.one_stream_gbit_per_s", "Gbit/s, one stream", 1),
    Row("bulk.one_stream_cpu_s_per_gb", "CPU s per GB, one stream", 3),
    Row("bulk.eight_streams_gbit_per_s", "Gbit/s, eight streams", 1),
    Row("bulk.eight_streams_cpu_s_per_gb", "CPU s per GB, eight streams", 3),
    Row("latency.p50_us", "p50 µs, 1 connection", 1),
    Row("latency.p99_us", "p99 µs, 1 connection", 1),
    Row("idle.rss_bytes_per_connection", "RSS bytes per idle connection"),
    Row("blackhole.healthy_p90_ms", "4 of 4 healthy: p90 ms", 2),
    Row("blackhole.failed", "1 of 4 black-holed: failed"),
    Row("blackhole.p50_ms", "1 of 4 black-holed: p50 ms", 2),
    Row("blackhole.p90_ms", "1 of 4 black-holed: p90 ms", 2),
    Row("blackhole.p99_ms", "1 of 4 black-holed: p99 ms", 2),
    Row("blackhole.max_ms", "1 of 4 black-holed: max ms", 2),
)

TARGETS = (
    Target(
        "connections/s ÷ HAProxy",
        "connect.connections_per_s",
        1.0,
        at_least=True,
        floor=0.95,
        against="haproxy",
    ),
    Target(
        "CPU µs per connection ÷ HAProxy",
        "connect.cpu_us_per_connection",
        1.05,
        against="haproxy",
    ),
    Target(
        "requests/s keep-alive ÷ HAProxy",
        "request.requests_per_s",
        1.0,
        at_least=True,
        against="haproxy",
    ),
    Target(
        "one-stream bulk ÷ HAProxy",
        "bulk.one_stream_gbit_per_s",
        1.4,
        at_least=True,
        against="haproxy",
    ),
    Target("CPU s per GB ÷ HAProxy", "bulk.one_stream_cpu_s_per_gb", 0.4, against="haproxy"),
    Target("RSS bytes per idle connection", "idle.rss_bytes_per_connection", 2000),
    Target("p99 at 64 keep-alive ÷ HAProxy", "request.p99_us", 1.1, against="haproxy"),
    Target("1 of 4 black-holed: failed (worst round)", "blackhole.failed", 0, worst=True),
    Target(
        "1 of 4 black-holed: p90 ÷ healthy p90",
        "blackhole.p90_ms",
        2.0,
        over="blackhole.healthy_p90_ms",
    ),
    Target("1 of 4 black-holed: max ms (worst round)", "blackhole.max_ms", 600, worst=True),
)

_COLOURS = {
    Verdict.REACHED: "green",
    Verdict.ABOVE_FLOOR: "yellow",
    Verdict.MISSED: "red",
    Verdict.NOT_MEASURED: "dim",
}


def number(value: float, decimals: int) -> str:
    """A number for reading: thousands apart, no false precision."""
    return f"{value:,.{decimals}f}"


def cell(summary: Summary | None, decimals: int) -> str:
    """The median, the spread in per cent when there is one, and below them the ratio."""
    if summary is None:
        return "-"
    text = number(summary.median, decimals)
    if summary.spread:
        text += f" [{100 * summary.spread:.0f} %]"
    if summary.ratio is not None:
        text += f"\nx {summary.ratio:.2f}" if summary.ratio >= 0.01 else f"\nx {summary.ratio:.1g}"
    return text


def figures_table(rounds: Sequence[Round], subject: str, names: Sequence[str]) -> Table:
    """Rows are figures, columns are peers, the subject first."""
    table = Table(
        title=f"{subject} beside its peers: median of {len(rounds)} round(s)",
        caption=f"[(max - min) / median]   x: {subject} ÷ peer, median of the ratios per round",
        show_lines=True,
    )
    table.add_column("figure")
    columns = [subject, *(name for name in names if name != subject)]
    for name in columns:
        table.add_column(name, justify="right")
    for row in ROWS:
        summaries = [figures.summarize(rounds, subject, name, row.figure) for name in columns]
        if any(summaries):
            cells = [cell(s, row.decimals).replace("[", r"\[") for s in summaries]
            table.add_row(row.label, *cells)
    return table


def targets_table(rounds: Sequence[Round], subject: str) -> Table:
    """Every target with what was reached and the verdict."""
    few = "" if len(rounds) >= ROUNDS_FOR_A_CLAIM else " (fewer than 5 rounds: a hint, no claim)"
    table = Table(title=f"{subject}: targets{few}")
    for heading in ("figure", "target", "reached", "verdict"):
        table.add_column(heading, justify="left" if heading in {"figure", "verdict"} else "right")
    for target in TARGETS:
        value = target.reached(rounds, subject)
        verdict = target.verdict(value)
        sign = "≥" if target.at_least else "≤"
        floor = "" if target.floor is None else f" (floor {target.floor:g})"
        table.add_row(
            target.label,
            f"{sign} {target.limit:g}{floor}",
            "-" if value is None else number(value, 2 if target.limit < 100 else 0),
            f"[{_COLOURS[verdict]}]{verdict}[/]",
        )
    return table


def show(rounds: Sequence[Round], subject: str, names: Sequence[str]) -> None:
    """Print both tables; piped output is wide enough not to wrap."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)
    console.print(figures_table(rounds, subject, names))
    console.print(targets_table(rounds, subject))


def machine() -> dict[str, Any]:
    """What the figures depend on and another reader cannot see."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory_gib": round(memory / 2**30, 1),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def versions(chosen: Sequence[peers.Peer]) -> dict[str, str]:
    """Program and version per peer, and of what makes the load."""
    found = {"python": platform.python_version()}
    tools = {"wrk": ("wrk", "-v"), "backend": ("nginx", "-v")}
    for label, (name, flag) in tools.items():
        found[label] = peers.first_line(peers.program(name, name), flag)
    for peer in chosen:
        try:
            found[peer.name] = peer.version()
        except BenchmarkError as error:
            found[peer.name] = str(error)
    return found


def document(
    rounds: Sequence[Round], subject: str, names: Sequence[str], facts: dict[str, Any]
) -> dict[str, Any]:
    """Everything measured, round by round, with medians, ratios and verdicts beside it."""
    summary: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        found = {n: figures.summarize(rounds, subject, n, row.figure) for n in names}
        summary[row.figure] = {n: asdict(s) for n, s in found.items() if s is not None}
    targets = []
    for target in TARGETS:
        value = target.reached(rounds, subject)
        targets.append({**asdict(target), "reached": value, "verdict": target.verdict(value)})
    return {
        "schema": SCHEMA,
        **facts,
        "subject": subject,
        "targets": targets,
        "summary": {figure: values for figure, values in summary.items() if values},
        "rounds": [asdict(r) for r in rounds],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON in one step: a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    draft.replace(path)
