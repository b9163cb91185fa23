"""The share of each endpoint, of the weights of backends."""

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from kproxy.gateway import shares
from kproxy.model import addresses, steps

POOL = [addresses.SocketAddress(f"10.1.0.{number}", 80) for number in range(1, 9)]
IPV4 = addresses.Family.IPV4


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1_000_000), st.lists(st.sampled_from(POOL), unique=True, max_size=7)
        ),
        min_size=1,
        max_size=16,
    )
)
def test_every_backend_gets_exactly_its_share(given: list[tuple[int, list[object]]]) -> None:
    backends = [shares.Share(weight, tuple(found)) for weight, found in given]  # type: ignore[arg-type]  # hypothesis forgets
    pool = steps.at_once(shares.pool_in_steps(IPV4, backends))
    wanted: dict[object, Fraction] = {}
    for weight, found in given:
        for each in found or [None] if weight else []:
            wanted[each] = wanted.get(each, Fraction()) + Fraction(weight, max(len(found), 1))
    if pool is None:
        assert not wanted.keys() - {None}
        return
    weights = pool.weights or (1,) * len(pool.backends)
    total = sum(wanted.values())
    got: dict[object, int] = {None: pool.refused}
    got.update(zip(pool.backends, weights, strict=True))
    assert pool.total == sum(got.values())
    for each, weight in got.items():
        assert Fraction(weight, pool.total) == wanted.get(each, Fraction()) / total


def test_weights_stay_of_a_size_that_a_message_can_carry() -> None:
    primes = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149)
    backends = []
    for first, count in enumerate(primes):
        found = [addresses.SocketAddress(f"10.{first}.0.{n}", 80) for n in range(count)]
        backends.append(shares.Share(1 + first * 111_111, tuple(found)))
    pool = steps.at_once(shares.pool_in_steps(IPV4, backends))
    assert pool is not None
    assert max(pool.weights) < 1 << 41
    total = sum(weight for weight, _ in backends)
    for share in backends:
        got = sum(
            weight
            for each, weight in zip(pool.backends, pool.weights, strict=True)
            if each in share.endpoints
        )
        assert abs(got / pool.total - share.weight / total) < 1e-6


def test_weights_that_differ_are_few_enough_to_be_looked_at_for_each_connection() -> None:
    draw = random.Random(1)
    found = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(500)]
    backends = []
    for _ in range(16):
        some = draw.sample(found, draw.randrange(1, 500))
        backends.append(shares.Share(draw.randrange(1, 1000), tuple(some)))
    pool = steps.at_once(shares.pool_in_steps(IPV4, backends))
    assert pool is not None
    assert 20 < len(set(pool.weights)) <= 72
    for each, weight in zip(pool.backends, pool.weights, strict=True):
        exact = sum(
            Fraction(share.weight, len(share.endpoints))
            for share in backends
            if each in share.endpoints
        )
        wanted = exact / sum(share.weight for share in backends)
        assert abs(weight / pool.total - wanted) <= 0.08 * wanted
