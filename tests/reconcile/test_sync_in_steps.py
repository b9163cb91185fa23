"""Objects that change while a sync is under way: the next sync makes up for it."""

import functools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import admission, forwarding
from kproxy.model import steps as stepwise
from kproxy.reconcile import proxier
from kproxy.sources import store
from tests.reconcile import builders, recording

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS: list[admission.Accepted] = [
    builders.service("a", "10.0.9.1"),
    builders.service("a", "10.0.9.2"),
    builders.service("b", "10.0.9.1"),
    builders.service("b", "10.0.9.2", {"http": 80, "admin": 81}),
    builders.service("c", "10.0.9.3"),
    builders.sliced("a", "10.1.0.1"),
    builders.sliced("a", ""),
    builders.sliced("b", "10.1.0.2 10.1.0.3", ports=("http", "admin")),
    builders.sliced("b", "10.1.0.4"),
    builders.sliced("c", "10.1.0.5"),
]

Change = tuple[bool, admission.Accepted, int]
"""Whether to delete or to apply, what, and how many steps of a sync to take after it."""

changes = st.tuples(st.booleans(), st.sampled_from(OBJECTS), st.integers(0, 12))


class World:
    """A proxier over a Store, with at most one sync under way; `whole` is its kind."""

    def __init__(self, whole: str = "sync") -> None:
        self.store = store.Store()
        self.plane = recording.RecordingPlane()
        self.proxier = proxier.Proxier(self.store, self.plane, builders.options())
        kinds: dict[str, Callable[[], proxier.Steps]] = {
            "sync": self.proxier.sync_steps,
            "resync": functools.partial(self.proxier.resync_steps, batch=1),
        }
        self._make_steps = kinds[whole]
        self.steps = self._make_steps()

    def change(self, *, gone: bool, what: admission.Accepted) -> None:
        kind = what.kind
        dirty = self.store.delete(kind, what.name) if gone else self.store.apply(what)
        self.proxier.mark(dirty)

    def advance(self, count: int) -> None:
        for _ in range(count):
            if next(self.steps, "done") == "done":
                self.steps = self._make_steps()

    def settle(self) -> None:
        for _ in self.steps:
            pass
        self.proxier.sync()

    def state(self) -> tuple[object, ...]:
        return self.plane.open, self.plane.backends, self.proxier.rules()


@pytest.mark.parametrize("whole", ["sync", "resync"])
@given(history=st.lists(changes, max_size=30))
def test_any_interleaving_ends_where_a_fresh_start_does(whole: str, history: list[Change]) -> None:
    live, fresh = World(whole), World()
    for gone, what, steps in history:
        live.change(gone=gone, what=what)
        live.advance(steps)
    live.settle()
    fresh.proxier = proxier.Proxier(live.store, fresh.plane, builders.options())
    fresh.proxier.mark_all()
    fresh.proxier.sync()
    assert live.state() == fresh.state()


def test_a_resync_looks_at_everything_and_reports_what_it_has_opened() -> None:
    world = World()
    many = 3 * proxier.RESYNC_BATCH + 1
    for number in range(many):
        world.change(gone=False, what=builders.service(f"s{number:03}", f"10.0.9.{number}"))
        world.change(gone=False, what=builders.sliced(f"s{number:03}", "10.1.0.1"))
        world.plane.busy.add(forwarding.PortalAddress(f"127.0.9.{number}", 80))
    assert len(world.proxier.sync()) == many
    assert world.plane.open == {}
    world.plane.busy.clear()
    assert stepwise.at_once(world.proxier.resync_steps()) == [
        builders.port_of(f"s{number:03}") for number in range(many)
    ]
    assert len(world.plane.open) == many
    assert stepwise.at_once(world.proxier.resync_steps()) == []


def test_the_next_sync_reports_what_a_failed_one_had_changed() -> None:
    world = World()
    for name, address in (("a", "10.0.9.1"), ("b", "10.0.9.2")):
        world.change(gone=False, what=builders.service(name, address))
        world.change(gone=False, what=builders.sliced(name, "10.1.0.1"))
    send = world.plane.send

    def fail_at_the_second(message: forwarding.Message) -> None:
        if isinstance(message, forwarding.OpenFrontend) and world.plane.open:
            raise RuntimeError
        send(message)

    world.plane.send = fail_at_the_second  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        world.proxier.sync()
    world.plane.send = send  # type: ignore[method-assign]
    told = stepwise.at_once(world.proxier.resync_steps())
    assert told == [builders.port_of("a"), builders.port_of("b")]
    assert len(world.plane.open) == 2


def test_a_change_does_not_wait_for_the_end_of_a_resync() -> None:
    many = 1000
    world = World()
    for number in range(many):
        address = f"10.9.{number // 250}.{number % 250}"
        world.change(gone=False, what=builders.service(f"s{number:03}", address))
        world.change(gone=False, what=builders.sliced(f"s{number:03}", "10.1.0.1"))
    world.settle()
    for name in ("s000", "s500", "s999"):
        resync = world.proxier.resync_steps()
        for _ in range(10):
            next(resync)
        world.change(gone=False, what=builders.sliced(name, "10.1.0.2"))
        changed = world.plane.backends[builders.port_of(name)]
        taken = 0
        while world.plane.backends[builders.port_of(name)] is changed:
            next(resync)
            taken += 1
        assert taken < 4 * proxier.RESYNC_BATCH < many
        for _ in resync:
            pass
        world.settle()


def test_what_changes_while_it_is_being_opened_is_put_right_by_the_next_sync() -> None:
    world = World()
    world.change(gone=False, what=OBJECTS[0])
    world.change(gone=False, what=OBJECTS[5])
    world.advance(2)
    world.change(gone=True, what=OBJECTS[0])
    world.settle()
    assert world.plane.open == {}
    assert world.proxier.rules() == {}
