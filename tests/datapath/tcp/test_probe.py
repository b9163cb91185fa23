"""Background probes: a boxed endpoint comes out without any client having met it."""

import errno

import pytest

from kproxy.balancer import penalty
from tests.datapath.rig import clients, faulty, harness
from tests.relay import actor


async def test_a_probe_that_connects_to_itself_frees_no_backend(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalty, "FIRST_PENALTY", 0.1)
    path, closed = bench.start(), bench.place(ephemeral=True)
    service = path.serve(closed)
    await clients.is_turned_away(bench, service)
    probes: list[int] = []

    def meet_itself(sock: faulty.FaultySocket) -> None:
        closed.close()  # not earlier: the kernel could give its port to another socket
        sock.bind(closed.address)
        probes.append(sock.fileno())

    path.kernel.prepare_dial = meet_itself
    await harness.until(lambda: probes, "the endpoint is probed")
    (number,) = probes
    await harness.until(lambda: number not in path.kernel.sockets, "the probe is over")
    assert closed.address in path.box, "a dead endpoint was set free"


async def test_a_recovered_endpoint_is_set_free_by_a_probe_and_no_client_meets_it_before(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalty, "FIRST_PENALTY", 0.1)
    path, ill, alive = bench.start(), bench.place(), bench.backend()
    service = path.serve(ill, alive)
    crowd = [await bench.connect(service) for _ in range(4)]
    await harness.until(lambda: alive.waiting() == 4, "all are served by the healthy one")
    assert ill.address in path.box
    ill.listen()
    await harness.until(lambda: ill.address not in path.box, "a probe sets it free")
    assert service.dial_failures == {"ECONNREFUSED": 1}
    await harness.until(ill.waiting, "the probe's connection is there")
    probe = await bench.accept(ill)
    async with harness.within("the probe goes away again"):
        assert await probe.receive_to_end() in actor.End
    crowd += [await bench.connect(service) for _ in range(4)]
    await harness.until(lambda: ill.waiting() == 2, "it has its share again")


async def test_a_probe_that_fails_after_a_client_was_served_does_not_box_the_endpoint_again(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalty, "FIRST_PENALTY", 0.1)
    path, place = bench.start(), bench.place()
    service = path.serve(place)
    await clients.is_turned_away(bench, service)
    await place.swallow()
    probes: list[faulty.FaultySocket] = []
    path.kernel.prepare_dial = probes.append
    await harness.until(lambda: probes, "the endpoint is probed, and does not answer")
    path.kernel.prepare_dial = None
    place.wake()
    await bench.pair(service, place)
    await harness.until(lambda: place.address not in path.box, "the client's dial sets it free")
    await harness.until(lambda: all(each.fileno() < 0 for each in probes), "the probe is over")
    assert place.address not in path.box


@pytest.mark.parametrize(
    ("call", "code"),
    [
        pytest.param("socket", errno.EMFILE, id="no descriptor"),
        pytest.param("connect", errno.EADDRNOTAVAIL, id="no port"),
        pytest.param("register", errno.ENOSPC, id="no room in the epoll"),
    ],
)
async def test_probing_goes_on_after_a_probe_that_could_not_be_made(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    monkeypatch.setattr(penalty, "FIRST_PENALTY", 0.1)
    path, ill, alive = bench.start(), bench.place(), bench.backend()
    service = path.serve(ill, alive)
    for _ in range(2):
        await bench.connect(service)
    await harness.until(lambda: alive.waiting() == 2, "all are served")
    assert ill.address in path.box
    ill.listen()
    path.kernel.fail(call, code)
    await harness.until(lambda: ill.address not in path.box, "a later probe sets it free")
