"""Clients that are turned away stay so while they send, and are bounded in number."""

from kproxy.datapath.udp import turned_away

CLIENT, OTHER = ("10.9.9.9", 1), ("10.9.9.9", 2)


def test_a_client_is_turned_away_until_it_is_silent() -> None:
    away = turned_away.TurnedAway()
    assert not away.holds(CLIENT, 0.0)
    away.add(CLIENT, 0.0)
    for moment in range(0, 300, 20):
        assert away.holds(CLIENT, float(moment))
        assert not away.holds(OTHER, float(moment))
    assert not away.holds(CLIENT, 280.0 + turned_away.SECONDS + 1)
    assert not away.holds(CLIENT, 280.0 + turned_away.SECONDS + 2)


def test_the_most_silent_of_too_many_begin_anew() -> None:
    away = turned_away.TurnedAway()
    for port in range(turned_away.MOST):
        away.add(("10.9.9.9", port), 0.0)
    assert away.holds(("10.9.9.9", 0), 1.0)
    away.add(("10.9.9.8", 1), 1.0)
    assert away.holds(("10.9.9.9", 0), 1.0)
    assert not away.holds(("10.9.9.9", 1), 1.0)
