"""The Proxier as scripts: objects in, ordered messages to the data plane out.

In the manner of mitmproxy's Playbook. The data plane only records, and fails a test whenever it
is told what the contract rules out (`recording.RecordingPlane`).

Cases: C07, C09, D17 of docs/faults.md.

Behaviour: row 48 of docs/behaviour.md.
"""

import errno
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing
import structlog.typing

from kproxy.model import addresses, admission, forwarding, names
from kproxy.model.kinds import service_kind, services
from kproxy.portal import budget, loopback, portal
from kproxy.reconcile import proxier
from kproxy.sources import store
from tests.reconcile import builders, recording
from tests.reconcile.builders import service, sliced  # the words of every script

KINDS = forwarding.FrontendKind
SCOPE = forwarding.Scope
STATES = forwarding.FrontendState
LOCAL = services.TrafficPolicy.LOCAL
OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


class Reader(store.Store):
    """A Store that can be told to have a bug in what it says of one Service."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[names.NamespacedName] = set()

    def service(self, name: names.NamespacedName) -> services.Service | None:
        if name in self.broken:
            raise RuntimeError(f"a bug meets {name}")
        return super().service(name)


class Portal(loopback.LoopbackPortal):
    """A loopback portal that has a bug on the addresses in `cannot_locate`.

    `acquired` is what it has given out, `claimed` what service ports want.
    """

    def __init__(self) -> None:
        super().__init__(1, portal.Settings(external_ips=builders.ALL_EXTERNAL_IPS))
        self.cannot_locate: set[str] = set()
        self.cannot_acquire: set[forwarding.PortalAddress] = set()
        self.acquired: set[forwarding.PortalAddress] = set()
        self.claimed: set[forwarding.PortalAddress] = set()

    def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        if frontend.address in self.cannot_locate:
            raise ZeroDivisionError("a bug in the portal")
        return super().locate(frontend)

    def claim(self, address: forwarding.PortalAddress) -> None:
        assert address not in self.claimed
        self.claimed.add(address)

    def withdraw(self, address: forwarding.PortalAddress) -> None:
        self.claimed.remove(address)

    def acquire(
        self, address: forwarding.PortalAddress, admitted: forwarding.Admission
    ) -> addresses.SocketAddress:
        if address in self.cannot_acquire:
            raise OSError(errno.EPERM, "the portal may not")
        assert address not in self.acquired, f"{address} is acquired already"
        self.acquired.add(address)
        return super().acquire(address, admitted)

    def release(self, address: forwarding.PortalAddress) -> None:
        self.acquired.remove(address)


class Playbook:
    """Objects into a Store, messages out of a Proxier."""

    def __init__(
        self,
        *,
        namespaces: frozenset[str] = frozenset(),
        room: budget.Budget | None = None,
        **options: Any,
    ) -> None:
        self.reader = Reader()
        self.plane = recording.RecordingPlane()
        self.portal = Portal()
        self.proxier = proxier.Proxier(
            self.reader,
            self.plane,
            builders.options(portal=self.portal, **options),
            namespaces=namespaces,
            room=room,
        )
        self.changed: list[names.ServicePortName] = []

    def put(self, *objects: admission.Accepted) -> None:
        for each in objects:
            self.proxier.mark(self.reader.apply(each))

    def remove(self, *objects: admission.Accepted) -> None:
        for each in objects:
            kind = each.kind
            self.proxier.mark(self.reader.delete(kind, each.name))

    def sync(self) -> list[forwarding.Message]:
        """What a sync tells the data plane; what it returns goes to `changed`."""
        self.changed = self.proxier.sync()
        return self.plane.drain()

    def settle(self, *objects: admission.Accepted) -> None:
        """Put and sync what a script starts from."""
        self.put(*objects)
        self.sync()

    def retry(self) -> list[forwarding.Message]:
        """What a full sync tells the data plane."""
        self.proxier.mark_all()
        return self.sync()

    def served(self) -> dict[str, str]:
        """Which service port each bound address is open for."""
        return {str(at): str(opened.name) for at, opened in self.plane.open.items()}

    def states(self, port: str) -> list[tuple[str, str]]:
        """State and detail of every frontend of a service port."""
        return [(each.state, each.detail) for each in self.proxier.frontends(port_name(port))]


def port_name(text: str) -> names.ServicePortName:
    """From "web:admin", or "web" for its port http."""
    name, _, port = text.partition(":")
    return builders.port_of(name, port or "http")


def sets(
    port: str, cluster: str, local: str = "", policy: forwarding.Policy | None = None
) -> forwarding.Message:
    policy = policy or forwarding.Policy()
    return forwarding.SetBackends(port_name(port), policy, builders.pools(cluster, local))


def opens(
    port: str,
    virtual: str,
    kind: forwarding.FrontendKind = KINDS.CLUSTER_IP,
    scope: forwarding.Scope = SCOPE.CLUSTER,
    admitted: forwarding.Admission = None,
) -> forwarding.Message:
    address, number = builders.backend(virtual)
    frontend = forwarding.Frontend(kind, address or "127.0.0.1", number, scope)
    return forwarding.OpenFrontend(
        port_name(port), frontend, bound(virtual), bound(virtual).socket_address, admitted
    )


def closes(virtual: str) -> forwarding.Message:
    return forwarding.CloseFrontend(bound(virtual))


def forgets(port: str) -> forwarding.Message:
    return forwarding.Forget(port_name(port))


def bound(virtual: str) -> forwarding.PortalAddress:
    """Where the portal binds "10.0.9.1:80"; a node port is written ":30080"."""
    address, number = builders.backend(virtual)
    mapped = ["127", *address.split(".")[1:]] if address else ["127", "0", "0", "1"]
    return forwarding.PortalAddress(".".join(mapped), number)


@pytest.fixture
def book() -> Playbook:
    return Playbook()


class TestOneService:
    """Coming, changing, going."""

    def test_backends_are_set_before_the_portal_opens(self, book: Playbook) -> None:
        book.put(service(), sliced("web", "10.1.0.1 10.1.0.2"))
        assert book.sync() == [sets("web", "10.1.0.1 10.1.0.2"), opens("web", "10.0.9.1:80")]

    def test_the_portal_closes_before_the_port_is_forgotten(self, book: Playbook) -> None:
        book.settle(service(), sliced("web"))
        book.remove(service())
        assert book.sync() == [closes("10.0.9.1:80"), forgets("web")]

    def test_the_order_of_the_events_does_not_matter(self, book: Playbook) -> None:
        book.put(sliced("web"))
        assert book.sync() == []
        book.put(service())
        assert book.sync() == [sets("web", "10.1.0.1"), opens("web", "10.0.9.1:80")]

    def test_all_closing_comes_before_all_setting_before_all_opening(self, book: Playbook) -> None:
        book.settle(service("a", "10.0.9.1"), sliced("a"), service("b", "10.0.9.2"), sliced("b"))
        book.put(service("b", "10.0.9.3"), service("c", "10.0.9.4"), sliced("c"))
        book.remove(service("a"))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            closes("10.0.9.2:80"),
            sets("c", "10.1.0.1"),
            opens("b", "10.0.9.3:80"),
            opens("c", "10.0.9.4:80"),
            forgets("a"),
        ]

    def test_nothing_happens_before_a_sync(self, book: Playbook) -> None:
        book.put(service(), sliced("web"))
        book.proxier.mark_all()
        assert book.plane.messages == []
        assert book.proxier.rules() == {}

    def test_adding_and_deleting_between_two_syncs_cancel(self, book: Playbook) -> None:
        book.put(service(), sliced("web"))
        book.remove(service())
        assert book.sync() == []

    def test_deleting_and_adding_again_between_two_syncs_cancel(self, book: Playbook) -> None:
        book.settle(service(), sliced("web"))
        book.remove(service(), sliced("web"))
        book.put(sliced("web"), service())
        assert book.sync() == []

    def test_only_the_last_of_many_changes_counts(self, book: Playbook) -> None:
        for number in range(80, 90):
            book.put(service(ports={"http": number}), sliced("web", f"10.1.0.{number}"))
        assert book.sync() == [sets("web", "10.1.0.89"), opens("web", "10.0.9.1:89")]

    def test_what_did_not_change_causes_no_message(self, book: Playbook) -> None:
        book.settle(service(), sliced("web"))
        book.put(service(), sliced("web"))
        assert book.sync() == []
        book.proxier.mark([builders.named("web"), builders.named("unheard-of")])
        assert book.sync() == []
        assert book.retry() == []

    def test_an_endpoint_change_opens_and_closes_nothing(self, book: Playbook) -> None:
        book.settle(service(), sliced("web", "10.1.0.1"))
        book.put(sliced("web", "10.1.0.1 10.1.0.2"))
        assert book.sync() == [sets("web", "10.1.0.1 10.1.0.2")]
        book.put(sliced("web", "10.1.0.3:9090"))
        assert book.sync() == [sets("web", "10.1.0.3:9090")]

    @pytest.mark.parametrize(
        ("fields", "policy"),
        [
            pytest.param({"affinity_seconds": 60}, forwarding.Policy(affinity_seconds=60), id="on"),
            pytest.param(
                {"strategy": services.Strategy.RANDOM},
                forwarding.Policy(services.Strategy.RANDOM),
                id="strategy",
            ),
        ],
    )
    def test_a_policy_change_opens_and_closes_nothing(
        self, book: Playbook, fields: dict[str, Any], policy: forwarding.Policy
    ) -> None:
        book.settle(service(), sliced("web"))
        book.put(service(**fields))
        assert book.sync() == [sets("web", "10.1.0.1", policy=policy)]
        book.put(service())
        assert book.sync() == [sets("web", "10.1.0.1")]

    def test_a_service_without_endpoints_has_no_listener(self, book: Playbook) -> None:
        book.put(service())
        assert book.sync() == [sets("web", "")]
        book.put(sliced("web"))
        assert book.sync() == [sets("web", "10.1.0.1"), opens("web", "10.0.9.1:80")]
        book.put(sliced("web", ""))
        assert book.sync() == [closes("10.0.9.1:80"), sets("web", "")]
        book.put(sliced("web", "10.1.0.2"))
        assert book.sync() == [sets("web", "10.1.0.2"), opens("web", "10.0.9.1:80")]

    def test_endpoints_that_are_not_ready_are_none(self, book: Playbook) -> None:
        unready = builders.endpoint("10.1.0.1", ready=False, serving=False)
        book.put(service(), sliced("web", [unready]))
        assert book.sync() == [sets("web", "")]

    def test_an_endpoint_that_is_local_now_concerns_the_local_scope_alone(self) -> None:
        book = Playbook(node="n1")
        there, here = (builders.endpoint("10.1.0.1", node=node) for node in ("n2", "n1"))
        with_policy = service(external_ips=("203.0.113.1",), external_policy=LOCAL)
        book.settle(with_policy, sliced("web", [there]))
        book.put(sliced("web", [here]))
        admits = forwarding.Admit(forwarding.PortalAddress("127.0.113.1", 80), None)
        assert book.sync() == [sets("web", "10.1.0.1", "10.1.0.1"), admits]

    def test_where_an_endpoint_is_does_not_concern_services_without_a_local_policy(self) -> None:
        book = Playbook(node="n1")
        book.settle(service(), sliced("web", [builders.endpoint("10.1.0.1", node="n2")]))
        book.put(sliced("web", [builders.endpoint("10.1.0.1", node="n1")]))
        assert book.sync() == []

    def test_a_full_sync_finds_also_what_was_never_marked(self, book: Playbook) -> None:
        book.settle(service("a", "10.0.9.1"), sliced("a"), service("b", "10.0.9.2"), sliced("b"))
        book.reader.delete(service_kind.KIND.name, builders.named("a"))
        book.reader.apply(service("b", "10.0.9.3"))
        book.reader.apply(service("c", "10.0.9.4"))
        assert book.sync() == []
        assert book.retry() == [
            closes("10.0.9.1:80"),
            closes("10.0.9.2:80"),
            sets("c", ""),
            opens("b", "10.0.9.3:80"),
            forgets("a"),
        ]

    def test_a_port_number_changes_and_its_state_stays(self, book: Playbook) -> None:
        book.settle(service(ports={"http": 80}), sliced("web"))
        book.put(service(ports={"http": 81}))
        assert book.sync() == [closes("10.0.9.1:80"), opens("web", "10.0.9.1:81")]

    def test_a_renamed_port_is_another_service_port(self, book: Playbook) -> None:
        book.settle(service(ports={"http": 80}), sliced("web", ports=["http", "web"]))
        book.put(service(ports={"web": 80}))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            sets("web:web", "10.1.0.1"),
            opens("web:web", "10.0.9.1:80"),
            forgets("web:http"),
        ]

    def test_two_ports_swap_their_numbers_in_one_sync(self, book: Playbook) -> None:
        ports = sliced("web", "10.1.0.1", ports=["a"]), sliced("web", "10.1.0.2", ports=["b"])
        book.settle(service(ports={"a": 80, "b": 81}), ports[0])
        book.settle(builders.sliced("web", "10.1.0.2", ports=["b"], suffix="2"))
        book.put(service(ports={"a": 81, "b": 80}))
        messages = book.sync()
        assert messages[:2] == [closes("10.0.9.1:80"), closes("10.0.9.1:81")]
        assert sorted(map(str, messages[2:])) == sorted(
            map(str, [opens("web:a", "10.0.9.1:81"), opens("web:b", "10.0.9.1:80")])
        )
        assert book.served() == {
            "127.0.9.1:81": "default/web:a",
            "127.0.9.1:80": "default/web:b",
        }

    @pytest.mark.parametrize(
        "away",
        [
            pytest.param(service(ip=""), id="cluster IP None"),
            pytest.param(
                service(ip="", type=services.ServiceType.EXTERNAL_NAME), id="ExternalName"
            ),
            pytest.param(service(proxied_elsewhere=True), id="label service-proxy-name"),
        ],
    )
    def test_a_live_service_is_taken_down_and_up_again(
        self, book: Playbook, away: services.Service
    ) -> None:
        book.settle(service(), sliced("web"))
        book.put(away)
        assert book.sync() == [closes("10.0.9.1:80"), forgets("web")]
        assert book.proxier.rules() == {}
        assert [state for state, _ in book.states("web")] == ["not-served"]
        book.put(service())
        assert book.sync() == [sets("web", "10.1.0.1"), opens("web", "10.0.9.1:80")]

    def test_every_virtual_address_is_opened_over_the_endpoints_of_its_scope(self) -> None:
        book = Playbook(node="n1")
        here = builders.endpoint("10.1.0.1", node="n1")
        there = builders.endpoint("10.1.0.2", node="n2")
        full = service(
            type=services.ServiceType.LOAD_BALANCER,
            ports=(services.ServicePort("http", names.Protocol.TCP, 80, 30080),),
            external_ips=("203.0.113.1",),
            load_balancer_ips=("198.51.100.2",),
            external_policy=LOCAL,
        )
        book.put(full, sliced("web", [here, there]))
        assert book.sync() == [
            sets("web", "10.1.0.1 10.1.0.2", "10.1.0.1"),
            opens("web", "10.0.9.1:80"),
            opens("web", ":30080", KINDS.NODE_PORT, SCOPE.LOCAL),
            opens("web", "203.0.113.1:80", KINDS.EXTERNAL_IP, SCOPE.LOCAL),
            opens("web", "198.51.100.2:80", KINDS.LOAD_BALANCER, SCOPE.LOCAL),
        ]
        book.put(sliced("web", [there]))
        assert book.sync() == [
            forwarding.Admit(bound(":30080"), ()),
            forwarding.Admit(bound("203.0.113.1:80"), ()),
            forwarding.Admit(bound("198.51.100.2:80"), ()),
            sets("web", "10.1.0.2"),
        ]
        states = [state for state, _ in book.states("web")]
        assert states == ["bound", "dropped", "dropped", "dropped"]

    def test_a_virtual_address_comes_and_goes_beside_the_others(self, book: Playbook) -> None:
        book.settle(service(), sliced("web"))
        book.put(service(external_ips=("203.0.113.1",)))
        assert book.sync() == [opens("web", "203.0.113.1:80", KINDS.EXTERNAL_IP)]
        book.put(service())
        assert book.sync() == [closes("203.0.113.1:80")]

    def test_the_rules_in_force_can_be_read(self, book: Playbook) -> None:
        book.settle(service(ports={"http": 80, "admin": 81}), sliced("web"))
        found = book.proxier.rules()
        assert sorted(found) == [port_name("web:admin"), port_name("web:http")]
        assert found[port_name("web")].backends(SCOPE.CLUSTER) == builders.backends("10.1.0.1")

    def test_options_reach_the_rules(self) -> None:
        book = Playbook(default_strategy=services.Strategy.RANDOM)
        book.put(service(), sliced("web"))
        policy = forwarding.Policy(services.Strategy.RANDOM)
        assert book.sync()[0] == sets("web", "10.1.0.1", policy=policy)


class TestNamespaces:
    """Only the Services of some namespaces are served."""

    def test_services_elsewhere_are_not_served(self) -> None:
        book = Playbook(namespaces=frozenset({"default"}))
        book.put(service("web"), sliced("web"))
        book.put(service("x", "10.0.9.2", namespace="other"), sliced("x", namespace="other"))
        expected = [sets("web", "10.1.0.1"), opens("web", "10.0.9.1:80")]
        assert book.sync() == expected
        assert book.retry() == []
        assert list(book.proxier.rules()) == [port_name("web")]

    def test_without_a_filter_all_are(self, book: Playbook) -> None:
        book.settle(service("x", "10.0.9.2", namespace="other"), sliced("x", namespace="other"))
        assert book.served() == {"127.0.9.2:80": "other/x:http"}

    def test_services_elsewhere_claim_nothing(self) -> None:
        book = Playbook(namespaces=frozenset({"default"}))
        book.put(service("a", namespace="aaa"), sliced("a", namespace="aaa"))
        book.settle(service("web"), sliced("web"))
        assert book.served() == {"127.0.9.1:80": "default/web:http"}


def in_any_order(
    *steps: Callable[[Playbook], None],
) -> list[tuple[Callable[[Playbook], None], ...]]:
    return list(itertools.permutations(steps))


class TestOneAddressForTwo:
    """Collisions, and addresses that change hands."""

    A, B = service("a", "10.0.9.1"), service("b", "11.0.9.1")  # both 127.0.0.1

    def test_an_address_changes_hands_in_one_sync(self, book: Playbook) -> None:
        book.settle(service("a"), sliced("a", "10.1.0.1"))
        book.remove(service("a"))
        book.put(service("b"), sliced("b", "10.1.0.2"))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            sets("b", "10.1.0.2"),
            opens("b", "10.0.9.1:80"),
            forgets("a"),
        ]

    def test_the_new_owner_may_be_seen_before_the_old_one_goes(self, book: Playbook) -> None:
        book.settle(service("a"), sliced("a", "10.1.0.1"))
        book.put(service("b"), sliced("b", "10.1.0.2"))
        assert book.sync() == [sets("b", "10.1.0.2")]
        book.remove(service("a"))
        assert book.sync() == [closes("10.0.9.1:80"), opens("b", "10.0.9.1:80"), forgets("a")]

    def test_the_new_owner_may_come_before_the_old_one_goes_in_one_sync(
        self, book: Playbook
    ) -> None:
        book.settle(service("z"), sliced("z", "10.1.0.1"))
        book.put(service("b"), sliced("b", "10.1.0.2"))
        book.remove(service("z"))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            sets("b", "10.1.0.2"),
            opens("b", "10.0.9.1:80"),
            forgets("z"),
        ]

    def test_two_services_swap_their_addresses_in_one_sync(self, book: Playbook) -> None:
        book.settle(service("a", "10.0.9.1"), sliced("a"), service("b", "10.0.9.2"), sliced("b"))
        book.put(service("a", "10.0.9.2"), service("b", "10.0.9.1"))
        assert set(book.sync()[:2]) == {closes("10.0.9.1:80"), closes("10.0.9.2:80")}
        assert book.served() == {
            "127.0.9.1:80": "default/b:http",
            "127.0.9.2:80": "default/a:http",
        }

    def test_the_second_is_not_served_and_its_log_line_names_the_first(
        self, book: Playbook
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            book.put(self.A, sliced("a"), self.B, sliced("b"))
            book.sync()
            book.retry()
        assert book.served() == {"127.0.9.1:80": "default/a:http"}
        assert book.states("a") == [("bound", "")]
        assert book.states("b") == [("collision", "127.0.9.1:80 belongs to default/a:http")]
        assert logs == [
            {
                "log_level": "error",
                "event": "address is taken by another Service, this one is not served on it",
                "service": "default/b:http",
                "address": "11.0.9.1:80",
                "bound": "127.0.9.1:80",
                "owner": "default/a:http",
            }
        ]
        assert not book.proxier.has_failures

    @pytest.mark.parametrize(
        "order",
        in_any_order(
            lambda book: book.put(TestOneAddressForTwo.A),
            lambda book: book.put(TestOneAddressForTwo.B),
            lambda book: book.put(sliced("a")),
            lambda book: book.put(sliced("b")),
        ),
    )
    def test_the_winner_is_the_same_in_any_order(
        self, order: tuple[Callable[[Playbook], None], ...]
    ) -> None:
        book = Playbook()
        for step in order:
            step(book)
            book.sync()
        assert book.served() == {"127.0.9.1:80": "default/a:http"}

    def test_the_older_service_wins_whatever_its_name(self, book: Playbook) -> None:
        book.settle(service("a", created=NEW), sliced("a"))
        book.put(service("b", created=OLD), sliced("b"))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            sets("b", "10.1.0.1"),
            opens("b", "10.0.9.1:80"),
        ]
        assert book.states("a") == [("collision", "127.0.9.1:80 belongs to default/b:http")]

    def test_the_second_takes_over_when_the_first_goes(self, book: Playbook) -> None:
        book.settle(self.A, sliced("a"), self.B, sliced("b"))
        book.remove(self.A)
        assert book.sync() == [closes("10.0.9.1:80"), opens("b", "11.0.9.1:80"), forgets("a")]
        assert book.states("b") == [("bound", "")]

    def test_the_second_takes_over_when_the_first_moves(self, book: Playbook) -> None:
        book.settle(self.A, sliced("a"), self.B, sliced("b"))
        book.put(service("a", "10.0.9.9"))
        assert book.sync() == [
            closes("10.0.9.1:80"),
            opens("b", "11.0.9.1:80"),
            opens("a", "10.0.9.9:80"),
        ]

    def test_an_owner_without_endpoints_keeps_its_address(self, book: Playbook) -> None:
        book.settle(self.A, self.B, sliced("b"))
        assert book.served() == {}
        assert [state for state, _ in book.states("a")] == ["no-endpoints"]
        assert book.states("b") == [("collision", "127.0.9.1:80 belongs to default/a:http")]

    def test_a_collision_that_returns_is_logged_again(self, book: Playbook) -> None:
        book.settle(self.A, sliced("a"), self.B, sliced("b"))
        book.remove(self.A)
        book.sync()
        book.put(self.A)
        with structlog.testing.capture_logs() as logs:
            book.sync()
        assert [(line["service"], line["owner"]) for line in logs] == [
            ("default/b:http", "default/a:http")
        ]

    def test_only_the_colliding_port_is_lost(self, book: Playbook) -> None:
        slices = sliced("b", ports=["http", "admin"])
        book.settle(self.A, sliced("a"), service("b", ports={"http": 80, "admin": 81}), slices)
        assert [state for state, _ in book.states("b:http")] == ["collision"]
        assert [state for state, _ in book.states("b:admin")] == ["bound"]

    def test_no_client_is_led_to_an_address_that_another_has(self, book: Playbook) -> None:
        def at(name: str, address: str) -> str | None:
            frontend = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, address, 80)
            found = book.proxier.locate(builders.port_of(name), frontend)
            return str(found) if found else None

        assert at("b", "11.0.9.1") == "127.0.9.1:80"  # before anything is known
        book.settle(self.B, sliced("b"))
        assert at("b", "11.0.9.1") == "127.0.9.1:80"
        assert at("a", "10.0.9.1") is None
        book.settle(self.A, sliced("a"))
        assert at("a", "10.0.9.1") == "127.0.9.1:80"
        assert at("b", "11.0.9.1") is None
        book.remove(self.A)
        book.sync()
        assert at("b", "11.0.9.1") == "127.0.9.1:80"

    def test_an_address_that_a_service_has_twice_is_no_collision(self, book: Playbook) -> None:
        twice = service(external_ips=("203.0.113.1",), load_balancer_ips=("203.0.113.1",))
        with structlog.testing.capture_logs() as logs:
            book.settle(twice, sliced("web"))
        assert book.served() == {
            "127.0.9.1:80": "default/web:http",
            "127.0.113.1:80": "default/web:http",
        }
        assert book.states("web") == [("bound", "")] * 3
        assert logs == []

    def test_unless_the_two_are_for_different_endpoints(self) -> None:
        book = Playbook(node="n1")
        both = [builders.endpoint("10.1.0.1", node="n1"), builders.endpoint("10.1.0.2", node="n2")]
        twice = service(external_ips=("10.0.9.1",), external_policy=LOCAL)
        with structlog.testing.capture_logs() as logs:
            book.settle(twice, sliced("web", both))
        assert book.states("web") == [
            ("bound", ""),
            ("collision", "127.0.9.1:80 belongs to default/web:http"),
        ]
        assert len(logs) == 1


class TestPortal:
    """What the portal acquires it gets back, whatever becomes of the frontend."""

    def test_a_frontend_is_acquired_before_it_opens_and_released_after_it_closed(
        self, book: Playbook
    ) -> None:
        book.settle(service("a"), sliced("a"))
        assert book.portal.acquired == {bound("10.0.9.1:80")}
        book.put(service("a", ports={"http": 81}))
        book.sync()
        assert book.portal.acquired == {bound("10.0.9.1:81")} == book.plane.open.keys()

    def test_an_address_is_claimed_with_endpoints_and_without(self, book: Playbook) -> None:
        book.settle(service("a"))
        assert book.states("a")[0][0] == "no-endpoints"
        assert book.portal.claimed == {bound("10.0.9.1:80")}
        assert book.portal.acquired == set()
        book.put(sliced("a"), service("b"))
        book.sync()
        book.remove(service("a"))
        book.sync()
        assert book.portal.claimed == {bound("10.0.9.1:80")}
        book.remove(service("b"))
        book.sync()
        assert book.portal.claimed == book.portal.acquired == set()

    def test_it_is_released_when_the_data_plane_cannot_listen(self, book: Playbook) -> None:
        book.plane.busy.add(bound("10.0.9.1:80"))
        book.settle(service("a"), sliced("a"))
        assert book.portal.acquired == set()
        book.plane.busy.clear()
        book.retry()
        assert book.portal.acquired == {bound("10.0.9.1:80")}

    def test_what_the_portal_cannot_acquire_is_tried_again(self, book: Playbook) -> None:
        book.portal.cannot_acquire.add(bound("10.0.9.1:80"))
        book.settle(service("a"), sliced("a"))
        assert book.states("a") == [("unavailable", "the portal may not")]
        book.portal.cannot_acquire.clear()
        assert book.retry() == [opens("a", "10.0.9.1:80")]


class TestDualStack:
    def test_the_other_cluster_ip_is_named_and_not_served(self, book: Playbook) -> None:
        book.settle(service("a", other_cluster_ips=("fd00::1",)), sliced("a"))
        assert book.states("a") == [
            ("bound", ""),
            ("not-served", "this portal serves no IPv6 addresses: clients use 10.0.9.1"),
        ]
        assert book.plane.open.keys() == {bound("10.0.9.1:80")}

    def test_an_ipv4_address_that_comes_second_is_served(self, book: Playbook) -> None:
        book.settle(service("a", ip="fd00::1", other_cluster_ips=("10.0.9.1",)), sliced("a"))
        assert [state for state, _ in book.states("a")] == ["unavailable", "bound"]
        assert book.plane.open.keys() == {bound("10.0.9.1:80")}


class TestFailures:
    """What cannot be opened, and what cannot be."""

    def test_what_cannot_be_opened_is_logged_once_and_retried(self, book: Playbook) -> None:
        book.plane.busy.add(bound("10.0.9.1:80"))
        with structlog.testing.capture_logs() as logs:
            book.settle(service(), sliced("web"), service("b", "10.0.9.2"), sliced("b"))
            assert book.served() == {"127.0.9.2:80": "default/b:http"}
            assert book.retry() == [opens("web", "10.0.9.1:80")]
        assert book.states("web") == [("unavailable", "Address already in use")]
        assert book.states("b") == [("bound", "")]
        assert book.proxier.has_failures
        assert logs == [
            {
                "log_level": "error",
                "event": "cannot listen, retrying",
                "service": "default/web:http",
                "address": "127.0.9.1:80",
                "reason": "Address already in use",
            }
        ]
        book.plane.busy.clear()
        assert book.sync() == []
        assert book.retry() == [opens("web", "10.0.9.1:80")]
        assert book.states("web") == [("bound", "")]
        assert not book.proxier.has_failures

    @pytest.mark.parametrize(
        "give_up",
        [
            pytest.param(lambda book: book.remove(service()), id="Service deleted"),
            pytest.param(lambda book: book.put(sliced("web", "")), id="endpoints gone"),
            pytest.param(lambda book: book.put(service(ip="10.0.9.2")), id="address changed"),
        ],
    )
    def test_what_is_not_wanted_any_more_is_not_retried(
        self, book: Playbook, give_up: Callable[[Playbook], None]
    ) -> None:
        book.plane.busy.add(bound("10.0.9.1:80"))
        book.settle(service(), sliced("web"))
        give_up(book)
        book.sync()
        assert not book.proxier.has_failures
        assert book.retry() == []

    def test_an_address_that_could_not_be_bound_is_retried_for_its_next_owner(
        self, book: Playbook
    ) -> None:
        book.plane.busy.add(bound("10.0.9.1:80"))
        book.settle(service("a"), sliced("a"))
        book.settle(service("b"), sliced("b"))
        book.remove(service("a"))
        book.sync()
        assert book.states("b") == [("unavailable", "Address already in use")]
        book.plane.busy.clear()
        assert book.retry() == [opens("b", "10.0.9.1:80")]

    def test_an_address_that_no_portal_has_is_named_and_others_are_served(
        self, book: Playbook
    ) -> None:
        dual = service(ip="fd00::1", other_cluster_ips=("10.0.9.1",))
        book.put(dual, sliced("web"))
        assert book.sync() == [sets("web", "10.1.0.1"), opens("web", "10.0.9.1:80")]
        book.retry()
        book.put(sliced("web", "10.1.0.2"))
        book.sync()
        (refused, other) = book.proxier.frontends(port_name("web"))
        assert (refused.bound, refused.state) == (None, "unavailable")
        assert refused.detail.startswith("fd00::1 cannot be mapped")
        assert (other.bound, other.state) == (bound("10.0.9.1:80"), "bound")
        assert not book.proxier.has_failures

    def test_a_bug_in_one_service_keeps_it_as_it_was_and_no_other(self, book: Playbook) -> None:
        book.settle(service("a", "10.0.9.1"), sliced("a"), service("b", "10.0.9.2"), sliced("b"))
        book.put(service("a", "10.0.9.8"), service("b", "10.0.9.9"))
        book.reader.broken.add(builders.named("a"))
        with structlog.testing.capture_logs() as logs:
            assert book.sync() == [closes("10.0.9.2:80"), opens("b", "10.0.9.9:80")]
        assert book.proxier.quarantined == 1
        assert [(line["log_level"], line["service"]) for line in logs] == [("error", "default/a")]
        assert book.served()["127.0.9.1:80"] == "default/a:http"
        assert book.states("a") == [("bound", "")]
        book.reader.broken.clear()
        assert book.retry() == [closes("10.0.9.1:80"), opens("a", "10.0.9.8:80")]

    def test_a_bug_half_way_through_a_service_keeps_it_as_it_was_too(self, book: Playbook) -> None:
        both = sliced("web", ports=["http", "admin"])
        book.settle(service(ports={"http": 80, "admin": 81}), both)
        before = book.served()
        book.portal.cannot_locate.add("10.0.9.9")
        book.put(service(ports={"http": 80}, external_ips=("10.0.9.9",)))
        with structlog.testing.capture_logs():
            assert book.sync() == []
        assert book.proxier.quarantined == 1
        assert book.served() == before
        book.portal.cannot_locate.clear()
        assert book.retry() == [
            closes("10.0.9.1:81"),
            opens("web", "10.0.9.9:80", KINDS.EXTERNAL_IP),
            forgets("web:admin"),
        ]
        assert book.proxier.quarantined == 1


class TestLoops:
    """An endpoint that is the Service's own address would dial itself (docs/faults.md D14)."""

    @pytest.mark.parametrize(
        "own",
        [
            pytest.param("10.0.9.1:80", id="the cluster IP"),
            pytest.param("127.0.9.1:80", id="where it is bound"),
            pytest.param("203.0.113.1:80", id="an external IP"),
            pytest.param("127.0.113.1:80", id="where that is bound"),
            pytest.param("127.0.0.1:30080", id="where the node port is bound"),
        ],
    )
    def test_it_is_left_out_and_logged_once(self, book: Playbook, own: str) -> None:
        ports = (services.ServicePort("http", names.Protocol.TCP, 80, 30080),)
        web = service(ports=ports, external_ips=("203.0.113.1",))
        with structlog.testing.capture_logs() as logs:
            book.put(web, sliced("web", f"10.1.0.1 {own}"))
            assert book.sync()[0] == sets("web", "10.1.0.1")
            book.retry()
        assert logs == [looping(own)]

    def test_with_no_other_endpoint_there_is_no_listener(self, book: Playbook) -> None:
        book.put(service(), sliced("web", "10.0.9.1:80"))
        with structlog.testing.capture_logs() as logs:
            assert book.sync() == [sets("web", "")]
        assert logs == [looping("10.0.9.1:80")]

    def test_another_port_of_the_same_address_is_no_loop(self, book: Playbook) -> None:
        book.put(service(), sliced("web", "10.0.9.1:8080"))
        with structlog.testing.capture_logs() as logs:
            book.sync()
        assert book.plane.backends[port_name("web")] == sets("web", "10.0.9.1:8080")
        assert logs == []

    def test_it_is_logged_also_when_it_joins_good_endpoints(self, book: Playbook) -> None:
        book.settle(service(), sliced("web", "10.1.0.1"))
        book.put(sliced("web", "10.1.0.1 10.0.9.1:80"))
        with structlog.testing.capture_logs() as logs:
            assert book.sync() == []
        assert logs == [looping("10.0.9.1:80")]

    def test_it_is_not_logged_again_when_other_endpoints_change(self, book: Playbook) -> None:
        with structlog.testing.capture_logs() as logs:
            for last in range(1, 10):
                book.settle(service(), sliced("web", f"10.0.9.1:80 10.1.0.{last}"))
        assert logs == [looping("10.0.9.1:80")]

    def test_it_is_logged_again_when_it_had_gone(self, book: Playbook) -> None:
        with structlog.testing.capture_logs() as logs:
            for found in ("10.0.9.1:80", "10.1.0.1", "10.0.9.1:80"):
                book.settle(service(), sliced("web", found))
        assert logs == [looping("10.0.9.1:80")] * 2

    def test_it_is_left_out_of_the_local_scope_too(self) -> None:
        """Where only the local fallback has it: it drains, and another node has a ready one."""
        book = Playbook(node="n1")
        own = builders.endpoint("10.0.9.1:80", node="n1", ready=False, terminating=True)
        other = builders.endpoint("10.1.0.1", node="n2")
        with structlog.testing.capture_logs() as logs:
            book.put(service(internal_policy=LOCAL), sliced("web", [own, other]))
            assert book.sync() == [
                sets("web", "10.1.0.1", ""),
                opens("web", "10.0.9.1:80", scope=SCOPE.LOCAL, admitted=()),
            ]
        assert logs == [looping("10.0.9.1:80")]


