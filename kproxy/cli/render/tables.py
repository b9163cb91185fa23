"""Views as tables in kubectl's manner.

With names of some 20 letters a table without -o wide has at most 100 columns, with -A as well;
what does not fit is shown by -o wide. Rows are never wrapped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from kproxy import errors
from kproxy.cli.parse import asked_resources
from kproxy.cli.parse.asked_resources import View
from kproxy.model import addresses, ages, forwarding

GAP = "  "
NONE = "<none>"


class Column(NamedTuple):
    """A column: its heading, and what it shows of a view; `is_wide` ones need -o wide."""

    heading: str
    show: Callable[[View], str]
    is_wide: bool = False


class Table:
    """Rows below headings, aligned; it grows while a watch goes on.

    A column is as wide as its widest cell so far. `paint` colours a cell without changing its
    length.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        has_headings: bool = True,
        paint: Callable[[str, str], str] = lambda _heading, cell: cell,
    ) -> None:
        self._columns = columns
        self._paint = paint
        self._has_headings = has_headings
        self._widths = [len(column.heading) if has_headings else 0 for column in columns]

    def lines(self, views: Iterable[View]) -> list[str]:
        """The next rows, under the headings if they are the first."""
        rows = [
            [errors.printable(column.show(view)) or NONE for column in self._columns]
            for view in views
        ]
        if not rows:
            return []
        if self._has_headings:
            rows.insert(0, [column.heading for column in self._columns])
        self._widths = [
            max(width, *map(len, cells))
            for width, cells in zip(self._widths, zip(*rows, strict=True), strict=True)
        ]
        made = [self._line(row, is_heading=False) for row in rows[self._has_headings :]]
        if self._has_headings:
            made.insert(0, self._line(rows[0], is_heading=True))
        self._has_headings = False
        return made

    def _line(self, row: Sequence[str], *, is_heading: bool) -> str:
        cells = []
        for column, cell, width in zip(self._columns, row, self._widths, strict=True):
            shown = cell if is_heading else self._paint(column.heading, cell)
            cells.append(shown + " " * (width - len(cell)))
        return GAP.join(cells).rstrip()


_STATES = forwarding.FrontendState
_STATE_COLOURS: dict[str, int] = {_STATES.BOUND: 32, _STATES.NO_ENDPOINTS: 33}


def coloured(heading: str, cell: str) -> str:
    """A state in green, yellow or, when something is wrong, red."""
    if heading != "STATE":
        return cell
    return f"\x1b[{_STATE_COLOURS.get(cell, 31)}m{cell}\x1b[0m"


