"""The event loop's lag, by a clock that jumps."""

import asyncio
import math

from kproxy.ops.prometheus import durations
from tests import virtual_time


def test_a_stall_is_a_lag_and_quiet_is_none() -> None:
    async def main() -> durations.Histogram:
        lag = durations.Histogram(durations.LAG_BUCKETS)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)

        def stall() -> None:
            loop.now += 0.7

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(durations.watch_lag(lag))
            await asyncio.sleep(1.1)
            stall()
            await asyncio.sleep(1.0)
            watching.cancel()
        return lag

    lag = virtual_time.run(main)

    counts = dict(lag.cumulative())
    late = counts[math.inf] - counts[0.001]
    assert late == 1
    assert counts[1.0] - counts[0.5] == 1
    assert counts[math.inf] >= 7
