"""A data plane in another process answers later: what the proxier says and does until then."""

import pytest

from kproxy.model import forwarding
from kproxy.reconcile import effects, proxier
from kproxy.sources import store
from tests.reconcile import builders, recording

STATE = forwarding.FrontendState
WEB = builders.port_of("web")
ADDRESS = forwarding.PortalAddress("127.0.9.1", 80)


class LatePlane(recording.RecordingPlane):
    """A plane whose reports wait until a test lets them through."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[forwarding.Report] = []

    def subscribe(self, hear: recording.Hear) -> None:
        """Reports come in `answer`."""
        self.listener = hear
        super().subscribe(self.waiting.append)

    def answer(self, count: int | None = None) -> None:
        """Let the first reports through, or all."""
        for report in self.waiting[:count]:
            self.listener(report)
        del self.waiting[:count]


class World:
    """A proxier over a plane that answers late."""

    def __init__(self) -> None:
        self.store = store.Store()
        self.plane = LatePlane()
        self.wanted_syncs = 0
        self.proxier = proxier.Proxier(
            self.store, self.plane, builders.options(), on_answer=self._want_sync
        )

    def _want_sync(self) -> None:
        self.wanted_syncs += 1

    def put(self, name: str = "web", address: str = "10.0.9.1") -> None:
        """A Service with an endpoint."""
        self.proxier.mark(self.store.apply(builders.service(name, address)))
        self.proxier.mark(self.store.apply(builders.sliced(name, "10.1.0.1")))

    def remove_endpoints(self) -> None:
        """The Service has none any more."""
        gone = builders.sliced("web", "10.1.0.1")
        self.proxier.mark(self.store.delete(gone.kind, gone.name))

    def state(self) -> tuple[forwarding.FrontendState, str]:
        """State and detail of the frontend of web."""
        (status,) = self.proxier.frontends(WEB)
        return status.state, status.detail


@pytest.fixture
def world() -> World:
    return World()


def test_a_frontend_is_bound_once_the_plane_says_so(world: World) -> None:
    world.put()
    assert world.proxier.sync() == [], "nothing is known of it yet"
    assert world.state() == (STATE.OPENING, "about to be opened")
    assert (world.proxier.opening, world.proxier.listening) == (1, 0)
    assert world.wanted_syncs == 0

    world.plane.answer()

    assert world.state() == (STATE.BOUND, "")
    assert (world.proxier.opening, world.proxier.listening) == (0, 1)
    assert world.wanted_syncs == 1
    assert world.proxier.sync() == [WEB], "its state is new"
    assert world.proxier.sync() == []


def test_nothing_is_asked_for_twice_while_an_answer_is_awaited(world: World) -> None:
    world.put()
    world.proxier.sync()
    world.plane.drain()
    world.proxier.mark_all()
    world.proxier.sync()
    assert world.plane.drain() == []


def test_a_failure_that_comes_late_is_tried_again(world: World) -> None:
    world.put()
    world.plane.busy.add(ADDRESS)
    world.proxier.sync()
    assert not world.proxier.has_failures
    world.plane.answer()
    assert world.state() == (STATE.UNAVAILABLE, "Address already in use")
    assert world.proxier.has_failures

    world.proxier.mark_all()
    world.proxier.sync()
    assert world.proxier.has_failures, "until the answer says otherwise"
    world.plane.answer()
    world.plane.busy.clear()
    world.proxier.mark_all()
    world.proxier.sync()
    world.plane.answer()
    assert world.state() == (STATE.BOUND, "")
    assert not world.proxier.has_failures


def test_a_frontend_that_is_no_longer_wanted_is_closed_before_its_answer(world: World) -> None:
    world.put()
    world.proxier.sync()
    world.remove_endpoints()
    world.proxier.sync()
    assert forwarding.CloseFrontend(ADDRESS) in world.plane.drain()
    world.plane.answer()
    assert world.state()[0] is STATE.NO_ENDPOINTS
    assert (world.proxier.opening, world.proxier.listening) == (0, 0)
    assert world.plane.open == {}


def test_the_answer_to_an_earlier_request_says_nothing_of_a_later_one(world: World) -> None:
    world.put()
    world.proxier.sync()
    world.remove_endpoints()
    world.proxier.sync()
    world.plane.busy.add(ADDRESS)
    world.put()
    world.proxier.sync()
    assert len(world.plane.waiting) == 2
    world.plane.answer(1)
    assert world.state() == (STATE.OPENING, "about to be opened")
    world.plane.answer(1)
    assert world.state() == (STATE.UNAVAILABLE, "Address already in use")


def test_a_success_that_comes_late_lets_the_others_be_tried(world: World) -> None:
    many = effects.RETRY_BATCH + 10
    for number in range(many):
        name = f"s{number:03}"
        world.put(name, f"10.0.8.{number}" if number < 256 else f"10.0.7.{number - 256}")
        world.plane.busy |= {
            forwarding.PortalAddress(f"127.0.{net}.{number % 256}", 80) for net in (7, 8)
        }
    world.proxier.sync()
    world.plane.answer()
    world.plane.busy.clear()
    world.proxier.mark_all()
    world.proxier.sync()
    assert len(world.plane.waiting) == effects.RETRY_BATCH
    while world.plane.waiting:
        world.plane.answer()
        world.proxier.sync()
    assert world.proxier.listening == many
    assert not world.proxier.has_failures
