"""The registry of heartbeats and its gateway, on a clock of the test."""

import pytest

from kproxy.demo.shop import http_client, registry
from tests.e2e.rig import manifests

ONE, TWO = (registry.Instance(f"usermgr-{number}", "127.1.1.1", number) for number in (1, 2))


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_instance_is_believed_until_its_last_beat_is_too_old() -> None:
    clock = Clock()
    known = registry.Registry(clock)
    for each in (ONE, TWO):
        known.beat("usermgr", each)
    clock.now = 2.0
    known.beat("usermgr", TWO)

    clock.now = registry.EXPIRY_SECONDS
    assert known.instances("usermgr") == [ONE, TWO]
    clock.now += 0.1
    assert known.instances("usermgr") == [TWO]
    assert known.instances("ordermgr") == []


def test_an_instance_that_signs_off_is_gone_at_once() -> None:
    known = registry.Registry(Clock())
    known.beat("usermgr", ONE)

    known.sign_off("usermgr", TWO)
    known.sign_off("usermgr", ONE)

    assert known.instances("usermgr") == []


async def test_the_gateway_goes_from_one_to_the_next_and_repeats_nothing() -> None:
    known = registry.Registry(Clock())
    gateway = registry.Gateway(known)
    with pytest.raises(http_client.NoAnswerError, match="no instance is registered"):
        await gateway.get("usermgr", "/")
    known.beat("usermgr", registry.Instance("gone", *manifests.free_address()))

    with pytest.raises(http_client.NoAnswerError, match="connection refused"):
        await gateway.get("usermgr", "/")
