"""`kproxy get`: what a running proxy is doing, as tables in kubectl's manner or as JSON."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer

from kproxy import errors
from kproxy.model import endpoints
from kproxy.ops import client, places

View: TypeAlias = dict[str, Any]


class Format(StrEnum):
    """Values of -o."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class Column(NamedTuple):
    """A column of a table: its heading, what it shows of a view; `is_wide` ones need -o wide."""

    heading: str
    show: Callable[[View], str]
    is_wide: bool = False


def get(
    resource: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help="services, endpoints, affinity or connections.",
            show_default=False,
        ),
    ],
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help="Only of this Service.", show_default=False)
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NS", help="Of this namespace.")
    ] = "default",
    all_namespaces: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")
    ] = False,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="How to show it.")
    ] = Format.TABLE,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The proxy's control socket.",
            show_default="that of kproxy run",
        ),
    ] = None,
) -> None:
    """Show the services, endpoints, affinity or connections of a running proxy.

    Short names such as svc and ep will do.
    """
    kind = _kind(resource)
    chosen = "" if all_namespaces else namespace
    views = client.fetch(_control(control), kind, namespace=chosen, name=service, on_warning=_warn)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # into `head` it ends as other tools do
    if output is Format.JSON:
        typer.echo(json.dumps(views, indent=2))
    elif views:
        typer.echo(_table(_columns(kind, all_namespaces, output is Format.WIDE), views))
    else:
        where = f"in namespace {chosen}" if chosen else "in any namespace"
        typer.echo(f"no {kind} {where}", err=True)


def _warn(text: str) -> None:
    typer.echo(f"Warning: {_printable(text)}", err=True)


def _control(given: str | None) -> Path:
    """The socket to ask. Raises ConfigError for an empty path."""
    if given is None:
        return places.default_control_path(os.environ, os.geteuid())
    if not given:
        raise errors.ConfigError("--control is empty: give the path that kproxy run was given")
    return Path(given)


_KINDS = {
    "services": ("service", "svc"),
    "endpoints": ("endpoint", "ep"),
    "affinity": ("affinities", "aff"),
    "connections": ("connection", "conn"),
}


def _kind(word: str) -> str:
    """The resource that is meant by its name, its singular or its short name, in any case."""
    asked = word.lower()
    for kind, others in _KINDS.items():
        if asked == kind or asked in others:
            return kind
    raise errors.ConfigError(f"no resource is called {word}: there are {', '.join(_KINDS)}")


def _table(columns: Sequence[Column], views: Iterable[View]) -> str:
    """Headings and rows, aligned; three spaces between columns, none at the end of a line."""
    rows = [[column.heading for column in columns]]
    rows += [[_printable(column.show(view)) or "<none>" for column in columns] for view in views]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _printable(cell: str) -> str:
    """`cell` without anything that would drive the terminal: names come from elsewhere."""
    return cell if cell.isprintable() else cell.encode("unicode_escape").decode()


def _columns(kind: str, has_namespace: bool, is_wide: bool) -> list[Column]:  # noqa: FBT001
    shown = [column for column in _COLUMNS[kind] if is_wide or not column.is_wide]
    return [_field("NAMESPACE", "namespace"), *shown] if has_namespace else shown


def _field(heading: str, key: str, *, is_wide: bool = False) -> Column:
    return Column(heading, lambda view: str(view[key]), is_wide)


def _yes(heading: str, key: str, *, is_wide: bool = False) -> Column:
    return Column(heading, lambda view: "true" if view[key] else "false", is_wide)


def _socket_address(address: str | None, port: int | None) -> str:
    return str(endpoints.Backend(address, port)) if address and port else ""


def _client(view: View) -> str:
    """A client that is gone has no port any more."""
    known = _socket_address(view["client_address"], view["client_port"])
    return known or str(view["client_address"])


def _port(view: View) -> str:
    return f"{view['port']}/{view['protocol']}"


