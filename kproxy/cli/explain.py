"""`kproxy explain`: what a client of a Service would meet, and how other modes would do it."""

import dataclasses
import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from kproxy import config, errors
from kproxy.cli import event_loop
from kproxy.cli.get import (
    ControlOption,
    DocumentOption,
    EveryNamespaceOption,
    NamespaceOption,
    control_path,
)
from kproxy.cli.parse import completion
from kproxy.cli.render import explanations, output, ways
from kproxy.explain import evidence, questions
from kproxy.explain.answer import Verdict
from kproxy.model import addresses, names
from kproxy.model.kinds import node_kind
from kproxy.model.kinds import registry as kind_registry
from kproxy.modes import mode, registry, traces, world
from kproxy.modes.iptables import trace as traced
from kproxy.modes.packet import Packet
from kproxy.ops import log
from kproxy.ops.views import control_client
from kproxy.sources import once, source, store

_LOOPBACK = {addresses.Family.IPV4: "127.0.0.1", addresses.Family.IPV6: "::1"}


def explain(  # options
    service: Annotated[
        str | None,
        typer.Argument(
            metavar="[NS/]SERVICE[:PORT]",
            help="A Service, and the name or number of one of its ports.",
            show_default=False,
            autocompletion=completion.services,
        ),
    ] = None,
    every: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--all", help="With --as: every Service.")
    ] = False,
    namespace: NamespaceOption = "default",
    all_namespaces: EveryNamespaceOption = False,  # noqa: FBT002  # a flag
    client: Annotated[
        str, typer.Option("--from", metavar="IP", help="The client's address.", show_default=False)
    ] = "",
    to: Annotated[
        str,
        typer.Option(metavar="ADDRESS:PORT", help="Where the client connects.", show_default=False),
    ] = "",
    mode_name: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="MODE",
            help=f"Show what kube-proxy would program: {', '.join(registry.MODES)}.",
            show_default=False,
            autocompletion=completion.words(tuple(registry.MODES)),
        ),
    ] = "",
    rules_of: Annotated[
        str,
        typer.Option(
            metavar="RELEASE",
            help=f"With --as: rules of Kubernetes {', '.join(world.Release)}.",
        ),
    ] = world.Release.V1_33.value,
    comments: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--comments/--no-comments", help="With --as: a sentence on each rule.")
    ] = True,
    part: Annotated[
        str,
        typer.Option(
            metavar="TOOL", help="With --as: only what this tool loads.", show_default=False
        ),
    ] = "",
    trace: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--trace", help="The way of one connection through each mode.")
    ] = False,
    applied: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option(
            "--apply-in-namespace",
            help="With --as iptables or nftables, as root: try the rules, and kproxy beside them.",
        ),
    ] = False,
    html: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="With --apply-in-namespace: draw a page of charts.",
            show_default=False,
        ),
    ] = "",
    family: Annotated[
        str, typer.Option("--ip-family", metavar="FAMILY", help="With --as: IPv4 or IPv6.")
    ] = addresses.Family.IPV4.value,
    output_format: DocumentOption = "text",
    manifests: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Explain the objects of files.", show_default=False),
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Explain the objects of a cluster.", show_default=False),
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="NAME", help="A context of it.", show_default=False)
    ] = None,
    hostname_override: Annotated[
        str | None, typer.Option(metavar="NAME", help="This node's name.", show_default=False)
    ] = None,
    node_zone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="As for kproxy run.", show_default=False)
    ] = None,
    node_ip: Annotated[
        str,
        typer.Option(
            metavar="IP",
            help="With --as: this node's address.  [default: 127.0.0.1 or ::1]",
            show_default=False,
        ),
    ] = "",
    cluster_cidr: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="The network of pods.", show_default=False),
    ] = None,
    external_ip_cidrs: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="As for kproxy run.", show_default=False),
    ] = None,
    allow_loopback_endpoints: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--allow-loopback-endpoints", help="As for kproxy run.")
    ] = False,
    control: ControlOption = None,
) -> None:
    """Say what a client of a Service would meet, and why.

    The running proxy is asked, or with --manifests or --kubeconfig the objects alone. The exit code
    is 0 only if a connection would be served. With --as: what kube-proxy would program in another
    mode, as the tool of that mode reads it; it is printed, and never applied.
    """
    _check(service, mode_name, output_format, part, every=every, trace=trace)
    printed = output.document(output_format)
    if (applied and (every or not mode_name)) or (html and not applied):
        raise errors.ConfigError(
            "--apply-in-namespace tries one Service, with --as iptables or --as nftables; --html "
            "draws what it measures"
        )
    question = _question(service, namespace, client, to)
    if trace:
        _check_families(question, family)
    objects = _Objects(
        {
            "manifests": manifests,
            "kubeconfig": kubeconfig,
            "context": context,
            "node": hostname_override,
            "node_zone": node_zone,
            "cluster_cidr": cluster_cidr,
            "external_ip_cidrs": external_ip_cidrs,
            "allow_loopback_endpoints": allow_loopback_endpoints or None,
        },
        control_path(control),
    )
    if not mode_name and not trace:
        known = objects.evidence(question)
        answer = questions.explain(known)
        if printed is not None:
            sys.stdout.write(printed(answer.view()))
        else:
            typer.echo(explanations.text(answer, known))
        raise typer.Exit(0 if answer.verdict is Verdict.SERVED else 1)
    scope = "" if (every and all_namespaces) or (every and namespace == "default") else namespace
    node = _node(node_ip, cluster_cidr, family, rules_of)
    wanted = (scope, "") if every else tuple(question.service)
    found, place = objects.held(*wanted)
    seen = world.world(found, dataclasses.replace(node, name=place.name, zone=place.zone))
    if (trace or applied) and not (question.port or question.to):
        first = next((each.ports[0].name for each, _ in found if each.ports), "")
        question = dataclasses.replace(question, port=first)  # as without --trace
    if not every:
        seen = _narrowed(seen, question)
    if trace:
        packet = _packet(question, seen)
        around = traced.Surroundings(own=(node.address,), outgoing=node.address)
        typer.echo(ways.text(packet, list(traces.traces(seen, packet, around))))
        return
    if applied:
        _try(seen, registry.MODES[mode_name], html)
        return
    sys.stdout.write(_rendered(registry.MODES[mode_name], seen, part, comments=comments))


