"""The table of states: a connection keeps to it, and a state that breaks it is found."""

from collections.abc import Callable

import pytest

from kproxy.datapath.tcp import connection, relay
from tests.datapath.rig import harness
from tests.relay import actor

Break = Callable[[relay.Leg, relay.Leg], None]


def _set(name: str, value: object) -> Break:
    def change(leg: relay.Leg, peer: relay.Leg) -> None:
        setattr(leg, name, value)

    return change


def _block_without_watching(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = peer.quick = False
    leg.blocked, leg.watches_writable = True, False


def _end_both(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = peer.quick = False
    leg.eof = leg.ended = peer.eof = peer.ended = True


def _end_unread(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = False
    leg.ended = True


def _forget_the_end(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = False
    leg.eof = True


def _keep_without_waiting(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = False
    leg.unsent = b"kept"


def _unlink(leg: relay.Leg, peer: relay.Leg) -> None:
    leg.quick = False
    leg.peer = None


async def _open(bench: harness.Harness) -> tuple[connection.Connection, actor.Actor]:
    """A connection that has relayed messages each way, so that both directions are quick.

    And its client.
    """
    path = bench.start()
    place = bench.backend()
    client, backend = await bench.pair(path.serve(place), place)
    for sender, receiver in ((client, backend), (backend, client)) * 2:
        await sender.send(b"hello")
        assert await receiver.receive_exactly(5) == b"hello"
    (conn,) = {each.conn for each in path.held() if isinstance(each, relay.Leg)}
    assert isinstance(conn, connection.Connection)
    return conn, client


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        pytest.param(_set("telltale", 1), "open-quick", id="quick, with a telltale"),
        pytest.param(_set("unsent", b"kept"), "open-quick", id="quick, with bytes kept"),
        pytest.param(_set("unsent", b""), "no empty bytes", id="kept, and nothing in it"),
        pytest.param(_set("readable", True), "unread bytes", id="unread, and no turn to come"),
        pytest.param(_block_without_watching, "EPOLLOUT", id="full, and no event to come"),
        pytest.param(_keep_without_waiting, "what is kept", id="kept, with room at the peer"),
        pytest.param(_forget_the_end, "source-over", id="over, and not passed on"),
        pytest.param(_end_unread, "ended", id="ended before its source"),
        pytest.param(_end_both, "ended", id="both ended, still open"),
        pytest.param(_unlink, "linked|peers", id="linked one way only"),
    ],
)
async def test_a_broken_state_is_found(bench: harness.Harness, change: Break, rule: str) -> None:
    conn, _client = await _open(bench)
    assert conn.server is not None
    conn.assert_consistent()
    change(conn.client, conn.server)
    try:
        with pytest.raises(AssertionError, match=rule):
            conn.assert_consistent()
    finally:
        conn.abort("K/X")


async def test_a_closed_connection_keeps_nothing(bench: harness.Harness) -> None:
    conn, _client = await _open(bench)
    conn.abort("K/X")
    conn.assert_consistent()
    conn.client.unsent = b"kept"
    with pytest.raises(AssertionError, match="closed: no peer, nothing kept"):
        conn.assert_consistent()


async def test_what_an_event_leaves_behind_is_noticed(
    bench: harness.Harness, violations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, client = await _open(bench)
    assert not violations
    monkeypatch.setattr(relay.Leg, "_finish", lambda leg, peer: None)  # a FIN that is forgotten
    client.shut_write()
    await harness.until(lambda: violations, "the check notices")
    assert "source-over" in violations[0]
    conn.abort("K/X")
    violations.clear()
