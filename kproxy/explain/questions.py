"""From evidence to an answer: the questions of Kubernetes' "Debug Services" page, in their order.

Each question either ends the walk with an answer, or adds a step and the next one follows. Pure.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

from kproxy.explain import wording
from kproxy.explain.answer import Answer, Reason, Step, Verdict
from kproxy.explain.evidence import Evidence, FrontendSeen, PortSeen
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import endpoints, services
from kproxy.plane import snapshots

_STATES = forwarding.FrontendState


def explain(known: Evidence) -> Answer:
    """What the client of the question meets, and why."""
    return _Walk(known).answer()


class _Ended(Exception):  # noqa: N818  # it ends the walk, and is no error
    """Raised by a question that has the answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Walk:
    """One walk through the questions. `steps` are those that are answered."""

    def __init__(self, known: Evidence) -> None:
        self.known = known
        self.asked = known.question
        self.steps: list[Step] = []

    def answer(self) -> Answer:
        """Ask one question after the other until one has the answer."""
        try:
            service = self._service()
            self._is_proxied(service)
            port, seen = self._port(service)
            place = self._frontend(service, seen)
            self._has_pods(service)
            self._has_endpoints(service, port, seen, place)
            self._is_reached(service, seen, place)
        except _Ended as ended:
            return replace(ended.answer, steps=tuple(self.steps))
        raise AssertionError("the last question has an answer")

    def _note(self, name: str, finding: str, *, good: bool | None = True) -> None:
        self.steps.append(Step(name, finding, good))

    def _end(
        self, name: str, verdict: Verdict, reason: Reason, message: str, advice: str = ""
    ) -> _Ended:
        self._note(name, message, good=False)
        return _Ended(Answer(verdict, reason, message, advice=advice))

    def _service(self) -> services.Service:
        """Does the Service exist?"""
        asked, known = self.asked.service, self.known
        if known.service is not None:
            kind = known.service.type.value
            self._note("service", f"Service {asked} exists: type {kind} ({known.according_to})")
            return known.service
        message = f"there is no Service {asked}, according to {known.according_to}"
        advice = wording.advice_on_missing(known)
        raise self._end("service", Verdict.NOT_PROXIED, Reason.NO_SUCH_SERVICE, message, advice)

    def _is_proxied(self, service: services.Service) -> None:
        """Does a proxy serve it, and is that kproxy?"""
        end = functools.partial(self._end, "proxied", Verdict.NOT_PROXIED)
        if service.type is services.ServiceType.EXTERNAL_NAME:
            raise end(
                Reason.EXTERNAL_NAME,
                f"{service.name} is a DNS name for {service.external_name}: no proxy serves it",
                f"clients connect to {service.external_name} themselves",
            )
        if service.is_headless:
            raise end(
                Reason.HEADLESS,
                f"{service.name} is headless (clusterIP: None): clients find its endpoints by DNS",
                "remove clusterIP: None to have a proxy in between; that needs a new Service",
            )
        if service.proxied_elsewhere:
            raise end(
                Reason.OTHER_PROXY,
                f"{service.name} belongs to another proxy, which its label "
                "service.kubernetes.io/service-proxy-name names",
                "remove the label to have kproxy serve it",
            )
        if not service.cluster_ip:
            raise end(
                Reason.NO_CLUSTER_IP,
                f"{service.name} has no cluster IP yet",
                "an API server gives it one; in a file, write spec.clusterIP",
            )
        self._note("proxied", f"kproxy serves it, at {wording.listed(service.cluster_ips)}")

    def _port(self, service: services.Service) -> tuple[services.ServicePort, PortSeen]:
        """Which of its ports does the client use, and does kproxy serve the protocol?"""
        port = self._asked_port(service)
        seen = next((each for each in self.known.ports if wording.is_of(each, port)), None)
        if seen is None or not seen.is_served:
            raise self._end(
                "port",
                Verdict.NOT_PROXIED,
                Reason.PROTOCOL_NOT_SERVED,
                f"port {port.port} of {service.name} is {port.protocol.value}, "
                "which kproxy does not serve",
                "use a proxy that serves it for this port, such as kube-proxy",
            )
        named = f' "{port.name}"' if port.name else ""
        self._note("port", f"port{named} is {port.port}/{port.protocol.value}")
        return port, seen

    def _asked_port(self, service: services.Service) -> services.ServicePort:
        wanted, to = self.asked.port, self.asked.to
        for port in service.ports:
            if wanted and wanted in (port.name, str(port.port)):
                return port
        if not wanted and to is not None:
            for port in service.ports:
                if to.port in (port.port, port.node_port):
                    return port
            for each in self.known.ports:  # a port that the portal has moved
                bound = {place.bound.port for place in each.frontends if place.bound}
                for port in service.ports:
                    if wording.is_of(each, port) and to.port in bound:
                        return port
            wanted = str(to.port)
        if not wanted:
            return service.ports[0]
        offered = [f"{port.name or 'unnamed'}={port.port}" for port in service.ports]
        raise self._end(
            "port",
            Verdict.REFUSED,
            Reason.NO_SUCH_PORT,
            f"{service.name} has no port {wanted}: connections to it are refused",
            f"its ports are {wording.listed(offered)}; connect to one of these, or add the port to "
            "spec.ports",
        )

    def _frontend(self, service: services.Service, seen: PortSeen) -> FrontendSeen:
        """Which address does the client use, where is it bound, and does this Service own it?"""
        place = self._asked_place(service, seen)
        frontend, at = place.frontend, wording.written(place.frontend)
        endings = {
            _STATES.REFUSED: (Reason.ADDRESS_REFUSED, Verdict.NOT_PROXIED),
            _STATES.NOT_SERVED: (Reason.ADDRESS_UNAVAILABLE, Verdict.NOT_PROXIED),
            **dict.fromkeys(wording.NOT_BOUND, (Reason.ADDRESS_UNAVAILABLE, Verdict.REFUSED)),
            _STATES.COLLISION: (Reason.COLLISION, Verdict.NOT_PROXIED),
            _STATES.OVER_BUDGET: (Reason.OVER_BUDGET, Verdict.REFUSED),
        }
        if place.state in endings:
            reason, verdict = endings[place.state]
            message = f"{frontend.kind.value} {at} is not served for {service.name}: {place.detail}"
            raise self._end("address", verdict, reason, message, wording.advice_on(place))
        bound = f", bound at {place.bound}" if place.bound and str(place.bound) != at else ""
        self._note("address", f"{frontend.kind.value} {at}{bound}")
        self._is_moved(service, place)
        return place

    def _asked_place(self, service: services.Service, seen: PortSeen) -> FrontendSeen:
        to = self.asked.to
        if to is None:
            return self._usual_place(service, seen)
        for each in seen.frontends:
            bound = each.bound.socket_address if each.bound else None
            virtual = addresses.SocketAddress(each.frontend.address, each.frontend.port)
            if to in (bound, virtual):
                return each
        for each in seen.frontends:
            if each.bound and each.bound.address == to.address:
                return each  # the right address, and a port that was moved
        offered = [wording.written(each.frontend) for each in seen.frontends]
        raise self._end(
            "address",
            Verdict.REFUSED,
            Reason.NO_SUCH_ADDRESS,
            f"{to} is no address of {service.name}",
            f"its addresses are {wording.listed(offered)}",
        )

    def _usual_place(self, service: services.Service, seen: PortSeen) -> FrontendSeen:
        """The address that this client uses first: of two cluster IPs one that is there."""
        client, usable = self.asked.client, seen.frontends
        if client:
            family = addresses.family(client)
            usable = tuple(each for each in usable if each.frontend.family is family)
            if not usable:
                raise self._end(
                    "address",
                    Verdict.REFUSED,
                    Reason.FAMILY,
                    f"{client} is an address of {family}, and {service.name} has none of that "
                    "family",
                    "give the Service one (spec.ipFamilyPolicy: RequireDualStack)",
                )
        alike = [each for each in usable if each.frontend.kind is usable[0].frontend.kind]
        return next((each for each in alike if each.state not in wording.NOT_BOUND), alike[0])

    def _is_moved(self, service: services.Service, place: FrontendSeen) -> None:
        """Does the client use the port that the virtual address has been moved to?"""
        to, bound = self.asked.to, place.bound
        if bound is None or bound.port == place.frontend.port:
            return
        moved = (
            f"port {place.frontend.port} of {service.name} is at {bound}, because this user may "
            "not bind low ports"
        )
        if to is not None and to.address == bound.address and to.port == place.frontend.port:
            raise self._end(
                "moved",
                Verdict.REFUSED,
                Reason.PORT_MOVED,
                f"{moved}: nothing listens at {to}",
                f"connect to {bound}, or let kproxy bind low ports "
                "(setcap cap_net_bind_service, or sysctl net.ipv4.ip_unprivileged_port_start)",
            )
        self._note("moved", moved, good=None)

    def _has_pods(self, service: services.Service) -> None:
        """Which pods does the selector match?"""
        selector = dict(service.selector)
        if not selector:
            self._note("selector", "no selector: its endpoints are written by hand", good=None)
            return
        shown = ",".join(f"{key}={value}" for key, value in selector.items())
        pods = self.known.pods
        if pods is None:
            self._note(
                "selector", f"its pods are those with {shown}; pods were not read", good=None
            )
            return
        chosen = [pod for pod in pods if selector.items() <= dict(pod.labels).items()]
        if chosen:
            self._note("selector", f"{wording.counted(len(chosen), 'pod')} with {shown}")
            return
        if self.known.sources and any(each.ports for each in self.known.sources):
            self._note("selector", f"no pod has {shown}, but there are endpoints", good=None)
            return
        near = wording.nearest(selector, [dict(pod.labels) for pod in pods])
        advice = f"change spec.selector, or the pods' labels; the pods have {near}"
        raise self._end(
            "selector",
            Verdict.REFUSED,
            Reason.NO_PODS_MATCH,
            f"no pod in namespace {service.name.namespace} has the labels {shown} that the "
            "selector asks for",
            advice if pods else "start pods with these labels",
        )

    def _has_endpoints(
        self,
        service: services.Service,
        port: services.ServicePort,
        seen: PortSeen,
        place: FrontendSeen,
    ) -> None:
        """Which endpoint objects exist, and which of their endpoints have the port by name?"""
        sources = self.known.sources
        refused = Verdict.REFUSED
        if not sources:
            raise self._end(
                "endpoints",
                refused,
                Reason.NO_ENDPOINT_OBJECTS,
                f"there is no EndpointSlice with the label kubernetes.io/service-name="
                f"{service.name.name} and no Endpoints object {service.name.name} in namespace "
                f"{service.name.namespace}",
                "with a selector, the cluster's controller makes them: is it running? Without "
                "one, write an EndpointSlice",
            )
        self._note(
            "endpoints",
            f"{wording.listed([wording.endpoint_object(each) for each in sources])}",
            good=None,
        )
        found = endpoints.merged(
            each for source in sources for each in source.at(port.name, port.protocol)
        )
        if not found:
            raise self._without_port(service, port)
        self._filter(service, seen, place, found)

    def _without_port(self, service: services.Service, port: services.ServicePort) -> _Ended:
        """End: no endpoint object has the Service's port."""
        offered = sorted(
            {(each.name, each.protocol) for source in self.known.sources for each in source.ports}
        )
        named = f'"{port.name}"' if port.name else "without a name"
        if not offered:
            return self._end(
                "ports",
                Verdict.REFUSED,
                Reason.TARGET_PORT if port.target else Reason.NO_ENDPOINTS,
                f"the endpoint objects of {service.name} have no endpoint with port {named}"
                + (f": no pod has the container port {port.target}" if port.target else ""),
                "give the pods a container port of that name, or correct spec.ports[].targetPort"
                if port.target
                else "start pods, or wait until they have addresses",
            )
        if (port.name, port.protocol) in offered:
            return self._end(
                "ports",
                Verdict.REFUSED,
                Reason.NO_ENDPOINTS,
                f"the endpoint objects of {service.name} have port {named}, and no address there",
                "start pods, or wait until they have addresses",
            )
        same = [protocol.value for name, protocol in offered if name == port.name]
        if same:
            return self._end(
                "ports",
                Verdict.REFUSED,
                Reason.PROTOCOL,
                f"port {named} of {service.name} is {port.protocol.value}, and that of its "
                f"endpoints is {wording.listed(same)}",
                "give both the same protocol",
            )
        others = [f'"{name}"' if name else "a port without a name" for name, _ in offered]
        return self._end(
            "ports",
            Verdict.REFUSED,
            Reason.PORT_NAME,
            f"port {named} of {service.name} matches no port of its endpoints, which have "
            f"{wording.listed(others)}: ports are matched by name, never by number",
            "give spec.ports[].name and the endpoints' port the same name",
        )

    def _filter(
        self,
        service: services.Service,
        seen: PortSeen,
        place: FrontendSeen,
        found: Sequence[endpoints.Endpoint],
    ) -> None:
        """Which endpoints remain after family, readiness, own addresses and traffic policy?"""
        frontend = place.frontend
        self._note("ports", f"{wording.counted(len(found), 'endpoint')} with its port", good=True)
        of_family = [e for e in found if addresses.family(e.backend.address) is frontend.family]
        if not of_family:
            raise self._end(
                "family",
                Verdict.REFUSED,
                Reason.FAMILY,
                f"{wording.written(frontend)} is an address of {frontend.family}, "
                "and no endpoint is",
                "give the pods addresses of that family, or connect to the Service's other one",
            )
        if len(of_family) < len(found):
            self._note("family", f"{len(of_family)} of them are of {frontend.family}", good=None)
        everywhere = forwarding.candidates_of(seen.pools, forwarding.Scope.CLUSTER, frontend.family)
        if not everywhere:
            if seen.loops:
                raise self._end(
                    "own",
                    Verdict.REFUSED,
                    Reason.OWN_ADDRESS,
                    f"the endpoints of {service.name} are its own addresses "
                    f"({wording.listed(seen.loops)}): kproxy would connect to itself for ever",
                    "give the endpoints the addresses of pods",
                )
            if ready := sum(each.ready for each in of_family):
                found_out = wording.of_weight_0(ready), "give one of them a weight above 0"
                raise self._end("ready", Verdict.REFUSED, Reason.WEIGHTS, *found_out)
            raise self._end(
                "ready",
                Verdict.REFUSED,
                Reason.NOT_READY,
                f"{wording.counted(len(of_family), 'endpoint')}, and none is ready: "
                f"{wording.listed([str(each.backend) for each in of_family])}",
                "look at the pods' readiness probes (kubectl describe pod), or set "
                "publishNotReadyAddresses",
            )
        left_out = len({each.backend for each in of_family}.difference(everywhere))
        but = f"; {left_out} {wording.LEFT_OUT}" if left_out else ""
        self._note("ready", f"{len(everywhere)} of them get connections{but}")
        self._note("policy", wording.policy(service, frontend), good=None)

    def _is_reached(self, service: services.Service, seen: PortSeen, place: FrontendSeen) -> None:
        """Is this client admitted, which endpoint does it get, and does that one answer?"""
        frontend, client = place.frontend, self.asked.client
        admitted = place.admitted
        if admitted is not None and not (client and wording.is_in(client, admitted)):
            raise self._not_admitted(service, place)
        scope = frontend.scope
        is_external_local = scope is forwarding.Scope.LOCAL and frontend.is_external
        if is_external_local and client and wording.is_in(client, self.known.near):
            scope = forwarding.Scope.CLUSTER
            self._note("near", f"{client} is on this node: it may reach every endpoint", good=None)
        candidates = forwarding.candidates_of(seen.pools, scope, frontend.family)
        if not candidates:
            raise self._not_admitted(service, place)
        self._look_at_endpoints(service, seen, candidates)
        coming = next(
            (e for e in seen.coming if (e.scope, e.family) == (scope, frontend.family)), None
        )
        raise _Ended(self._served(seen, place, candidates, coming))

    def _not_admitted(self, service: services.Service, place: FrontendSeen) -> _Ended:
        """End: the Local policy or the source ranges drop the client's connection."""
        frontend, client = place.frontend, self.asked.client or "a client from elsewhere"
        if place.state is _STATES.DROPPED:
            which = "externalTrafficPolicy" if frontend.is_external else "internalTrafficPolicy"
            node = (
                f'node "{self.known.node}"' if self.known.node else "this node, which has no name"
            )
            return self._end(
                "admitted",
                Verdict.DROPPED,
                Reason.LOCAL_POLICY,
                f"{which} is Local, and no ready endpoint of {service.name} is on {node}: "
                "connections are dropped, so the client waits until it gives up",
                f"connect to a node that has an endpoint, or set spec.{which} to Cluster; "
                "if the node's name is wrong, set --hostname-override",
            )
        return self._end(
            "admitted",
            Verdict.DROPPED,
            Reason.SOURCE_RANGES,
            f"{client} is not in the loadBalancerSourceRanges of {service.name} "
            f"({wording.listed(place.admitted or ())}): its connections are dropped",
            "add the client's network to spec.loadBalancerSourceRanges",
        )

    def _look_at_endpoints(
        self, service: services.Service, seen: PortSeen, candidates: Sequence[object]
    ) -> None:
        """Which endpoints does a running proxy have in the penalty box, and which are its own?"""
        if not seen.is_live:
            return
        boxed = [each.address for each in seen.endpoints if each.is_boxed]
        boxed = [each for each in boxed if each in candidates]
        if not boxed:
            self._note("boxed", "no endpoint is in the penalty box")
            return
        self._note(
            "boxed",
            f"{len(boxed)} of {len(candidates)} did not answer lately: {wording.listed(boxed)}",
            good=len(boxed) < len(candidates),
        )
        if len(boxed) == len(candidates):
            raise self._end(
                "reached",
                Verdict.RESET,
                Reason.ENDPOINTS_FAIL,
                f"no endpoint of {service.name} answers lately: each is tried once more, and the "
                "client is reset if none does",
                "do the pods listen on the endpoints' port (spec.ports[].targetPort), and does a "
                "network policy let kproxy reach them?",
            )

    def _served(
        self,
        seen: PortSeen,
        place: FrontendSeen,
        candidates: tuple[addresses.SocketAddress, ...],
        coming: snapshots.Coming | None,
    ) -> Answer:
        endpoint, how = None, f"{seen.policy.strategy.value} picks one of {len(candidates)}"
        if len(candidates) == 1:
            endpoint, how = candidates[0], "it is the only one"
        if seen.policy.affinity_seconds is not None:
            if coming is not None and coming.seconds_left is not None:
                how = (
                    f"session affinity sends {self.asked.client} there for "
                    f"{coming.seconds_left:.0f} s more"
                )
            else:
                held = f", and session affinity then keeps it for {seen.policy.affinity_seconds} s"
                how += held
        if endpoint is None and coming is not None and coming.backend in candidates:
            endpoint = coming.backend
            if coming.seconds_left is None:
                how = f"{seen.policy.strategy.value} has it next"
        self._note("pick", f"{endpoint or wording.listed(candidates)}: {how}")
        to = endpoint or f"one of {wording.listed(candidates)}"
        at = place.bound or wording.written(place.frontend)
        return Answer(
            Verdict.SERVED,
            Reason.SERVED,
            f"a connection to {at} is served by {to}: {how}",
            endpoint,
            candidates,
        )