class TestDrops:
    """What only the Local policy keeps from every endpoint is dropped (rows 26 to 28)."""

    HERE = builders.endpoint("10.1.0.1", node="n1")
    THERE = builders.endpoint("10.1.0.2", node="n2")

    def test_nothing_is_admitted_while_all_endpoints_are_elsewhere(self) -> None:
        book = Playbook(node="n1")
        book.put(service(internal_policy=LOCAL), sliced("web", [self.THERE]))
        assert book.sync() == [
            sets("web", "10.1.0.2"),
            opens("web", "10.0.9.1:80", scope=SCOPE.LOCAL, admitted=()),
        ]
        ((state, detail),) = book.states("web")
        assert state is STATES.DROPPED
        assert "the traffic policy is Local, and no ready endpoint is on this node" in detail

    def test_it_is_narrowed_before_and_widened_after_the_backends_change(self) -> None:
        book = Playbook(node="n1")
        book.settle(service(internal_policy=LOCAL), sliced("web", [self.HERE, self.THERE]))
        book.put(sliced("web", [self.THERE]))
        at = bound("10.0.9.1:80")
        assert book.sync() == [forwarding.Admit(at, ()), sets("web", "10.1.0.2")]
        book.put(sliced("web", [self.HERE]))
        assert book.sync() == [sets("web", "10.1.0.1", "10.1.0.1"), forwarding.Admit(at, None)]
        assert [state for state, _ in book.states("web")] == [STATES.BOUND]

    def test_without_any_endpoint_it_is_closed(self) -> None:
        book = Playbook(node="n1")
        book.settle(service(internal_policy=LOCAL), sliced("web", [self.THERE]))
        book.put(sliced("web", []))
        assert book.sync() == [closes("10.0.9.1:80"), sets("web", "")]

    def test_near_clients_are_admitted_at_external_addresses(self) -> None:
        book = Playbook(node="n1")
        book.portal.node = portal.Node(("127.0.0.1",), ("10.9.0.0/16",))
        full = service(external_ips=("203.0.113.1",), internal_policy=LOCAL, external_policy=LOCAL)
        book.put(full, sliced("web", [self.THERE]))
        external = "203.0.113.1:80", KINDS.EXTERNAL_IP, SCOPE.LOCAL
        assert book.sync() == [
            forwarding.SetNear(("10.9.0.0/16",)),
            sets("web", "10.1.0.2"),
            opens("web", "10.0.9.1:80", scope=SCOPE.LOCAL, admitted=()),
            opens("web", *external, admitted=("10.9.0.0/16", "203.0.113.1/32")),
        ]
        assert "clients on this node are served" in book.states("web")[1][1]

    def test_row_17_source_ranges_are_followed_both_ways(self) -> None:
        vip = bound("198.51.100.2:80")
        plain = service(load_balancer_ips=("198.51.100.2",))
        book = Playbook()
        book.settle(plain, sliced("web"))

        def sent_by(*ranges: str) -> list[forwarding.Message]:
            book.put(replace(plain, source_ranges=ranges))
            return book.sync()

        assert sent_by("192.0.2.0/24") == [forwarding.Admit(vip, ("192.0.2.0/24",))]
        assert "are dropped" in book.states("web")[1][1]
        assert sent_by("192.0.2.0/24", "fd00::/8") == []
        assert sent_by("203.0.113.0/24") == [forwarding.Admit(vip, ("203.0.113.0/24",))]
        assert sent_by() == [forwarding.Admit(vip, None)]
        assert book.states("web")[1] == (STATES.BOUND, "")

    def test_too_many_source_ranges_are_said_and_drop_all(self) -> None:
        many = tuple(f"10.{n // 250}.{n % 250}.0/24" for n in range(401))
        book = Playbook()
        book.settle(service(load_balancer_ips=("198.51.100.2",), source_ranges=many), sliced("web"))
        (cluster_ip, _), (vip, detail) = book.states("web")
        assert (cluster_ip, vip) == (STATES.BOUND, STATES.DROPPED)
        assert "merge some of spec.loadBalancerSourceRanges" in detail

    def test_a_node_that_changes_is_followed_at_the_next_resync(self) -> None:
        book = Playbook(node="n1")
        nodeport = services.ServicePort("http", names.Protocol.TCP, 80, 30080)
        book.settle(service(type=services.ServiceType.NODE_PORT, ports=(nodeport,)), sliced("web"))
        book.portal.node = portal.Node(("127.0.0.1", "127.0.0.2"))
        book.retry()
        assert sorted(book.served()) == ["127.0.0.1:30080", "127.0.0.2:30080", "127.0.9.1:80"]
        book.portal.node = portal.Node(("127.0.0.2",))
        assert book.retry() == [closes("127.0.0.1:30080")]