def _check(
    service: str | None,
    mode_name: str,
    output_format: str,
    part: str,
    *,
    every: bool,
    trace: bool,
) -> None:
    """Refuse what does not fit together. Raises ConfigError."""
    if mode_name and mode_name not in registry.MODES:
        known = ", ".join(registry.MODES)
        raise errors.ConfigError(f"--as {mode_name}: there is no such mode; it is one of {known}")
    if output.document(output_format) is not None and (mode_name or trace):
        raise errors.ConfigError(f"-o {output_format}: rules and --trace are text; leave -o out")
    if part and not mode_name:
        raise errors.ConfigError(f"--part {part} is for --as: name a mode, such as --as ipvs")
    if every and not mode_name:
        raise errors.ConfigError("--all is for --as: name the Service that is to be explained")
    if every and service:
        raise errors.ConfigError("--all and a Service do not fit together: leave one out")
    if not every and not service:
        raise errors.ConfigError("name a Service, or give --all with --as")
    if trace and (mode_name or every):
        raise errors.ConfigError("--trace shows every mode: name one Service, and leave --as out")


def _question(service: str | None, namespace: str, client: str, to: str) -> evidence.Question:
    """What the arguments ask. Raises ConfigError."""
    text = (service or "").removeprefix("svc/").removeprefix("service/").removeprefix("services/")
    scope, slash, rest = text.rpartition("/")
    name, _, port = rest.partition(":")
    if service is not None and (not name or (slash and not scope) or "/" in scope):
        raise errors.ConfigError(f'"{service}" names no Service: write [NAMESPACE/]SERVICE[:PORT]')
    source = addresses.parse(client) if client else None
    if client and source is None:
        raise errors.ConfigError(f"--from {client}: must be an IP address")
    target = addresses.parse_socket_address(to) if to else None
    if to and target is None:
        raise errors.ConfigError(f"--to {to}: must be ADDRESS:PORT, for instance 10.96.0.10:53")
    given = [text for text in (source and source.text, target and target.address) if text]
    if len({addresses.family(text) for text in given}) > 1:
        raise errors.ConfigError(
            f"--from {client} and --to {to} are of different IP families: give two of one family"
        )
    where = names.NamespacedName(scope or namespace or "default", name)
    return evidence.Question(where, port, source.text if source else "", target)


