"""`kproxy describe`: everything a running proxy knows of a Service, as kubectl describes things."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated

import typer

from kproxy import errors, go_durations
from kproxy.cli.get import (
    ControlOption,
    EveryNamespaceOption,
    NamespaceOption,
    Question,
    SelectorOption,
    checked_selector,
    control_path,
)
from kproxy.cli.parse import asked_resources, completion
from kproxy.cli.parse.asked_resources import View
from kproxy.cli.render import tables
from kproxy.model import addresses, forwarding

_SHOWN_ENDPOINTS = 100
"""Endpoints of a service port that are listed; `kproxy get endpoints` has all."""

_SHOWN_EVENTS = 4
"""Events of each reason that are listed, the latest ones; `kproxy get events` has all that are
kept."""


def describe(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="SERVICE",
            help="Services: service web, or svc/web.",
            show_default=False,
            autocompletion=completion.services_and_names,
        ),
    ],
    namespace: NamespaceOption = "default",
    all_namespaces: EveryNamespaceOption = False,  # noqa: FBT002  # a flag
    selector: SelectorOption = "",
    control: ControlOption = None,
) -> None:
    """Show everything that a running proxy knows of a Service.

    Its addresses and where they are bound, its endpoints and why some of them are not used.
    """
    wanted = asked_resources.wanted(arguments)
    if others := {each.kind.plural for each in wanted} - {"services"}:
        raise errors.ConfigError(f"only services can be described, not {', '.join(sorted(others))}")
    asked = Question(
        control_path(control),
        "" if all_namespaces else namespace or "default",
        checked_selector(selector, wanted),
    )
    found, missing = asked.all(wanted)
    events: dict[tuple[str, str], list[View]] = {}
    if any(views for _, views in found):
        for event in asked.events():
            events.setdefault((event["namespace"], event["service"]), []).append(event)
    texts = [
        "\n".join(_service(list(ports), events.get(key, [])))
        for _, views in found
        for key, ports in groupby(views, key=lambda view: (view["namespace"], view["name"]))
    ]
    if texts:
        sys.stdout.write("\n\n\n".join(texts) + "\n")
    elif not missing:
        where = f"in {asked.namespace} namespace." if asked.namespace else ""
        typer.echo(errors.printable(f"No resources found {where}".strip()), err=True)
    if missing:
        *others_missing, last = missing
        for each in others_missing:
            typer.echo(f"kproxy: {errors.printable(str(each))}", err=True)
        raise last


def _service(ports: Sequence[View], events: Sequence[View]) -> Iterator[str]:
    """The lines about a Service with these ports, to which these events happened lately."""
    first = ports[0]
    label_lines = [f"{key}={value}" for key, value in (first.get("labels") or {}).items()]
    yield from _fields(
        ("Name", first["name"]),
        ("Namespace", first["namespace"]),
        ("Labels", f"\n{' ' * _INDENT}".join(map(errors.printable, label_lines))),
        ("Type", first["type"]),
        ("Age", tables.age(first)),
        *_addresses(first),
        *(
            [("Filled In", f"{', '.join(filled_in)}: absent in the manifest")]
            if (filled_in := first.get("filled_in"))
            else []
        ),
        ("Strategy", first["strategy"]),
        ("Session Affinity", tables.affinity(first) or "None"),
        ("Internal Policy", first.get("internal_traffic_policy")),
        ("External Policy", first.get("external_traffic_policy")),
        *_for_load_balancers(first),
        *_asked_for_connections(first),
    )
    for view in ports:
        yield from _port(view)
    yield from _events(events)


def _addresses(view: View) -> Iterator[tuple[str, str]]:
    """The cluster IPs, as kubectl shows them: the first, and all of them."""
    every = view.get("cluster_ips") or []
    if every:
        yield "IP Families", ",".join(addresses.family(each) for each in every)
    yield "IP", view["cluster_ip"]
    if every:
        yield "IPs", ",".join(every)


def _for_load_balancers(view: View) -> Iterator[tuple[str, str]]:
    """What concerns load balancers in front of nodes, if the Service has it."""
    if port := view.get("health_check_node_port"):
        yield "Health Check", f"node port {port}"
    if ranges := view.get("load_balancer_source_ranges"):
        yield "Source Ranges", ",".join(ranges)


def _asked_for_connections(view: View) -> Iterator[tuple[str, str]]:
    """What annotations ask for connections, if they do."""
    if version := view.get("proxy_protocol"):
        yield "PROXY Protocol", version
    if age := view.get("max_connection_age_seconds"):
        grace = go_durations.shown(view["max_connection_age_grace_seconds"])
        yield "Connection Age", f"at most {go_durations.shown(age)}, and {grace} to end"
    if (drain := view.get("drain_seconds")) is not None:
        yield "Endpoint Removed", f"connections drain for {go_durations.shown(drain)}"
    elif view.get("on_endpoint_removed") == "reset":
        yield "Endpoint Removed", "connections are reset"


def _events(events: Sequence[View]) -> Iterator[str]:
    if not events:
        yield from _fields(("Events", ""))
        return
    yield "Events:"
    table = tables.Table(tables.EVENTS_OF_SERVICE)
    yield from _indented(table.lines(_latest(events)))


def _latest(events: Sequence[View]) -> list[View]:
    """The latest events of each reason: a Service with many addresses opens them all at once."""
    counts: Counter[str] = Counter()
    chosen = []
    for event in reversed(events):
        counts[event["reason"]] += 1
        if counts[event["reason"]] <= _SHOWN_EVENTS:
            chosen.append(event)
    return chosen[::-1]


def _port(view: View) -> Iterator[str]:
    connections = view["connections"]
    yield from _fields(
        ("Port", f"{view['port_name'] or '<unset>'}  {tables.port(view)}"),
        ("Connections", f"{connections['active']} active, {connections['total']} in all"),
    )
    yield "Addresses:"
    yield from _indented(tables.Table(_FRONTENDS).lines(view["frontends"]))
    found = view["endpoints"]
    yield f"Endpoints:{' ' * (_INDENT - 10)}{tables.picked(view)} in use"
    shown = [{**each, "port_view": view} for each in found[:_SHOWN_ENDPOINTS]]
    yield from _indented(tables.Table(_ENDPOINTS).lines(shown))
    if len(found) > _SHOWN_ENDPOINTS:
        yield (
            f"  and {len(found) - _SHOWN_ENDPOINTS} more: "
            f"kproxy get endpoints {view['name']} -n {view['namespace']}"
        )


_INDENT = 18
"""The column in which values begin."""


def _fields(*pairs: tuple[str, object]) -> Iterator[str]:
    for name, value in pairs:
        yield f"{name + ':':<{_INDENT}}{value or tables.NONE}"


def _indented(lines: Sequence[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def why_not(endpoint: View) -> str:
    """Why new connections do not go to an endpoint; "" if they do."""
    view = endpoint["port_view"]
    if endpoint["in_use"]:
        return ""
    if owner := endpoint.get("own_address_of"):
        return f"an address of kproxy itself, for {owner}: it would dial itself"
    if endpoint["penalized_until"] is not None:
        return f"failed a dial, avoided for {tables.penalized(endpoint)}"
    if endpoint["terminating"]:
        return "terminating" if endpoint["serving"] else "terminating, and not serving"
    if not endpoint["ready"]:
        return "not ready"
    if endpoint.get("weight") == 0:
        return "weight 0"
    states = {each["state"] for each in view["frontends"]}
    if states.isdisjoint({forwarding.FrontendState.BOUND, forwarding.FrontendState.NO_ENDPOINTS}):
        return f"no address of this port is open: {', '.join(sorted(states))}"
    policies = (view.get("internal_traffic_policy"), view.get("external_traffic_policy"))
    return "on another node, and the policy is Local" if "Local" in policies else "not picked"


_FRONTENDS = (
    tables.field("KIND", "kind"),
    tables.Column(
        "ADDRESS", lambda each: tables.socket_address(each["address"] or "*", each["port"])
    ),
    tables.Column(
        "BOUND", lambda each: tables.socket_address(each["bound_address"], each["bound_port"])
    ),
    tables.field("STATE", "state"),
    tables.field("DETAIL", "detail"),
)
_ENDPOINTS = (
    tables.ADDRESS,
    tables.yes("READY", "ready"),
    *tables.ENDPOINT_COUNTERS,
    tables.field("NODE", "node"),
    tables.Column("WHY NOT USED", why_not),
)