def _bound(view: View) -> str:
    """Where the clients of a service port connect."""
    bound = [each for each in view["frontends"] if each["state"] == "bound"]
    return ",".join(_socket_address(each["bound_address"], each["bound_port"]) for each in bound)


def _states(view: View) -> str:
    """The states of its frontends, each once: mostly one word."""
    return ",".join(dict.fromkeys(each["state"] for each in view["frontends"]))


def _details(view: View) -> str:
    return "; ".join(dict.fromkeys(each["detail"] for each in view["frontends"] if each["detail"]))


def _in_use(view: View) -> str:
    """Of how many endpoints how many get connections."""
    used = sum(each["in_use"] for each in view["endpoints"])
    return f"{used}/{len(view['endpoints'])}"


def _affinity(view: View) -> str:
    affinity = view["session_affinity"]
    return f"{affinity['type']} {_duration(affinity['timeout_seconds'])}" if affinity else ""


def _penalized(view: View) -> str:
    """For how long an endpoint is still avoided; its probe may be overdue."""
    if view["penalized_until"] is None:
        return ""
    left = datetime.fromisoformat(view["penalized_until"]) - datetime.now(UTC)
    return _duration(max(left.total_seconds(), 0.0))


def _duration(seconds: float) -> str:
    """As kubectl shows an age: the two largest units, or seconds."""
    minutes, left = divmod(round(seconds), 60)
    if not minutes:
        return f"{left}s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}m{left}s" if left else f"{minutes}m"
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"


def _size(count: int) -> str:
    """Bytes in the largest binary unit that leaves a whole digit."""
    if count < 1024:
        return str(count)
    power = min((count.bit_length() - 1) // 10, 5)
    return f"{count / 1024**power:.1f}{'KMGTP'[power - 1]}i"


_BACKEND = Column(
    "ENDPOINT", lambda view: _socket_address(view["backend_address"], view["backend_port"])
)

_COLUMNS = {
    "services": (
        _field("NAME", "name"),
        _field("PORT-NAME", "port_name"),
        _field("TYPE", "type"),
        _field("CLUSTER-IP", "cluster_ip"),
        Column("PORT", _port),
        Column("BOUND", _bound),
        Column("STATE", _states),
        Column("ENDPOINTS", _in_use),
        Column("ACTIVE", lambda view: str(view["connections"]["active"])),
        Column("TOTAL", lambda view: str(view["connections"]["total"])),
        _field("STRATEGY", "strategy", is_wide=True),
        Column("AFFINITY", _affinity, is_wide=True),
        Column("DETAIL", _details, is_wide=True),
    ),
    "endpoints": (
        _field("SERVICE", "service"),
        _field("PORT-NAME", "port_name"),
        Column("ADDRESS", lambda view: _socket_address(view["address"], view["port"])),
        _yes("READY", "ready"),
        _yes("IN-USE", "in_use"),
        Column("PENALIZED", _penalized),
        _yes("SERVING", "serving", is_wide=True),
        _yes("TERMINATING", "terminating", is_wide=True),
        _field("NODE", "node", is_wide=True),
    ),
    "affinity": (
        _field("SERVICE", "service"),
        _field("PORT-NAME", "port_name"),
        _field("CLIENT", "client"),
        _BACKEND,
        Column("EXPIRES-IN", lambda view: _duration(view["expires_in_seconds"])),
        _field("SCOPE", "scope", is_wide=True),
    ),
    "connections": (
        _field("SERVICE", "service"),
        _field("PORT-NAME", "port_name"),
        Column("CLIENT", _client),
        Column(
            "FRONTEND",
            lambda view: _socket_address(view["frontend_address"], view["frontend_port"]),
            is_wide=True,
        ),
        _BACKEND,
        _field("STATE", "state"),
        Column("AGE", lambda view: _duration(view["age_seconds"])),
        Column("FROM-CLIENT", lambda view: _size(view["bytes_from_client"])),
        Column("FROM-ENDPOINT", lambda view: _size(view["bytes_from_backend"])),
    ),
}
