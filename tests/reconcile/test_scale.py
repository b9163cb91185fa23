"""Work that grows with what has changed, not with what there is (C11, C12)."""

from collections import Counter

import pytest

from kproxy.model import forwarding, names
from kproxy.model.kinds import endpoints, services
from kproxy.reconcile import proxier
from kproxy.sources import store
from tests.reconcile import builders, recording

_SLICES, _IN_EACH = 100, 50


class Counting(store.Store):
    """A Store that counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def service(self, name: names.NamespacedName) -> services.Service | None:
        self.asked["service"] += 1
        return super().service(name)

    def sources(self, name: names.NamespacedName) -> tuple[endpoints.EndpointsObject, ...]:
        self.asked["sources"] += 1
        return super().sources(name)


def address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@pytest.mark.parametrize("count", [100, 2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_c11_one_change_costs_the_same_whatever_else_is_served(count: int) -> None:
    reader, plane = Counting(), recording.RecordingPlane()
    syncing = proxier.Proxier(reader, plane, builders.options())
    for number in range(count):
        # The lowest addresses are the host's own on the loopback portal.
        reader.apply(builders.service(f"s{number}", address(number + 1000)))
        reader.apply(builders.sliced(f"s{number}"))
    syncing.mark_all()
    syncing.sync()
    assert len(plane.open) == count
    plane.drain()
    reader.asked.clear()

    syncing.mark(reader.apply(builders.sliced("s7", "10.1.0.1 10.1.0.2")))
    steps = sum(1 for _ in syncing.sync_steps())

    [message] = plane.drain()
    assert isinstance(message, forwarding.SetBackends)
    assert len(message.pools[0].backends) == 2
    assert reader.asked.total() <= 4
    assert steps <= 16


def test_c12_a_hundred_slices_are_merged_and_one_update_is_one_message() -> None:
    reader, plane = store.Store(), recording.RecordingPlane()
    syncing = proxier.Proxier(reader, plane, builders.options())
    reader.apply(builders.service("web"))
    ips = [[address(s * _IN_EACH + n + 1) for n in range(_IN_EACH)] for s in range(_SLICES)]
    for number, listed in enumerate(ips):
        reader.apply(builders.sliced("web", " ".join(listed), suffix=str(number)))
    syncing.mark_all()
    syncing.sync()
    web = builders.port_of("web")
    assert len(plane.backends[web].pools[0].backends) == _SLICES * _IN_EACH
    plane.drain()

    gone, *kept = ips[7]
    syncing.mark(reader.apply(builders.sliced("web", " ".join(kept), suffix="7")))
    syncing.sync()

    [message] = plane.drain()
    assert isinstance(message, forwarding.SetBackends)
    expected = {ip for listed in ips for ip in listed} - {gone}
    assert {each.address for each in message.pools[0].backends} == expected
