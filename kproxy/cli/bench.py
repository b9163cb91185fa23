"""`kproxy bench`: measure, and the generator, the backend and the comparison on their own."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import console

from kproxy import errors, settings
from kproxy.bench import budget, run
from kproxy.bench.lab import network, processes
from kproxy.bench.load import backend, headroom, loading, messages, tools
from kproxy.bench.report import arithmetic, html_page, results, table
from kproxy.bench.report import compare as compare_runs
from kproxy.bench.scenarios import catalogue
from kproxy.bench.subjects import peers
from kproxy.cli.parse import go_flags

_LONGEST = 86400.0
"""Seconds that a load or a delay may last."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

app = typer.Typer(
    name="bench",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            metavar="NAME",
            help=f"One of {', '.join(catalogue.SCENARIOS)}; repeatable.",
            show_default="all",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peers",
            metavar="NAMES",
            help=f"{', '.join(peers.KNOWN)}, by commas; or NAME=COMMAND with {{listen}} and "
            "{backend} (or {backends}) in it; repeatable.",
            show_default=f"{','.join(peers.DEFAULT)}, where installed",
        ),
    ] = None,
    quick: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--quick", help="A shorter run: under 90 seconds.")
    ] = False,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Rounds of each scenario.",
            show_default="5 to 30; quick: 1 to 8",
        ),
    ] = None,
    load_with: Annotated[
        list[str] | None,
        typer.Option(
            "--load",
            metavar="TOOL",
            help="Make the load with wrk (connect, request) or iperf3 (bulk); repeatable.",
            show_default="kproxy's own generator",
        ),
    ] = None,
    kernel: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option("--kernel", help="Beside iptables and nftables, in network namespaces; root."),
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write every raw figure.")
    ] = None,
    html_file: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page with charts.")
    ] = None,
) -> int:
    """Measure what a userspace proxy costs: kproxy beside no proxy, plain Python and its peers.

    Ctrl-C ends it early, and what was measured until then is reported (exit code 130).
    """
    if context.invoked_subcommand:
        return 0
    size = budget.QUICK if quick else budget.FULL
    if rounds:
        size = budget.with_rounds(size, rounds)
    request = run.Request(
        size=size,
        scenarios=chosen_scenarios(scenario or []),
        peers=tuple(each for text in peer for each in peers.parse(text)) if peer else None,
        with_kernel=kernel,
        load_with=tuple(_tool(name) for name in load_with or []),
        command=("kproxy", *sys.argv[1:]),
    )
    to_json, to_html = _writable("--json", json_file), _writable("--html", html_file)
    if to_html:
        html_page.require_charts()
    terminal = console.Console(stderr=True, highlight=False)
    report = run.execute(request, terminal)
    if to_json:  # first: a closed pipe on stdout must not lose the results
        results.write(report, to_json)
    if to_html:
        html_page.write_html(report, to_html)
    table.show(report, console.Console(highlight=False))
    return INTERRUPTED if report.interrupted else 0


def chosen_scenarios(names: list[str]) -> tuple[str, ...]:
    """In the order of a run, each once. Raises ConfigError for an unknown name."""
    for name in names:
        if name not in catalogue.SCENARIOS:
            known = ", ".join(catalogue.SCENARIOS)
            raise errors.ConfigError(f"--scenario: unknown scenario {name!r}; there are {known}")
    return tuple(name for name in catalogue.SCENARIOS if not names or name in names)


def _tool(name: str) -> tools.Tool:
    if name not in tools.TOOLS:
        raise errors.ConfigError(f"--load: unknown tool {name!r}; there are wrk and iperf3")
    return tools.TOOLS[name]


def _writable(flag: str, value: str | None) -> Path | None:
    """The path of a file to write. Raises ConfigError now, not after minutes of measuring."""
    if value is None:
        return None
    path = Path(value)
    if not value or path.is_dir() or not path.parent.is_dir():
        raise errors.ConfigError(f"{flag} {value!r}: name a file in a directory that exists")
    return path


