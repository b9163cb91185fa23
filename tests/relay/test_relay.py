"""The proxy under test, asked for every behaviour of the suite over real sockets.

Behaviour: row 44 of docs/behaviour.md.
"""

import pytest

from tests.relay import cases, registry, rig

_EVERY = [pytest.param(case, id=f"{case.id} {case.title}") for case in cases.ALL]


async def _judge(case: registry.Case, bench: rig.Rig) -> None:
    outcome = await registry.run(case, bench)
    if outcome.result is registry.Result.SKIP:
        pytest.skip(outcome.seen)
    assert outcome.result is registry.Result.PASS, f"{case.id} {case.title}: {outcome.seen}"


@pytest.mark.parametrize("case", _EVERY)
async def test_the_proxy_relays_faithfully(case: registry.Case, proxied: rig.Target) -> None:
    await _judge(case, rig.Rig(proxied))


@pytest.mark.long
@pytest.mark.parametrize("case", _EVERY)
async def test_the_proxy_relays_faithfully_at_full_size(
    case: registry.Case, proxied: rig.Target
) -> None:
    await _judge(case, rig.Rig(proxied, long=True))
