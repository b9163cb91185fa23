"""The `kproxy` command.

Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration. Errors go to stderr as
one sentence; a traceback never reaches a user.
"""

import asyncio
import json
import platform
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import console

import kproxy
from kproxy import config, errors, server
from kproxy.demo import tour
from kproxy.model import services
from kproxy.ops import log

app = typer.Typer(
    name="kproxy",
    help="A userspace Kubernetes service proxy: Services in, virtual ClusterIPs out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PortalName(StrEnum):
    """Values of --portal."""

    LOOPBACK = "loopback"


class OutputFormat(StrEnum):
    """Values of -o where there is nothing to tabulate."""

    TEXT = "text"
    JSON = "json"


@app.command()
def run(
    manifests: Annotated[
        list[Path] | None,
        typer.Option(
            "--manifests",
            "-f",
            help="File or directory of Services and endpoints, followed live; repeatable.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Serve only this namespace; repeatable."),
    ] = None,
    portal: Annotated[  # noqa: ARG001  # one portal so far
        PortalName, typer.Option(help="How a ClusterIP becomes connectable.")
    ] = PortalName.LOOPBACK,
    strategy: Annotated[
        services.Strategy,
        typer.Option(help="How endpoints are chosen; per Service: annotation kproxy.io/strategy."),
    ] = services.Strategy.ROUND_ROBIN,
    hostname_override: Annotated[
        str | None,
        typer.Option(help="This node's name, for Local traffic policies [default: hostname]."),
    ] = None,
    allow_loopback_endpoints: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option("--allow-loopback-endpoints", help="Accept endpoints in 127.0.0.0/8 and ::1."),
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Written as JSON when the first sync is done, removed at exit."),
    ] = None,
    grace_period: Annotated[
        float,
        typer.Option(min=0, help="Seconds that connections may take to finish at exit."),
    ] = 30.0,
    half_closed_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds a half-closed connection may be silent."),
    ] = 300.0,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds an open connection may be silent.", show_default="no limit"
        ),
    ] = None,
    max_connections: Annotated[
        int | None,
        typer.Option(min=1, help="Open connections at once.", show_default="from ulimit -n"),
    ] = None,
    max_affinity_clients: Annotated[
        int, typer.Option(min=1, help="Clients remembered per service port for affinity.")
    ] = 65536,
    log_format: Annotated[log.LogFormat, typer.Option(help="Log lines as text or JSON.")] = (
        log.LogFormat.TEXT
    ),
    log_level: Annotated[log.LogLevel, typer.Option(help="Least level that is logged.")] = (
        log.LogLevel.INFO
    ),
    verbose: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--verbose", "-v", help="Short for --log-level debug.")
    ] = False,
) -> None:
    """Serve the Services of manifests on virtual ClusterIPs until stopped.

    Ctrl-C or SIGTERM stops accepting and lets connections finish; a second one ends at once.
    """
    writer = log.configure(log_format, log.LogLevel.DEBUG if verbose else log_level)
    try:
        run_async(
            server.serve(
                config.Config(
                    manifests=tuple(manifests or ()),
                    namespaces=frozenset(namespace or ()),
                    strategy=strategy,
                    node=config.node_name(hostname_override),
                    allow_loopback_endpoints=allow_loopback_endpoints,
                    ready_file=ready_file,
                    grace_period=grace_period,
                    half_closed_timeout=half_closed_timeout,
                    idle_timeout=idle_timeout,
                    max_connections=max_connections,
                    max_affinity_clients=max_affinity_clients,
                )
            )
        )
    finally:
        writer.close()


@app.command()
def demo() -> None:
    """Start a few pods and the proxy on this machine, and show connections being balanced."""
    run_async(tour.show(console.Console(highlight=False)))


@app.command()
def version(
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TEXT,
) -> None:
    """Print the version."""
    if output is OutputFormat.JSON:
        facts = {
            "version": kproxy.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"kproxy {kproxy.__version__}")


def run_async(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415  # absent on some platforms
    except ImportError:
        asyncio.run(main_task)
    else:
        uvloop.run(main_task)


def main() -> None:
    """Entry point: turns every expected failure into one sentence and an exit code."""
    try:
        app()
    except errors.KproxyError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except ExceptionGroup as group:
        expected, rest = group.split(errors.KproxyError)
        if rest is not None or expected is None:
            raise
        first = next(iter(_leaves(expected)))
        sys.exit(_fail(str(first), first.exit_code))


def _leaves(group: ExceptionGroup[errors.KproxyError]) -> list[errors.KproxyError]:
    found: list[errors.KproxyError] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, ExceptionGroup) else [each]
    return found


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"kproxy: {sentence}\n")
    return code
