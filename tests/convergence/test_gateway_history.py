"""A random history of Gateways, routes and grants ends in the same state as a fresh start.

The worlds are small on purpose: two Gateways and a Service's node port want two ports of the node,
and routes of two namespaces want their listeners.
"""

from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from kproxy.gateway import planner, watcher
from kproxy.model import forwarding, names, steps
from kproxy.portal import budget
from kproxy.reconcile import proxier
from kproxy.sources import store
from tests.gateway import documents, stored
from tests.reconcile import builders, recording

Document: TypeAlias = documents.Document
Objects: TypeAlias = dict[tuple[str, str, str], Document]

NAMESPACES = ["default", "other"]
GATEWAYS = ["edge", "rim"]
SERVICES = ["web", "api"]
PORTS = [9300, 9301]
PODS = ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
TIMES = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
LISTENERS = 3
"""Fewer than there may be."""

listeners = st.builds(
    documents.listener,
    st.sampled_from(["one", "two"]),
    st.sampled_from(PORTS),
    st.sampled_from(["TCP", "TCP", "UDP", "HTTP"]),
    allowedRoutes=st.sampled_from(
        [
            documents.allowed(origin="All"),
            documents.allowed(origin="All"),
            {},
            documents.allowed(["UDPRoute"]),
            documents.allowed(origin="Selector", selector={"matchLabels": {"team": "a"}}),
        ]
    ),
)
gateways = st.builds(
    lambda found, **fields: documents.gateway(*found, **fields),
    st.lists(
        listeners,
        min_size=1,
        max_size=2,
        unique_by=(lambda each: each["name"], lambda each: (each["port"], each["protocol"])),
    ),
    name=st.sampled_from(GATEWAYS),
    class_name=st.sampled_from([*["kproxy"] * 5, "theirs"]),
    creationTimestamp=st.sampled_from(TIMES),
)
backends = st.builds(
    documents.backend,
    st.sampled_from(SERVICES),
    st.sampled_from([80, 80, 80, 81]),
    namespace=st.sampled_from(NAMESPACES),
    weight=st.sampled_from([0, 1, 3]),
)
routes = st.builds(
    lambda found, parent, **fields: documents.route(*found, parents=[parent], **fields),
    st.lists(backends, min_size=1, max_size=3),
    st.builds(
        lambda name, more: {"name": name, "namespace": "default", **more},
        st.sampled_from(GATEWAYS),
        st.sampled_from([{}, {}, {"sectionName": "one"}, {"port": 9301}]),
    ),
    kind=st.sampled_from(["TCPRoute", "TCPRoute", "UDPRoute"]),
    name=st.sampled_from(["a", "b"]),
    namespace=st.sampled_from(NAMESPACES),
    creationTimestamp=st.sampled_from(TIMES),
)
grants = st.builds(
    documents.grant,
    st.sampled_from(NAMESPACES),
    st.sampled_from(NAMESPACES),
    service=st.sampled_from([None, "web"]),
)
classes = st.builds(
    documents.gateway_class,
    controllerName=st.sampled_from([*["kproxy.io/gateway"] * 5, "example.org/other"]),
)
namespaces = st.builds(documents.namespace, st.sampled_from(NAMESPACES), team=st.sampled_from("ab"))
parts_of_services = st.builds(
    lambda part, name, pods, **fields: stored.service(name, *pods, **fields)[part],
    st.sampled_from([0, 1]),
    st.sampled_from(SERVICES),
    st.lists(st.sampled_from(PODS), unique=True),
    namespace=st.sampled_from(NAMESPACES),
    protocol=st.sampled_from(["TCP", "TCP", "UDP"]),
)
node_ports = st.builds(
    lambda number, created: {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": created},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.0.9.1",
            "ports": [{"port": 80, "nodePort": number}],
        },
    },
    st.sampled_from(PORTS),
    st.sampled_from(TIMES),
)
changes = st.one_of(
    *(gateways, routes, routes, grants, classes, namespaces),
    *(parts_of_services, parts_of_services, parts_of_services, node_ports),
)
edits = st.tuples(changes, st.sampled_from([False, False, False, True]), st.booleans())
"""A document, whether it is removed in place of applied, and whether a sync follows."""

BEGINNING = [
    documents.gateway(
        documents.listener("one", 9300, allowedRoutes=documents.allowed(origin="All")),
        documents.listener("two", 9301, "UDP"),
    ),
    documents.route(
        documents.backend("web", weight=3),
        documents.backend("api", namespace="other"),
        name="a",
        parents=[{"name": "edge"}],
    ),
    *stored.service("web", *PODS[:2]),
    *stored.service("api", *PODS[2:], namespace="other"),
]


class World:
    """A Store, the proxier that makes it true, and what it has opened."""

    def __init__(self) -> None:
        self.store = store.Store(documents.KINDS)
        self.plane = recording.RecordingPlane()
        self.planner = planner.Gateways(self.store, "kproxy")
        self.proxier = proxier.Proxier(
            self.store,
            self.plane,
            builders.options(),
            room=budget.Budget(LISTENERS),
            beside=self.planner,
        )
        self.planner.follow(lambda: steps.at_once(self.proxier.mark_beside()))

    def apply(self, raw: Document) -> None:
        """As the reconciler does."""
        self._mark(self.store.apply(documents.accepted(raw)))

    def remove(self, raw: Document) -> None:
        """The object of this kind and name is gone."""
        kind, name = key_of(raw)
        if self.store.has(kind, name):
            self._mark(self.store.delete(kind, name))

    def _mark(self, dirty: store.Dirty) -> None:
        self.proxier.mark(dirty)
        self.proxier.mark(steps.at_once(self.planner.concerned(dirty)))

    def state(self) -> Any:
        """What is in force, and what is said of it."""
        frontends = {
            plan.rule.name: self.proxier.frontends(plan.rule.name) for plan in self.proxier.known()
        }
        said = steps.at_once(
            watcher.statuses_in_steps(self.planner, lambda name: frontends.get(name, []))
        )
        return self.plane.open, self.plane.backends, frontends, said


def key_of(raw: Document) -> tuple[str, names.NamespacedName]:
    """An object's kind and name in the Store."""
    metadata = raw["metadata"]
    name = names.NamespacedName(metadata.get("namespace", "default"), metadata["name"])
    return raw["kind"], name


@given(st.lists(edits, max_size=25))
def test_a_history_ends_as_a_fresh_start_does(history: list[tuple[Document, bool, bool]]) -> None:
    lived = World()
    lived.proxier.mark_all()
    lived.proxier.sync()
    last: dict[Any, Document] = {}
    beginning = [(raw, False, False) for raw in BEGINNING]
    for raw, is_removed, is_synced in (*beginning, *history):
        if is_removed:
            lived.remove(raw)
            last.pop(key_of(raw), None)
        else:
            lived.apply(raw)
            last[key_of(raw)] = raw
        if is_synced:
            lived.proxier.sync()
    lived.proxier.sync()
    fresh = World()
    for raw in last.values():
        fresh.apply(raw)
    fresh.proxier.mark_all()
    fresh.proxier.sync()
    assert lived.state() == fresh.state()
    for opened in lived.plane.open.values():
        rule = lived.proxier.rules()[opened.name]
        assert rule.fate(opened.frontend) is forwarding.FrontendState.BOUND