def _check_families(question: evidence.Question, family: str) -> None:
    """Refuse a trace of addresses that are not of `family`. Raises ConfigError."""
    to = question.to.address if question.to else ""
    for flag, address in (("--from", question.client), ("--to", to)):
        if address and addresses.family(address).value != family:
            raise errors.ConfigError(
                f"{flag} {address}: the trace is of {family}; give --ip-family "
                f"{addresses.family(address)}"
            )


def _narrowed(seen: world.World, question: evidence.Question) -> world.World:
    """The ports that a question names. Raises KproxyError if there is none."""
    wanted = question.port
    ports = tuple(p for p in seen.ports if wanted in ("", p.name.port, str(p.number)))
    if not ports:
        where = f" with port {wanted}" if wanted else ""
        raise errors.KproxyError(
            f"there is no Service {question.service}{where} with a cluster IP of "
            f"{seen.node.family}: kproxy explain {question.service} says more"
        )
    return dataclasses.replace(seen, ports=ports)


def _node(node_ip: str, cidrs: Sequence[str] | None, family: str, release: str) -> world.Node:
    """The node for which rules are rendered, but for its name and zone. Raises ConfigError."""
    try:
        chosen = addresses.Family(family)
    except ValueError:
        raise errors.ConfigError(f"--ip-family {family}: must be IPv4 or IPv6") from None
    try:
        of = world.Release(release)
    except ValueError:
        known = ", ".join(world.Release)
        raise errors.ConfigError(f"--rules-of {release}: must be one of {known}") from None
    address = addresses.parse(node_ip or _LOOPBACK[chosen])
    if address is None:
        raise errors.ConfigError(f"--node-ip {node_ip}: must be an IP address")
    if addresses.family(address.text) is not chosen:
        raise errors.ConfigError(
            f"--node-ip {node_ip}: must be an address of {chosen}, as --ip-family says"
        )
    networks = [cidr for given in cidrs or () for cidr in given.split(",")]
    for cidr in networks:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise errors.ConfigError(f"--cluster-cidr {cidr}: {error}") from None
    mine = [cidr for cidr in networks if addresses.family(cidr) is chosen]
    return world.Node(
        address=address.text,
        cluster_cidr=mine[0] if mine else None,
        family=chosen,
        release=of,
    )


def _packet(question: evidence.Question, seen: world.World) -> Packet:
    """The first packet of the connection that a question is about."""
    port = seen.ports[0]
    if question.to is not None:
        for each in seen.ports:
            if question.to.port in (each.number, each.node_port):
                port = each
    to = question.to or addresses.SocketAddress(port.cluster_ip, port.number)
    is_ipv4 = seen.node.family is addresses.Family.IPV4
    client = question.client or ("192.0.2.1" if is_ipv4 else "2001:db8::1")
    return Packet(client, to, port.protocol)


def _try(seen: world.World, chosen: mode.Mode, html: str) -> None:
    """Try the first port of a Service in a namespace. Raises KproxyError."""
    from rich.console import Console  # noqa: PLC0415  # what follows is for this alone

    from kproxy.bench.report import html_page, table  # noqa: PLC0415
    from kproxy.bench.trial import trial  # noqa: PLC0415

    if html:
        html_page.require_charts()
    report = trial.run(seen, chosen, on_step=lambda step: typer.echo(f"kproxy: {step}", err=True))
    table.show(report, Console())
    for scenario in report.scenarios:
        for note in scenario.notes:
            typer.echo(f"{scenario.title}: {note}")
    if html:
        html_page.write_html(report, Path(html))


