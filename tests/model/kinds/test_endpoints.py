"""Merging endpoints: one per ip:port, whatever the order (docs/behaviour.md row 36)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import addresses
from kproxy.model.kinds import endpoints

anything = st.builds(
    endpoints.Endpoint,
    st.builds(
        addresses.SocketAddress,
        st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
        st.integers(1, 2),
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "n1", "n2"]),
    st.sampled_from([(), ("z1",), ("z1", "z2")]),
    st.sampled_from([(), ("n1",)]),
)


def at(port: int = 80, **conditions: bool | str) -> endpoints.Endpoint:
    return endpoints.Endpoint(addresses.SocketAddress("10.0.0.1", port), **conditions)  # type: ignore[arg-type] # two kinds of keyword


@given(st.lists(anything).flatmap(lambda pool: st.tuples(st.just(pool), st.permutations(pool))))
def test_the_order_of_the_input_does_not_matter(
    orders: tuple[list[endpoints.Endpoint], list[endpoints.Endpoint]],
) -> None:
    one, other = map(endpoints.merged, orders)
    assert one == other
    assert [e.backend for e in one] == sorted({e.backend for e in orders[0]})


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        pytest.param(at(ready=True), at(ready=False), id="ready"),
        pytest.param(at(ready=False), at(ready=False, serving=False), id="serving"),
        pytest.param(at(ready=False), at(ready=False, terminating=True), id="staying"),
        pytest.param(at(node="n1"), at(), id="known node"),
    ],
)
def test_of_duplicates_the_more_useful_one_stays(
    winner: endpoints.Endpoint, loser: endpoints.Endpoint
) -> None:
    assert endpoints.merged([winner, loser]) == endpoints.merged([loser, winner]) == (winner,)


def test_one_address_with_two_ports_is_two_endpoints() -> None:
    assert len(endpoints.merged([at(80), at(81)])) == 2