def looping(*own: str) -> structlog.typing.EventDict:
    return {
        "log_level": "warning",
        "event": "endpoint is the Service's own address and was left out",
        "service": "default/web:http",
        "endpoints": list(own),
    }


class TestWhatChanged:
    """`sync` returns every service port whose frontends may be in another state."""

    def names(self, book: Playbook) -> list[str]:
        book.sync()
        return [str(name) for name in book.changed]

    def test_nothing_when_nothing_is_dirty(self, book: Playbook) -> None:
        assert self.names(book) == []
        book.settle(service(), sliced("web"))
        assert self.names(book) == []

    def test_a_service_that_comes_changes_and_goes(self, book: Playbook) -> None:
        book.settle(service("other", "10.0.9.9"), sliced("other"))
        book.put(service(), sliced("web"))
        assert self.names(book) == ["default/web:http"]
        book.put(sliced("web", ""))
        assert self.names(book) == ["default/web:http"]
        book.remove(service())
        assert self.names(book) == ["default/web:http"]

    def test_the_ports_that_a_service_has_gained_and_lost(self, book: Playbook) -> None:
        book.settle(service(ports={"a": 80, "b": 81}))
        book.put(service(ports={"b": 81, "c": 82}))
        assert self.names(book) == ["default/web:a", "default/web:c"]

    def test_every_service_that_wants_an_address_that_changes_hands(self, book: Playbook) -> None:
        book.settle(service("a"), sliced("a"), service("b"), sliced("b"), service("c"))
        book.remove(service("a"))
        assert self.names(book) == ["default/a:http", "default/b:http", "default/c:http"]
        assert book.states("c") == [("collision", "127.0.9.1:80 belongs to default/b:http")]

    def test_what_is_returned_covers_every_change_of_a_status(self, book: Playbook) -> None:
        """Step by step through a life with collisions and failures."""
        everyone = [port_name(name) for name in ("a", "b", "c")]
        steps: list[Callable[[], None]] = [
            lambda: book.put(service("b"), sliced("b"), service("c"), sliced("c")),
            lambda: book.put(service("a"), sliced("a")),
            lambda: book.plane.busy.add(bound("10.0.9.1:80")),
            lambda: book.put(sliced("a", "")),
            lambda: book.put(sliced("a")),
            lambda: book.plane.busy.clear(),
            lambda: book.proxier.mark_all(),
            lambda: book.put(service("a", "10.0.9.2")),
            lambda: book.remove(service("b")),
            lambda: book.put(service("c", "")),
        ]
        for step in steps:
            before = {name: book.proxier.frontends(name) for name in everyone}
            step()
            book.sync()
            for name in everyone:
                unchanged = book.proxier.frontends(name) == before[name]
                assert unchanged or name in book.changed
