"""A name server without sockets: objects in, DNS messages through dnspython."""

from collections.abc import Callable, Iterable
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype
import yaml

from kproxy import metrics
from kproxy.dns import cache, index, located, responder, zone
from kproxy.model import admission, names, steps
from kproxy.model.kinds import registry
from kproxy.portal import loopback, portal
from kproxy.reconcile import proxier
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.reconcile import recording

KINDS = registry.for_names(registry.KINDS)
DOMAIN = "cluster.local"


class _Forgetful(cache.Cache):
    """Keeps nothing."""

    def put(self, key: cache.Key, entry: cache.Entry) -> None:
        pass

    def put_whole(self, entry: cache.Entry, message: bytes, response: bytes) -> None:
        pass


def of(used: portal.Portal) -> portal.Locate:
    """The `Proxier.locate` of a proxy with this portal, where no two Services collide."""
    return proxier.Proxier(
        store.Store(KINDS), recording.RecordingPlane(), rules.Options(portal=used)
    ).locate


class Lab:
    """A Store, and a name server that follows it. Without `keeps`, no answer is kept."""

    def __init__(
        self,
        documents: str = "",
        *,
        through: portal.Portal | None = None,
        keeps: bool = True,
        recurses: bool = False,
        domain: str = DOMAIN,
        turn: Callable[[], int] = lambda: 0,
    ) -> None:
        self.store = store.Store(KINDS)
        reached = located.through(of(through or loopback.LoopbackPortal(1)))
        self.index = index.Index(
            self.store, lambda service: zone.served_addresses(service, reached)
        )
        self.zone = zone.Zone(self.store, self.index, reached, domain, serial=7)
        self.zone.own = ("127.0.0.1",)
        self.kept = cache.Cache() if keeps else _Forgetful()
        self.counters = metrics.DnsCounters()
        self.answers = responder.Responder(
            self.zone.answer, self.kept, self.counters, recurses=recurses, turn=turn
        )
        self.apply(documents)

    def apply(self, documents: str) -> None:
        """Store the objects of a manifest, and follow them."""
        self.put(each for each in yaml.safe_load_all(documents) if each)

    def put(self, documents: Iterable[dict[str, Any]]) -> None:
        """Store objects, and follow them."""
        for document in documents:
            for admitted in admission.admit(document, kinds=KINDS):
                assert admitted.accepted is not None, admitted
                self.follow(self.store.apply(admitted.accepted))

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object."""
        self.follow(self.store.delete(kind, names.NamespacedName(namespace, name)))

    def follow(self, dirty: Iterable[names.NamespacedName]) -> None:
        """Look at these Services again."""
        for each in dirty:
            for _ in self.kept.drop(steps.at_once(self.index.update(each))):
                pass

    def ask(self, name: str, type_: str = "A", **how: Any) -> dns.message.Message:
        """The answer to a datagram, complete and read by dnspython."""
        query = dns.message.make_query(name, type_, **how)
        packet = query.to_wire()
        whole = self.kept.whole.get(packet[2:])
        made = packet[:2] + whole[0] if whole else self.answers.datagram(packet)
        assert isinstance(made, bytes), made
        response = dns.message.from_wire(made)
        assert query.is_response(response)
        return response

    def records(self, name: str, type_: str = "A") -> list[str]:
        """The data of the answers, in order; the name of the response code if it is an error."""
        response = self.ask(name, type_)
        if response.rcode():
            return [dns.rcode.to_text(response.rcode())]
        return sorted(data.to_text() for rrset in response.answer for data in rrset)
