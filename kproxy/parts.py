"""The parts of a proxy that depend on its configuration, made from it; `server` joins them."""

from kproxy import component, config, events, settings
from kproxy.command import settings as command_settings
from kproxy.datapath import data_path, syscalls
from kproxy.dns import settings as dns_settings
from kproxy.gateway import state as gateway_state
from kproxy.ingress import settings as ingress_settings
from kproxy.ingress import state as ingress_state
from kproxy.model import names
from kproxy.model.kinds import node_kind, service_cidr_kind
from kproxy.model.kinds import registry as kind_registry
from kproxy.ops.views import observed
from kproxy.plane import in_process, plane
from kproxy.portal import portal, registry
from kproxy.reconcile import report
from kproxy.reconcile.planning import rules, work
from kproxy.sources import source, store


def make_source(
    cfg: config.Config, kinds: kind_registry.Kinds = kind_registry.KINDS
) -> source.Source:
    """The source of a Server, a cluster or files: of these `kinds`, and of this proxy's Node.

    ServiceCIDRs are read where a portal needs to know ClusterIPs' networks and no setting says so.
    """
    kinds = (*kinds, node_kind.only(cfg.node))
    if cfg.ingress:
        from kproxy.ingress import kinds as ingress_kinds  # noqa: PLC0415  # only this needs them

        kinds = (*kinds, *ingress_kinds.KINDS)
    if cfg.portal is portal.PortalName.LOCAL and not cfg.service_cluster_ip_range:
        kinds = (*kinds, service_cidr_kind.KIND)
    if cfg.dns is not None or cfg.gateway or cfg.wait:
        # Headless Services may be a route's backend, or waited for.
        kinds = kind_registry.for_names(kinds)
    if cfg.gateway:
        from kproxy.model.kinds.gateway import registry as gateway_kinds  # noqa: PLC0415

        kinds = (*kinds, *gateway_kinds.KINDS)
    # The client of API servers takes as long to load as everything else: files need none of it.
    if cfg.cluster is not None:
        from kproxy.sources.api import api_bounds, informer  # noqa: PLC0415

        return informer.InformerSource(
            cfg.cluster,
            on_problem=report.log_problem,
            namespaces=cfg.namespaces,
            allow_loopback=cfg.allow_loopback_endpoints,
            kinds=kinds,
            limits=api_bounds.Bounds(cfg.max_list_objects, cfg.max_list_pages, cfg.max_list_bytes),
        )
    from kproxy.sources.files import manifests  # noqa: PLC0415

    return manifests.ManifestSource(
        cfg.manifests,
        on_problem=report.log_problem,
        allow_loopback=cfg.allow_loopback_endpoints,
        kinds=kinds,
    )


def make_plane(cfg: config.Config, feed: events.Feed) -> plane.DataPlane:
    """The data plane of a Server, which closes it. Raises ConfigError as `InProcessPlane` does."""
    return in_process.InProcessPlane(
        limits(cfg), max_affinity_clients=cfg.max_affinity_clients, feed=feed
    )


def limits(cfg: config.Config) -> data_path.Limits:
    """The bounds of the data path."""
    return data_path.Limits(
        half_closed_timeout=cfg.half_closed_timeout,
        idle_timeout=cfg.idle_timeout,
        keepalive_idle=cfg.keepalive_idle,
        proxy_protocol_from=tuple(map(str, cfg.proxy_protocol_from)),
        max_connections=cfg.max_connections,
        max_listeners=cfg.max_listeners,
        max_flows=cfg.max_udp_flows,
        udp_timeout=cfg.udp_timeout,
        set_aside=_set_aside(cfg),
    )


def _set_aside(cfg: config.Config) -> int:
    """Descriptors that the optional parts need, so that connections do not get them."""
    for_names = _bounds_of_names().descriptors if cfg.dns is not None else 0
    return for_names + (ingress_settings.DESCRIPTORS if cfg.ingress else 0)


def make_portal(cfg: config.Config) -> portal.Portal:
    """The portal of a Server, which closes it. It never takes the API server's own address."""
    api_server = cfg.cluster.address if cfg.cluster else None
    settings = portal.Settings(
        external_ips=cfg.external_ip_cidrs,
        node_ports=cfg.nodeport_addresses,
        cluster=cfg.cluster_cidr,
        reserved=frozenset([api_server] if api_server else ()),
        allow_loopback=cfg.allow_loopback_endpoints,
        service_networks=cfg.service_cluster_ip_range,
        may_use_bpf=cfg.bpf,
        loopback_network=cfg.loopback_network,
    )
    return registry.make(cfg.portal, settings)


