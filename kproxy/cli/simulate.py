"""`kproxy simulate`: a cluster without machines, for kubectl and for `kproxy run --kubeconfig`."""

import asyncio
import contextlib
import gc
import ipaddress
import os
import shlex
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from kproxy import errors
from kproxy.cli import event_loop
from kproxy.cluster import documents
from kproxy.ops import log
from kproxy.portal import loopback
from kproxy.simulator import cluster, kubeconfig


def simulate(
    apply: Annotated[
        list[Path] | None,
        typer.Option(
            "--apply",
            "-f",
            metavar="FILE",
            help="Manifests to begin with; repeatable.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API server; 0: any free one.")
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
        str, typer.Option(metavar="CIDR", help="Range of cluster IPs.")
    ] = cluster.DEFAULT_SERVICE_CIDR,
    pod_cidr: Annotated[
        str, typer.Option(metavar="CIDR", help="Range of pod addresses; a /24 for each node.")
    ] = cluster.DEFAULT_POD_CIDR,
    nodes: Annotated[int, typer.Option(min=1, max=100, help="Number of nodes.")] = 3,
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
    options = cluster.Options(service_cidr=service_cidr, pod_cidr=pod_cidr, nodes=nodes, port=port)
    try:
        event_loop.run(_serve(options, apply or (), kubeconfig_out))
    finally:
        writer.close()


async def _serve(options: cluster.Options, manifests: Sequence[Path], out: Path | None) -> None:
    """Run the cluster until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    given = [document for path in manifests for document in _read(path)]
    async with cluster.Cluster(options) as running:
        running.apply(given)
        # What exists by now stays: walking through it again and again would hold up every pod.
        gc.collect()
        gc.freeze()
        with written_kubeconfig(running.kubeconfig, out) as path:
            typer.echo(_report(running, path))
            await stop.wait()


def _read(path: Path) -> list[Any]:
    """The documents of a manifest file. Raises ConfigError."""
    try:
        found = list(documents.read_yaml(path.read_bytes()))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise errors.ConfigError(
            f"cannot read manifests from {path}: {reason}; name a readable file with --apply"
        ) from error
    except documents.MalformedError as error:
        raise errors.ConfigError(f"{path} is {error}; correct it") from error
    for each in found:
        if each.flaw or not isinstance(each.value, dict):
            flaw = each.flaw or "it is not an object"
            raise errors.ConfigError(f"{path}, document {each.number}: {flaw}; correct it")
    return [each.value for each in found]


def _report(running: cluster.Cluster, path: Path) -> str:
    """What a user needs next."""
    options = running.options
    lines = [
        f"A simulated cluster is up at {running.url}: {options.nodes} nodes.",
        f"Services have addresses in {options.service_cidr}, pods in {options.pod_cidr}.",
    ]
    if running.shift_below > 1:
        lines.append(
            f"This user may not bind ports below {running.shift_below}: they are moved up by "
            f"{loopback.PORT_SHIFT}, in the objects too, so that 80 is {80 + loopback.PORT_SHIFT}."
        )
    foreign = [each for each in running.pod_cidrs if not _is_local(each[1])]
    if foreign:
        lines.append(
            f"Pods cannot listen in {', '.join(map(str, foreign))}, which is not this machine's. "
            f"As root, best in a network namespace: ip route add local {foreign[0]} dev lo"
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


def _is_local(address: ipaddress.IPv4Address) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def written_kubeconfig(content: dict[str, Any], out: Path | None) -> Iterator[Path]:
    """The kubeconfig in a file only this user may read, until the end; `out` None: a temporary.

    Raises ConfigError where that cannot be, or would replace somebody's own file.
    """
    with contextlib.ExitStack() as stack:
        if out is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kproxy-simulate-"))
            out = Path(folder) / "kubeconfig"
        else:
            out = out.absolute()
            _check_replaceable(out)
        text = yaml.safe_dump(content, sort_keys=False)
        _write(out, text)
        stack.callback(_remove, out, text)
        yield out


def _check_replaceable(path: Path) -> None:
    """Refuse what is there, unless it is the kubeconfig of an earlier run. Raises ConfigError."""
    if not os.path.lexists(path):
        return
    if stat.S_ISREG(path.lstat().st_mode):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            known = yaml.safe_load(path.read_text())
            if isinstance(known, dict) and known.get("current-context") == kubeconfig.NAME:
                return
    raise errors.ConfigError(
        f"--kubeconfig-out {path}: something is there that is not a simulated cluster's, name "
        "another path"
    )


def _write(path: Path, text: str) -> None:
    """Write whole and at once, mode 0600. Raises ConfigError."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise errors.ConfigError(
            f"--kubeconfig-out {path}: {reason}; name a path that can be written"
        ) from error


def _remove(path: Path, text: str) -> None:
    """Remove the file, if it still is what was written."""
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            path.unlink()