def is_colourful(environment: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Whether output may have colours: see no-color.org, and terminals that know none."""
    return is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def columns(
    kind: asked_resources.Kind,
    *,
    is_wide: bool = False,
    has_namespace: bool = False,
    has_kind: bool = False,
    has_labels: bool = False,
) -> list[Column]:
    """The columns of a resource. `has_kind` prefixes names with it, as `service/web`."""
    narrow = [column for column in _COLUMNS[kind.plural] if not column.is_wide]
    wide = [column for column in _COLUMNS[kind.plural] if column.is_wide] if is_wide else []
    name, *others = narrow + wide
    if has_kind:
        name = Column(name.heading, lambda view: f"{kind.singular}/{view[kind.name_field]}")
    shown = [name, *others]
    if has_labels and kind.plural == "services":
        shown.append(Column("LABELS", lambda view: labels(view.get("labels") or {})))
    return [field("NAMESPACE", "namespace"), *shown] if has_namespace else shown


def labels(found: Mapping[str, str]) -> str:
    """Labels as kubectl shows them."""
    return ",".join(f"{key}={value}" for key, value in found.items())


def field(heading: str, key: str, *, is_wide: bool = False) -> Column:
    """A column that shows one field as it is."""
    return Column(heading, lambda view: str(view[key] or ""), is_wide)


def yes(heading: str, key: str, *, is_wide: bool = False) -> Column:
    """A column that shows whether a field is true."""
    return Column(heading, lambda view: "true" if view[key] else "false", is_wide)


def socket_address(address: str | None, port: int | None) -> str:
    """`IP:PORT`, "" when there is none."""
    return str(addresses.SocketAddress(address, port)) if address and port else ""


def _client(view: View) -> str:
    """A client that is gone has no port any more."""
    known = socket_address(view["client_address"], view["client_port"])
    return known or str(view["client_address"])


def port(view: View) -> str:
    """`80/TCP`; "" for an ExternalName, which has no port."""
    return f"{view['port']}/{view['protocol']}" if view["port"] else ""


def _bounds(view: View) -> list[str]:
    """Where the clients of a service port connect."""
    bound = [each for each in view["frontends"] if each["state"] == _STATES.BOUND]
    return [socket_address(each["bound_address"], each["bound_port"]) for each in bound]


def _states(view: View) -> str:
    """The states of its frontends, each once: mostly one word.

    What is not for this proxy, as the IPv6 address of a dual-stack Service, is left out where the
    Service has other addresses.
    """
    states = dict.fromkeys(each["state"] for each in view["frontends"])
    if len(states) > 1:
        states.pop(_STATES.NOT_SERVED, None)
    return ",".join(states)


def _details(view: View) -> str:
    return "; ".join(dict.fromkeys(each["detail"] for each in view["frontends"] if each["detail"]))


def picked(view: View) -> str:
    """To how many endpoints new connections go, of how many."""
    return f"{sum(each['in_use'] for each in view['endpoints'])}/{len(view['endpoints'])}"


def affinity(view: View) -> str:
    """`ClientIP 3h`; "" without."""
    found = view["session_affinity"]
    return f"{found['type']} {duration(found['timeout_seconds'])}" if found else ""


def penalized(view: View) -> str:
    """How long an endpoint is still avoided; its probe may be overdue."""
    if view["penalized_until"] is None:
        return ""
    left = datetime.fromisoformat(view["penalized_until"]) - datetime.now(UTC)
    return duration(max(left.total_seconds(), 0.0))


def counted(count: int, noun: str) -> str:
    """`1 port`, `2 ports`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """As kubectl shows an age."""
    return ages.human_duration(round(seconds))


def age(view: View) -> str:
    """How old a Service is; `<unknown>` when its source does not say."""
    return ages.age(view.get("created"), datetime.now(UTC))


def _size(count: int) -> str:
    """Bytes in the largest binary unit that leaves a whole digit."""
    if count < 1024:
        return str(count)
    power = min((count.bit_length() - 1) // 10, 5)
    return f"{count / 1024**power:.1f}{'KMGTP'[power - 1]}i"


def counter(name: str) -> Callable[[View], str]:
    """What shows a counter of an endpoint's or a Service's connections."""
    return lambda view: str(view["connections"][name])


def share(view: View) -> str:
    """Which part of a service port's connections went to an endpoint."""
    part = view["connections"]["share"]
    return "" if part is None else f"{part:.1%}"


def _gateway(view: View) -> str:
    """What a route refers to: `edge`, `edge:tcp`, `infra/edge:9300`."""
    elsewhere = view["gateway_namespace"] != view["namespace"]
    gateway = f"{view['gateway_namespace']}/{view['gateway']}" if elsewhere else view["gateway"]
    section = ":".join(str(each) for each in (view["listener"], view["port"]) if each)
    return f"{gateway}:{section}" if section else str(gateway)


def _backends(view: View) -> str:
    """The Services of a route with their weights: `web*9,canary*1`."""
    return ",".join(f"{each['name']}*{each['weight']}" for each in view["backends"])


_MOST_HOSTS = 3


def _some(hosts: Sequence[str]) -> str:
    """The first hosts, and how many more there are, as kubectl shows them."""
    more = len(hosts) - _MOST_HOSTS
    return ",".join(hosts[:_MOST_HOSTS]) + (f" + {more} more..." if more > 0 else "")


def _parts(places: Sequence[str], part: int) -> str:
    """The hosts (0) or the ports (2) of `host:port`s, each once."""
    return ",".join(dict.fromkeys(each.rpartition(":")[part] for each in places))


CHANGE = "change"
"""The key under which a row of a watch has its change: ADDED, MODIFIED or DELETED."""
CHANGES = Column("EVENT", lambda view: f"{view[CHANGE]:8}")


def _event_age(view: View) -> str:
    return ages.age(view["time"], datetime.now(UTC))


def _service_port(view: View) -> str:
    """The service port of an event, if it concerns one."""
    return ":".join(filter(None, (view["service"], view["port_name"])))


def _event_details(view: View) -> str:
    shown = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in view["details"].items()
        if value != []
    }
    return " ".join(f"{name}={value}" for name, value in shown.items())


_BACKEND = Column(
    "ENDPOINT", lambda view: socket_address(view["backend_address"], view["backend_port"])
)
ADDRESS = Column("ADDRESS", lambda view: socket_address(view["address"], view["port"]))
_FRONTEND = Column(
    "FRONTEND",
    lambda view: socket_address(view["frontend_address"], view["frontend_port"]),
    is_wide=True,
)
ENDPOINT_COUNTERS = (
    Column("TOTAL", counter("total"), is_wide=True),
    Column("ACTIVE", counter("active"), is_wide=True),
    Column("FAILURES", counter("dial_failures"), is_wide=True),
    Column("SHARE", share, is_wide=True),
)

_AGE = Column("AGE", _event_age)
_REASON = field("REASON", "reason")
_EVENT_DETAILS = Column("DETAILS", _event_details)
EVENTS_OF_SERVICE = (_AGE, _REASON, field("PORT-NAME", "port_name"), _EVENT_DETAILS)
"""Where it is clear which Service is meant."""

_COLUMNS = {
    "events": (
        _AGE,
        Column("TIME", lambda view: view["time"][11:23]),
        _REASON,
        Column("SERVICE", _service_port),
        _EVENT_DETAILS,
    ),
    "services": (
        field("NAME", "name"),
        Column("PORT", port),
        Column("BOUND", lambda view: "".join(_bounds(view)[:1])),
        Column("STATE", _states),
        Column("ENDPOINTS", picked),
        Column("ACTIVE", counter("active")),
        Column("TOTAL", counter("total"), is_wide=True),
        field("PORT-NAME", "port_name", is_wide=True),
        field("TYPE", "type", is_wide=True),
        field("CLUSTER-IP", "cluster_ip", is_wide=True),
        Column("ALSO-BOUND", lambda view: ",".join(_bounds(view)[1:]), is_wide=True),
        field("PORTAL", "portal", is_wide=True),
        field("STRATEGY", "strategy", is_wide=True),
        Column("AFFINITY", affinity, is_wide=True),
        Column("AGE", age, is_wide=True),
        Column("DETAIL", _details, is_wide=True),
    ),
    "gateways": (
        field("NAME", "name"),
        field("LISTENER", "listener"),
        Column("PORT", port),
        Column("BOUND", lambda view: "".join(_bounds(view)[:1])),
        Column("STATE", _states),
        Column("ROUTES", lambda view: str(view["attached_routes"] or 0)),
        Column("ENDPOINTS", picked),
        Column("ACTIVE", counter("active")),
        Column("TOTAL", counter("total"), is_wide=True),
        Column("ALSO-BOUND", lambda view: ",".join(_bounds(view)[1:]), is_wide=True),
        field("PORTAL", "portal", is_wide=True),
        field("STRATEGY", "strategy", is_wide=True),
        Column("DETAIL", _details, is_wide=True),
    ),
    "routes": (
        field("NAME", "name"),
        field("PROTOCOL", "protocol"),
        Column("GATEWAY", _gateway),
        yes("ACCEPTED", "accepted"),
        yes("RESOLVED", "resolved"),
        Column("BACKENDS", _backends),
        field("DETAIL", "detail", is_wide=True),
    ),
    "ingresses": (
        field("NAME", "name"),
        field("CLASS", "class"),
        Column("HOSTS", lambda view: _some(view["hosts"])),
        Column("ADDRESS", lambda view: _parts(view["addresses"], 0)),
        Column("PORTS", lambda view: _parts(view["addresses"], 2)),
        Column("AGE", age),
        yes("SERVED", "served", is_wide=True),
        Column("SERVICES", lambda view: ",".join(view["services"]), is_wide=True),
        Column("PROBLEMS", lambda view: "; ".join(view["problems"]), is_wide=True),
    ),
    "endpoints": (
        field("SERVICE", "service"),
        field("PORT-NAME", "port_name"),
        ADDRESS,
        yes("READY", "ready"),
        yes("IN-USE", "in_use"),
        Column("PENALIZED", penalized),
        *ENDPOINT_COUNTERS,
        yes("SERVING", "serving", is_wide=True),
        yes("TERMINATING", "terminating", is_wide=True),
        field("NODE", "node", is_wide=True),
    ),
    "affinity": (
        field("SERVICE", "service"),
        field("PORT-NAME", "port_name"),
        field("CLIENT", "client"),
        _BACKEND,
        Column("EXPIRES-IN", lambda view: duration(view["expires_in_seconds"])),
        field("SCOPE", "scope", is_wide=True),
    ),
    "connections": (
        field("SERVICE", "service"),
        Column("CLIENT", _client),
        _BACKEND,
        field("STATE", "state"),
        Column("AGE", lambda view: duration(view["age_seconds"])),
        field("PORT-NAME", "port_name", is_wide=True),
        _FRONTEND,
        Column("FROM-CLIENT", lambda view: _size(view["bytes_from_client"]), is_wide=True),
        Column("FROM-ENDPOINT", lambda view: _size(view["bytes_from_backend"]), is_wide=True),
    ),
    "hosts": (
        field("SERVICE", "service"),
        field("ADDRESS", "address"),
        Column("HOSTNAMES", lambda view: ",".join(view["hostnames"])),
    ),
}
