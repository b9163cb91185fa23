"""`kproxy status`: the state of a running proxy, on one screen."""

import sys
from typing import Any

import typer

from kproxy import errors
from kproxy.cli.get import ControlOption, DocumentOption, control_path
from kproxy.cli.render import output, tables
from kproxy.ops.views import control_client


def status(
    output_format: DocumentOption = "text",
    control: ControlOption = None,
) -> None:
    """Show the state of a running proxy: ready or not, its source, what it serves, what it lost."""
    printed = output.document(output_format)
    view = control_client.fetch_status(
        control_path(control),
        lambda warning: typer.echo(f"Warning: {errors.printable(warning)}", err=True),
    )
    if printed is not None:
        sys.stdout.write(printed(view))
        return
    for name, value in _lines(view) + _ingress_lines(view):
        sys.stdout.write(f"{name + ':':<14}{errors.printable(value)}\n")


def _lines(view: dict[str, Any]) -> list[tuple[str, str]]:
    source, connections, node = view["source"], view["connections"], view["node"]
    zone = f", in zone {node['zone']}" if node["zone"] else ""
    unread = source["unread_seconds"]
    read = (
        "not read yet"
        if not source["has_synced"]
        else ", ".join(f"{what} not read for {tables.duration(s)}" for what, s in unread.items())
        or "up to date"
    )
    state = "ready" if view["ready"] else "not ready" if view["alive"] else "stuck: not ready"
    problems = source["problems"]
    return [
        ("Proxy", f"{state}, version {view['version']}, process {view['pid']}"),
        ("Source", source["description"]),
        ("State", f"{read}, last sync {view['last_sync'] or 'never'}"),
        ("Problems", str(problems) + (", see the log of the proxy" if problems else "")),
        ("Node", f"{node['name']}{zone}"),
        ("Portal", view["portal"]),
        ("Services", f"{view['services']} with {tables.counted(view['service_ports'], 'port')}"),
        (
            "Frontends",
            ", ".join(f"{count} {state}" for state, count in view["frontends"].items()) or "none",
        ),
        ("Connections", f"{connections['active']} of {connections['limit']} at most"),
        ("Penalized", tables.counted(view["penalized_endpoints"], "endpoint")),
        ("Lost", f"{tables.counted(view['dropped_log_lines'], 'line')} of the log"),
    ]


def _ingress_lines(view: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a proxy that serves Ingresses."""
    found = view.get("ingresses")
    if found is None:
        return []
    places = [found[name] for name in ("ingress_http", "ingress_https") if found[name]]
    counts = [f"{found['served']} served at {' and '.join(places)}"]
    counts += [tables.counted(found[each], each[:-1]) for each in ("problems", "reloads")]
    return [("Ingresses", ", ".join(counts))]
