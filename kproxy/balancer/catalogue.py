"""Every strategy that a policy can name."""

from collections.abc import Mapping

from kproxy.balancer import least, source_hash, strategies, weighted
from kproxy.model.kinds import services

STRATEGIES: Mapping[services.Strategy, strategies.Strategy] = {
    services.Strategy.ROUND_ROBIN: strategies.Strategy(weighted.rotate),
    services.Strategy.RANDOM: strategies.Strategy(weighted.draw, strategies.lots_in_steps),
    services.Strategy.LEAST_CONNECTIONS: strategies.Strategy(
        least.least_connections, least.order_in_steps, least.empty_in_steps, counts=True
    ),
    services.Strategy.POWER_OF_TWO: strategies.Strategy(
        least.power_of_two, strategies.lots_in_steps, counts=True
    ),
    services.Strategy.SOURCE_HASH: strategies.Strategy(
        source_hash.select, source_hash.circles_in_steps
    ),
}