@app.command(
    "load", cls=go_flags.Command, short_help="Put a load on a server, and print what was measured."
)
def put_load(
    target: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help=f"One of {', '.join(messages.KINDS)}.")
    ] = "request",
    seconds: Annotated[str, typer.Option(metavar="DURATION", help="How long.")] = "5s",
    connections: Annotated[int, typer.Option(min=1, metavar="N", help="At once.")] = 64,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="N", help="Requests per second, in all; for rate and arrivals."
        ),
    ] = 1000.0,
    mib: Annotated[
        int, typer.Option(min=1, metavar="N", help="MiB to move each way; for bulk.")
    ] = 1024,
    direction: Annotated[
        str, typer.Option(metavar="WAY", help="down, up or both; for bulk.")
    ] = "down",
    count: Annotated[
        int | None,
        typer.Option(
            "--processes", min=1, metavar="N", help="Generators.", show_default="cores / 2"
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FORMAT", help="text or json.")
    ] = "text",
) -> int:
    """Load HOST:PORT with small HTTP requests (or streams, from `kproxy bench backend --bulk`).

    connect and request go as fast as answers come. rate and arrivals keep to --rate, even if the
    server is slower, and count latency from when each request was due.
    """
    plan = _plan(
        {
            "kind": kind,
            "target": network.parse(target),
            "seconds": settings.parse_duration(seconds, "--seconds", 0.01, _LONGEST),
            "connections": connections,
            "rate": rate,
            "size": mib << 20,
            "direction": direction,
        }
    )
    run.allow_open_files()
    with tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder, processes.interruptible():
        try:
            with loading.start(count or loading.default_processes(), Path(folder)) as pool:
                outcome = pool.run(plan)
        except KeyboardInterrupt:
            processes.end_leftovers()
            return INTERRUPTED
    if output == "json":
        typer.echo(msgspec.json.encode(outcome).decode())
    else:
        typer.echo("\n".join(_described(plan, outcome)))
    return 0 if outcome.done else 1


def _plan(fields: dict[str, object]) -> messages.Plan:
    try:
        return msgspec.convert(fields, messages.Plan)
    except msgspec.ValidationError as error:
        raise errors.ConfigError(f"no such load: {error}; see kproxy bench load --help") from None


def _described(plan: messages.Plan, outcome: messages.Outcome) -> list[str]:
    """The outcome of a load, in lines."""
    lines = []
    if plan.kind == "bulk" and outcome.seconds:
        lines.append(f"{outcome.done * 8 / outcome.seconds / 1e9:,.2f} Gbit/s")
    else:
        per_second = (
            f", {outcome.done / outcome.seconds:,.0f} per second" if outcome.seconds else ""
        )
        lines.append(f"{outcome.done:,} done in {outcome.seconds:.2f} s{per_second}")
    if outcome.times:
        quantiles = {p: arithmetic.percentile(outcome.times, p) * 1e6 for p in (50, 90, 99, 100)}
        lines.append("latency " + ", ".join(f"p{p} {v:,.0f} µs" for p, v in quantiles.items()))
    lines += [f"failed {count:,}: {reason}" for reason, count in outcome.failures.items()]
    spare = max(0.0, 1 - outcome.busy)
    limit = "; the generator may be the limit" if outcome.busy > headroom.LIMIT else ""
    lines.append(f"generator idle {spare:.0%} of the time{limit}")
    return lines


@app.command(
    "backend", cls=go_flags.Command, short_help="Answer requests and streams, until Ctrl-C."
)
def serve_backend(
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Answer requests here; repeatable."),
    ] = None,
    bulk: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve streams here.")
    ] = None,
    delay: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to delay each answer.")
    ] = "0s",
    count: Annotated[
        int | None,
        typer.Option("--processes", min=1, metavar="N", help="Servers.", show_default="cores / 2"),
    ] = None,
) -> None:
    """Serve as the backend behind a proxy: answers contain the port that they come from."""
    addresses = [network.parse(each) for each in listen or ["127.0.0.1:8080"]]
    held_back = settings.parse_duration(delay, "--delay", 0, _LONGEST)
    spec = messages.Backend(
        tuple(messages.Listen(each, held_back) for each in addresses),
        network.parse(bulk) if bulk else None,
    )
    run.allow_open_files()
    with (
        tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder,
        processes.interruptible(),
        backend.start(spec, count or loading.default_processes(), Path(folder)) as running,
    ):
        typer.echo(f"listening on {', '.join(map(str, (*addresses, *([bulk] if bulk else []))))}")
        try:
            running.watch()
        except KeyboardInterrupt:
            served = running.served()
            idle = 1 - headroom.busy(served.elapsed, served.waited)
            accepted = sum(served.accepted.values())
            typer.echo(
                f"{served.requests:,} requests on {accepted:,} connections; "
                f"idle {idle:.0%} of the time"
            )


@app.command(cls=go_flags.Command, short_help="What changed between two runs, beyond noise.")
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json")],
    after: Annotated[Path, typer.Argument(metavar="B.json")],
) -> None:
    """Compare two files written with --json: ratios to the peers, and what is noise."""
    compare_runs.show(results.read(before), results.read(after), console.Console(highlight=False))