def options(
    cfg: config.Config,
    through: portal.Portal,
    protocols: frozenset[names.Protocol] = in_process.PROTOCOLS,
) -> rules.Options:
    """How Services become rules, for a data plane of these `protocols`."""
    bounds = rules.Bounds(ports=cfg.max_ports_per_service, endpoints=cfg.max_endpoints_per_service)
    return rules.Options(
        portal=through,
        protocols=protocols,
        node=cfg.node,
        zone=cfg.node_zone,
        default_strategy=cfg.strategy,
        bounds=bounds,
    )


def make_planner(cfg: config.Config, read: store.Store) -> work.Planner | None:
    """What is served beside Services, with the settings that ask for it."""
    if not cfg.gateway:
        return None
    from kproxy.gateway import planner  # noqa: PLC0415  # what is off costs no import

    return planner.Gateways(read, cfg.gateway_class, cfg.namespaces)


def make_components(cfg: config.Config, seen: observed.Observed) -> tuple[component.Component, ...]:
    """The optional parts that the configuration asks for; the Server runs and closes them.

    Raises ConfigError as they do.
    """
    made: list[component.Component] = []
    if cfg.wait:
        from kproxy.command import waiting  # noqa: PLC0415

        made.append(waiting.Waiting(seen, cfg.wait, command_settings.namespace_of(cfg.namespaces)))
    if cfg.dns is not None:
        made += _make_names(cfg, cfg.dns, seen)
    if seen.ingress is not None:
        made.append(_make_ingress(cfg, seen, seen.ingress))
    if seen.gateways is not None:
        made.append(_make_gateways(cfg, seen, seen.gateways))
    return tuple(made)


def _bounds_of_names() -> dns_settings.Bounds:
    return dns_settings.Bounds.of(syscalls.open_files_limit())


def _make_names(
    cfg: config.Config, place: settings.Listen, seen: observed.Observed
) -> list[component.Component]:
    """The name server, and what makes it an endpoint of kube-dns."""
    from kproxy.dns import located, name_server  # noqa: PLC0415
    from kproxy.dns.forwarding import upstreams  # noqa: PLC0415

    server = name_server.NameServer(
        place,
        seen.source,
        located.through(seen.proxier.locate),
        domain=cfg.cluster_domain,
        others=upstreams.chosen(cfg.dns_upstream),
        namespaces=cfg.namespaces,
        counters=seen.dns,
        bounds=_bounds_of_names(),
        others_wait=seen.plane.has_events,
    )
    seen.reporter.subscribe(server.look)
    if cfg.cluster is None or not cfg.dns_as_kube_dns:
        return [server]
    from kproxy.dns import kube_dns  # noqa: PLC0415
    from kproxy.sources.api import client  # noqa: PLC0415

    access, store = cfg.cluster, seen.source.store
    return [server, kube_dns.KubeDns(server, store, lambda: client.Client(access), cfg.node)]


def _make_gateways(
    cfg: config.Config, seen: observed.Observed, shown: gateway_state.GatewayState
) -> component.Component:
    """What says how Gateways and routes are: in the log, and to a cluster's API server."""
    from kproxy.gateway import component as gateways  # noqa: PLC0415
    from kproxy.gateway import planner  # noqa: PLC0415

    planned = planner.Gateways(seen.source.store, cfg.gateway_class, cfg.namespaces)
    parts = seen.source, planned, seen.proxier.frontends, seen.reporter, shown
    if cfg.cluster is None:
        return gateways.Gateways(*parts)
    from kproxy.gateway import publisher  # noqa: PLC0415
    from kproxy.sources.api import client  # noqa: PLC0415

    access = cfg.cluster
    published = publisher.Publisher(lambda: client.Client(access))
    return gateways.Gateways(*parts, published)


def _make_ingress(
    cfg: config.Config, seen: observed.Observed, state: ingress_state.IngressState
) -> component.Component:
    """Ingress, whose upstreams are this proxy's frontends unless the user wants endpoints."""
    from kproxy.ingress import ingress, upstreams  # noqa: PLC0415

    store = seen.source.store
    upstream: upstreams.Frontends | upstreams.Endpoints
    if cfg.ingress_upstream is ingress_settings.Upstream.SERVICE:
        upstream = upstreams.Frontends(store, seen.proxier.locate)
    else:
        upstream = upstreams.Endpoints(store)
    written = None
    if cfg.cluster is not None:
        from kproxy.ingress.cluster import own_addresses, publisher, record  # noqa: PLC0415
        from kproxy.sources.api import client  # noqa: PLC0415

        access = cfg.cluster
        own = own_addresses.OwnAddresses(cfg)
        written = publisher.Publisher(
            lambda: client.Client(access), store, state, own, record.Record(access.server)
        )
    made = ingress.Ingress(cfg, seen.source, upstream, state, written)
    seen.reporter.subscribe(made.look)
    return made
