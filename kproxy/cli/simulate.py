"""`kproxy simulate`: a cluster without machines, for kubectl and for `kproxy run --kubeconfig`."""

import asyncio
import errno
import gc
import ipaddress
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from kproxy import errors, settings
from kproxy.cli import event_loop
from kproxy.cli.parse import kubeconfig_file
from kproxy.ops import log
from kproxy.portal import loopback
from kproxy.simulator import applied_files, cluster, ranges
from kproxy.simulator.api import emulation, server_faults
from kproxy.simulator.store import statuses
from kproxy.system import process

_log = structlog.get_logger(__name__)


def simulate(
    apply: Annotated[
        list[Path] | None,
        typer.Option(
            "--filename",
            "--apply",
            "-f",
            metavar="FILE",
            help='Manifests to begin with: a file, a directory, or "-" for stdin; repeatable.',
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="Port of the API server; 0: any free one."
        ),
    ] = 0,
    kubeconfig_out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where to write the kubeconfig; removed at exit.",
            show_default="a temporary file",
        ),
    ] = None,
    service_cidr: Annotated[
        str | None,
        typer.Option(
            metavar="CIDR",
            help="Range of cluster IPs; dual-stack: an IPv6 range behind a comma.",
            show_default=f"{ranges.FIRST.services}, or one that is free",
        ),
    ] = None,
    pod_cidr: Annotated[
        str | None,
        typer.Option(
            metavar="CIDR",
            help="Range of pod addresses, a /24 for each node; dual-stack: an IPv6 range behind a "
            "comma, a /64 for each.",
            show_default=f"{ranges.FIRST.pods}, or one that is free",
        ),
    ] = None,
    emulate: Annotated[
        emulation.Version, typer.Option(help="The version of kube-apiserver to behave like.")
    ] = emulation.Version.V1_33,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[,FIELD=VALUE...]",
            help="A fault of the API from the start, such as "
            '"silent-watch,resource=services"; repeatable. docs/simulator.md has the kinds.',
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Number of nodes.")] = 3,
    dns: Annotated[
        str,
        typer.Option(
            metavar="IP:PORT",
            help="Where the cluster's DNS, the endpoint of the Service kube-dns, answers; port 0: "
            "any free one. none: the cluster has no DNS.",
        ),
    ] = "127.0.0.1:0",
    log_format: Annotated[log.LogFormat, typer.Option(help="Log lines as text or JSON.")] = (
        log.LogFormat.TEXT
    ),
    log_level: Annotated[log.LogLevel, typer.Option(help="Least level that is logged.")] = (
        log.LogLevel.INFO
    ),
) -> None:
    """Run a simulated cluster: an API server, controllers, and pods that answer HTTP.

    Ctrl-C or SIGTERM ends it; nothing is kept.
    """
    writer = log.configure(log_format, log_level)
    try:
        wanted = [_fault(each) for each in fault or ()]
        given = applied_files.read(apply or ())
        if kubeconfig_out is not None:
            kubeconfig_file.check(kubeconfig_out)
        with ranges.claimed() as free:
            options = cluster.Options(
                service_cidr=service_cidr or free.services,
                pod_cidr=pod_cidr or free.pods,
                load_balancer_cidr=free.load_balancers,
                node_ports=free.picked,
                nodes=nodes,
                port=port,
                emulate=emulate,
                dns=_listen(dns),
            )
            event_loop.run(_serve(options, given, wanted, kubeconfig_out))
    finally:
        writer.close()


async def _serve(
    options: cluster.Options,
    given: Sequence[applied_files.Manifest],
    wanted: Sequence[tuple[server_faults.Kind, Mapping[str, Any]]],
    out: Path | None,
) -> None:
    """Run the cluster until a signal comes."""
    stop = asyncio.Event()
    with process.signals.handling(stop=stop.set, kill=stop.set):
        await _serve_until(stop, options, given, wanted, out)


async def _serve_until(
    stop: asyncio.Event,
    options: cluster.Options,
    given: Sequence[applied_files.Manifest],
    wanted: Sequence[tuple[server_faults.Kind, Mapping[str, Any]]],
    out: Path | None,
) -> None:
    async with cluster.Cluster(options) as running:
        for manifest in given:
            _apply(running, manifest)
        # What exists now lives until the end: each collection that walks it would delay every pod.
        gc.freeze()
        gc.enable()
        with kubeconfig_file.written(running.kubeconfig, out) as file:
            running.server.on_access_change(lambda: _rewrite(file, running))
            for kind, settings in wanted:
                running.faults.set(kind, **settings)
            _show(_report(running, file.path))
            await stop.wait()