def _rendered(chosen: mode.Mode, seen: world.World, part: str, *, comments: bool) -> str:
    """What a mode renders: one part, or with comments all of them. Raises ConfigError."""
    parts = chosen.render(seen)
    if part:
        parts = tuple(each for each in parts if each.loader.split()[0] == part.split(maxsplit=1)[0])
        if not parts:
            known = ", ".join(each.loader for each in chosen.render(seen))
            raise errors.ConfigError(f"--part {part}: {chosen.name} mode has {known}")
    elif not comments:
        parts = parts[:1]  # one text that one tool loads
    lines: list[str] = []
    for each in parts:
        if len(parts) > 1:
            lines.append(f"# For {each.loader}:")
        lines += each.text(comments=comments)
    return "".join(f"{line}\n" for line in lines)


def _zone(chosen: config.Config, held: store.Store) -> str:
    """The zone of this node: as the flag says, or its Node."""
    own_node = held.get(node_kind.KIND, node_kind.KIND.key(chosen.node))
    return chosen.node_zone or (own_node.zone if own_node is not None else "")


class _Place(NamedTuple):
    """The name and the zone of the node for which traffic policies and hints are judged."""

    name: str
    zone: str


class _Objects:
    """Where objects come from: files or a cluster if one is named, else the running proxy."""

    def __init__(self, flags: dict[str, Any], control: Path) -> None:
        self._flags = {key: value for key, value in flags.items() if value}
        self._control = control
        self._is_asked_alone = bool(flags["manifests"] or flags["kubeconfig"] or flags["context"])

    def evidence(self, question: evidence.Question) -> evidence.Evidence:
        """What is known about the Service of a question. Raises KproxyError."""
        if not self._is_asked_alone:
            return control_client.fetch_evidence(self._control, question)
        from kproxy import parts  # noqa: PLC0415  # half a second, and the proxy needs none of it
        from kproxy.explain import gather  # noqa: PLC0415

        chosen, held, problems = self._read(question.service.namespace)
        through = parts.make_portal(chosen)
        options = parts.options(chosen, through)
        options = dataclasses.replace(options, zone=_zone(chosen, held))
        try:
            return gather.from_objects(
                question,
                held,
                options,
                chosen.namespaces,
                "the objects alone",
                problems,
            )
        finally:
            through.close()

    def held(self, namespace: str, name: str) -> tuple[list[control_client.Held], _Place]:
        """The Services so named, "" for all, each with its endpoint objects; and the node.

        Raises KproxyError.
        """
        if not self._is_asked_alone:
            found = control_client.fetch_objects(self._control, namespace, name)
            return found, self._place_of_proxy()
        chosen, held, _ = self._read(namespace)
        found = []
        for each in sorted(held.service_names()):
            service = held.service(each)
            is_named = namespace in ("", each.namespace) and name in ("", each.name)
            if service is not None and is_named:
                found.append((service, held.sources(each)))
        return found, _Place(chosen.node, _zone(chosen, held))

    def _place_of_proxy(self) -> _Place:
        """The node of the running proxy, unless flags name another. Raises KproxyError."""
        node = control_client.fetch_status(self._control)["node"]
        zone = self._flags.get("node_zone")
        if name := self._flags.get("node"):
            return _Place(config.node_name(name), zone or "")  # only its own node's zone is known
        return _Place(node["name"], zone or node["zone"])

    def _read(
        self, namespace: str
    ) -> tuple[config.Config, store.Store, tuple[source.Problem, ...]]:
        """The objects of files, or of one namespace of a cluster, pods among them; and what is
        wrong with some."""
        from kproxy import parts  # noqa: PLC0415

        chosen = config.load(self._flags, os.environ)
        if chosen.cluster is not None and namespace and not chosen.namespaces:
            chosen = dataclasses.replace(chosen, namespaces=frozenset({namespace}))
        kinds = tuple(
            dataclasses.replace(
                each, collection=dataclasses.replace(each.collection, on_demand=False)
            )
            for each in kind_registry.KINDS
        )
        read: list[source.Source] = []

        async def reading() -> None:
            followed = parts.make_source(chosen, kinds)
            await once.read(followed)
            read.append(followed)

        # The log goes to stderr, as the answer is on stdout. What is logged later is about other
        # Services, and is lost with the closed writer.
        writer = log.configure(log.LogFormat.TEXT, log.LogLevel.WARNING)
        try:
            event_loop.run(reading())
        finally:
            writer.close()
        (followed,) = read
        return chosen, followed.store, followed.problems()
