"""The `kproxy` command.

Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration. Errors go to stderr as
one sentence; a traceback never reaches a user.
"""

import asyncio
import json
import platform
import sys
import traceback
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import console

import kproxy
from kproxy import config, errors, server
from kproxy.cli import bench, get
from kproxy.cli import simulate as simulate_command
from kproxy.demo import tour
from kproxy.model import services
from kproxy.ops import log

app = typer.Typer(
    name="kproxy",
    help="A userspace Kubernetes service proxy: Services in, virtual ClusterIPs out.",
    add_completion=False,
    rich_markup_mode=None,  # it cuts the names of options, and eats what stands in brackets
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


@app.command(short_help="Serve Services on virtual ClusterIPs.")
def run(
    manifests: Annotated[
        list[str] | None,
        typer.Option(
            "--manifests",
            "-f",
            metavar="PATH",
            help="File or directory of Services and endpoints, followed live; repeatable.",
            show_default=False,
        ),
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Follow the cluster that this names. Without it and --manifests: KUBECONFIG, "
            "~/.kube/config, or the pod's service account.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The kubeconfig's context.", show_default="current"),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace", "-n", metavar="NS", help="Serve only this namespace; repeatable."
        ),
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
        typer.Option(
            metavar="NAME", help="This node's name, for Local policies.", show_default="hostname"
        ),
    ] = None,
    allow_loopback_endpoints: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option("--allow-loopback-endpoints", help="Accept endpoints in 127.0.0.0/8 and ::1."),
    ] = False,
    ready_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Written as JSON when the first sync is done, removed at exit."
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help='Unix socket for kproxy get; "" for none.',
            show_default="a path of this user's own",
        ),
    ] = None,
    healthz_bind_address: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            help='Where /healthz and /livez are; "" for nowhere.',
            show_default=config.DEFAULT_HEALTHZ,
        ),
    ] = None,
    metrics_bind_address: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            help='Where /metrics and /proxyMode are; "" for nowhere.',
            show_default=config.DEFAULT_METRICS,
        ),
    ] = None,
    grace_period: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long connections may take to finish at exit."
        ),
    ] = 30.0,
    half_closed_timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="How long a half-closed connection may be silent."
        ),
    ] = 300.0,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long an open connection may be silent.",
            show_default="no limit",
        ),
    ] = None,
    keepalive_idle: Annotated[
        int,
        typer.Option(min=1, help="Seconds of silence before TCP keepalive probes a peer."),
    ] = 60,
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Open connections at once.", show_default="from ulimit -n"
        ),
    ] = None,
    max_affinity_clients: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Clients remembered per service port for affinity."),
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
    """Serve the Services of a cluster, or of manifests, on virtual ClusterIPs until stopped.

    Ctrl-C or SIGTERM stops accepting and lets connections finish; a second one ends at once.
    """
    writer = log.configure(log_format, log.LogLevel.DEBUG if verbose else log_level)
    try:
        run_async(
            server.serve(
                config.Config(
                    manifests=tuple(_path("--manifests", each) for each in manifests or ()),
                    cluster=config.cluster_access(
                        kubeconfig, context, has_manifests=bool(manifests)
                    ),
                    namespaces=frozenset(namespace or ()),
                    strategy=strategy,
                    node=config.node_name(hostname_override),
                    allow_loopback_endpoints=allow_loopback_endpoints,
                    ready_file=None if ready_file is None else _path("--ready-file", ready_file),
                    grace_period=grace_period,
                    half_closed_timeout=half_closed_timeout,
                    idle_timeout=idle_timeout,
                    keepalive_idle=keepalive_idle,
                    max_connections=max_connections,
                    max_affinity_clients=max_affinity_clients,
                    healthz=config.bind_address(
                        "--healthz-bind-address", healthz_bind_address, config.DEFAULT_HEALTHZ
                    ),
                    metrics=config.bind_address(
                        "--metrics-bind-address", metrics_bind_address, config.DEFAULT_METRICS
                    ),
                    control=config.control_socket(control),
                ),
                lambda: writer.dropped,
            )
        )
    finally:
        writer.close()


app.command("get", short_help="Show what a running proxy is doing.")(get.get)
app.command("simulate", short_help="Run a simulated cluster, for kubectl and for the proxy.")(
    simulate_command.simulate
)
app.add_typer(bench.app)


@app.command(short_help="Watch the proxy at work on this machine.")
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


def _path(flag: str, value: str) -> Path:
    """A path as given. Raises ConfigError for an empty one, which would mean this directory."""
    if not value:
        raise errors.ConfigError(f"{flag} is empty: give it a path, for instance ./manifests")
    return Path(value)


def run_async(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415  # absent on some platforms
    except ImportError:
        asyncio.run(main_task)
    else:
        uvloop.run(main_task)


def main() -> None:
    """Entry point: turns every failure into one sentence and an exit code."""
    sys.exit(_run(sys.argv[1:] or ["--help"]))


def _run(arguments: list[str]) -> int:
    """The exit code of `kproxy ARGUMENTS`; what went wrong is on stderr."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except typer.TyperException as error:
        return _fail(_usage_sentence(error), errors.ConfigError.exit_code)
    except Exception as error:
        first = _first_leaf(error)
        if isinstance(first, errors.KproxyError):
            return _fail(str(first), first.exit_code)
        if sys.flags.dev_mode:
            raise
        return _fail(_bug_sentence(first), errors.KproxyError.exit_code)


def _usage_sentence(error: typer.TyperException) -> str:
    """What typer has against the arguments, as one sentence in our own manner."""
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    message = message.replace("Input should be", "it must be")
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context else "kproxy"
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


def _bug_sentence(error: Exception) -> str:
    """An error nobody foresaw: no traceback, but enough to report it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    told = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"a bug{where}: {told}; please report it, with what python -X dev -m kproxy prints"


def _first_leaf(error: Exception) -> Exception:
    """The failure itself, out of the groups that tasks wrap it in: an expected one if there is."""
    if not isinstance(error, ExceptionGroup):
        return error
    expected = error.subgroup(errors.KproxyError)
    first: Exception = (expected or error).exceptions[0]
    return _first_leaf(first)


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"kproxy: {sentence}\n")
    return code