def _show(text: str) -> None:
    """Print it, unless the terminal was closed: then a SIGHUP comes, if it is not ignored."""
    try:
        typer.echo(text)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        process.discard_output()


def _apply(running: cluster.Cluster, manifest: applied_files.Manifest) -> None:
    """Create an object, or warn that the cluster has no objects of its kind. Raises KproxyError."""
    if applied_files.resource_of(manifest.content, running.served) is None:
        reason = applied_files.why_unknown(manifest.content, running.served)
        _log.warning(f"{manifest.origin}: {manifest.title} is skipped: {reason}")
        return
    try:
        running.apply([manifest.content])
    except errors.KproxyError as error:
        raise errors.KproxyError(f"{manifest.origin}: {error}") from error


def _rewrite(file: kubeconfig_file.KubeconfigFile, running: cluster.Cluster) -> None:
    """Write the new token or authority into the kubeconfig."""
    try:
        file.write(running.kubeconfig)
    except errors.KproxyError as error:
        _log.error("cannot rewrite the kubeconfig, clients keep the old one", error=str(error))


def _fault(text: str) -> tuple[server_faults.Kind, Mapping[str, Any]]:
    """What a --fault flag describes. Raises ConfigError."""
    kind, *fields = text.split(",")
    body: dict[str, Any] = {"kind": kind}
    for field in fields:
        name, _, value = field.partition("=")
        body[name] = _number(value)
    try:
        return server_faults.parsed(body)
    except statuses.StatusError as error:
        raise errors.ConfigError(f"--fault {text}: {error}") from error


def _listen(text: str) -> settings.Listen | None:
    """What --dns says. Raises ConfigError."""
    try:
        return settings.ListenAddress(settings.Listen("127.0.0.1", 53)).parse(text)
    except ValueError as error:
        raise errors.ConfigError(f"--dns {text}: {error}") from None


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[0-9]{1,12}\.[0-9]{1,12}", text, re.ASCII):
        return float(text)
    return text


def _report(running: cluster.Cluster, path: Path) -> str:
    """Print the commands that a user needs next."""
    options = running.options
    lines = [
        f"A simulated cluster is up at {running.url}: {options.nodes} nodes.",
        f"Services have addresses in {options.service_cidr}, pods in {options.pod_cidr}.",
    ]
    if running.dns is not None:
        lines.append(
            f"DNS for the zone cluster.local is at {running.dns.address}, and behind the Service "
            f"kube-dns at {running.dns.known.server}."
        )
    picked = options.node_ports
    if picked is not None and picked != ranges.FIRST.picked:
        lines.append(
            "Another simulated cluster runs on this machine: this one has ranges of its own, and "
            f"gives node ports from {picked[0]} to {picked[-1]}."
        )
    if running.shift_below > 1:
        lines.append(
            f"This user may not bind ports below {running.shift_below}: they are moved up by "
            f"{loopback.PORT_SHIFT}, in the objects too, so that 80 is {80 + loopback.PORT_SHIFT}."
        )
    foreign = [each for each in running.pod_cidrs if not _is_local(each[1])]
    if foreign:
        lines.append(
            f"Pods cannot listen in {', '.join(map(str, foreign))}, which is not this machine's. "
            "As root, best in a network namespace: "
            + "; ".join(f"ip route add local {each} dev lo" for each in foreign)
        )
    quoted = shlex.quote(str(path))
    lines += [
        "",
        f"  export KUBECONFIG={quoted}",
        "  kubectl get svc,pods --output wide",
        f"  kproxy run --kubeconfig {quoted} --allow-loopback-endpoints",
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether the address is free to listen on.

    Any IPv6 address can be bound in some way. One is this machine's if what is sent there comes
    from there; connecting a socket for datagrams sends nothing.
    """
    if address.version == 6:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((str(address), 9))
            except OSError:
                return False
            return bool(probe.getsockname()[0] == str(address))
    with socket.socket() as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
