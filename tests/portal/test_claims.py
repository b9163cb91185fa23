"""Claims: who is served on an address that several want.

Cases: S10 of docs/faults.md.

Behaviour: row 13 of docs/behaviour.md.
"""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import forwarding, names
from kproxy.portal import claims

HERE = forwarding.PortalAddress("127.0.0.1", 80)
ELSEWHERE = forwarding.PortalAddress("127.0.0.2", 80)
KINDS = [
    forwarding.FrontendKind.CLUSTER_IP,
    forwarding.FrontendKind.NODE_PORT,
    forwarding.FrontendKind.LOAD_BALANCER,
    forwarding.FrontendKind.EXTERNAL_IP,
]
"""In order of precedence."""
OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def claim(
    name: str,
    created: str = "",
    *,
    namespace: str = "default",
    port: str = "",
    kind: forwarding.FrontendKind = forwarding.FrontendKind.CLUSTER_IP,
) -> claims.Claim:
    service = names.NamespacedName(namespace, name)
    frontend = forwarding.Frontend(kind, "10.0.0.1", 80)
    return claims.Claim(created, names.ServicePortName(service, port), frontend)


@pytest.mark.parametrize(
    "in_order",
    [
        pytest.param([claim("z", OLD), claim("a", NEW)], id="the older Service"),
        pytest.param([claim("a", OLD), claim("b", OLD)], id="of one age, by name"),
        pytest.param([claim("a"), claim("b")], id="of no age, by name"),
        pytest.param([claim("z"), claim("a", OLD)], id="an unknown age counts as oldest"),
        pytest.param(
            [claim("z", namespace="a"), claim("a", namespace="b")], id="namespace before name"
        ),
        pytest.param([claim("a", port="dns"), claim("a", port="web")], id="by port name"),
        pytest.param(
            [claim("z", NEW, kind=kind) for kind in KINDS],
            id="by kind",
        ),
        pytest.param(
            [claim("z", NEW), claim("a", OLD, kind=KINDS[1])], id="a ClusterIP before a node port"
        ),
        pytest.param(
            [claim("z", NEW, kind=KINDS[1]), claim("a", OLD, kind=KINDS[2])],
            id="a node port before a load balancer's address",
        ),
        pytest.param(
            [claim("z", NEW, kind=KINDS[2]), claim("a", OLD, kind=KINDS[3])],
            id="a load balancer's address before an external IP, whatever their age",
        ),
        pytest.param([claim("c", OLD), claim("a", NEW), claim("b", NEW)], id="three"),
    ],
)
def test_precedence_does_not_depend_on_who_came_first(in_order: list[claims.Claim]) -> None:
    for order in itertools.permutations(in_order):
        kept = claims.Claims()
        for each in order:
            kept.add(HERE, each)
        assert kept.winner(HERE) == in_order[0]
        assert kept.losers(HERE) == in_order[1:]


def test_nobody_wins_what_nobody_wants() -> None:
    kept = claims.Claims()
    assert kept.winner(HERE) is None
    assert kept.losers(HERE) == []


def test_the_next_in_order_wins_when_the_winner_withdraws() -> None:
    kept = claims.Claims()
    first, second, third = claim("a"), claim("b"), claim("c")
    for each in (third, first, second):
        kept.add(HERE, each)
    kept.withdraw(HERE, first)
    assert (kept.winner(HERE), kept.losers(HERE)) == (second, [third])
    kept.withdraw(HERE, third)
    assert (kept.winner(HERE), kept.losers(HERE)) == (second, [])
    kept.withdraw(HERE, second)
    assert kept.winner(HERE) is None


def test_claiming_twice_is_claiming_once() -> None:
    kept = claims.Claims()
    kept.add(HERE, claim("a"))
    kept.add(HERE, claim("a"))
    assert kept.losers(HERE) == []
    kept.withdraw(HERE, claim("a"))
    assert kept.winner(HERE) is None


def test_withdrawing_what_was_never_claimed_is_no_error() -> None:
    kept = claims.Claims()
    kept.withdraw(HERE, claim("a"))
    kept.add(HERE, claim("a"))
    kept.withdraw(HERE, claim("b"))
    assert kept.winner(HERE) == claim("a")


def test_addresses_are_claimed_one_by_one() -> None:
    kept = claims.Claims()
    kept.add(HERE, claim("b"))
    kept.add(ELSEWHERE, claim("a"))
    assert kept.winner(HERE) == claim("b")
    kept.withdraw(ELSEWHERE, claim("b"))
    assert kept.winner(HERE) == claim("b")


some_claims = st.builds(
    claim,
    st.sampled_from("abc"),
    st.sampled_from(["", OLD, NEW]),
    port=st.sampled_from(["", "web"]),
)
moves = st.lists(st.tuples(st.booleans(), st.sampled_from([HERE, ELSEWHERE]), some_claims))


@given(moves, st.randoms(use_true_random=False))
def test_the_winner_of_any_history_is_that_of_the_final_claims_in_any_order(
    history: list[tuple[bool, forwarding.PortalAddress, claims.Claim]], shuffler: random.Random
) -> None:
    kept = claims.Claims()
    standing: set[tuple[forwarding.PortalAddress, claims.Claim]] = set()
    for is_added, address, each in history:
        if is_added:
            kept.add(address, each)
            standing.add((address, each))
        else:
            kept.withdraw(address, each)
            standing.discard((address, each))
    final = sorted(standing, key=lambda each: (each[0], each[1].precedence))
    shuffler.shuffle(final)
    fresh = claims.Claims()
    for address, each in final:
        fresh.add(address, each)
    for address in (HERE, ELSEWHERE):
        assert kept.winner(address) == fresh.winner(address)
        assert kept.losers(address) == fresh.losers(address)
