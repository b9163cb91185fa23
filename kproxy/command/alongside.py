"""The life of a command beside the proxy: which Services it finds, and when it begins."""

import asyncio
from collections.abc import Awaitable

from kproxy import turns
from kproxy.command import command, environment
from kproxy.model import names
from kproxy.ops.views import observed, reached

_API_SERVER = names.NamespacedName("default", "kubernetes")
"""Every pod has its variables, in whatever namespace: Kubernetes' kubelet."""


async def run(
    started: command.Command,
    is_served: Awaitable[object],
    seen: observed.Observed,
    namespace: str,
    grace: float,
) -> int:
    """Run a command once everything is served; its exit code.

    Cancelling this ends the command first, after `grace` seconds by force: the proxy still serves
    it meanwhile.
    """
    await is_served
    try:
        return await started.run(await variables(seen, namespace))
    except asyncio.CancelledError:
        await started.end(grace)
        raise


async def variables(seen: observed.Observed, namespace: str) -> dict[str, str]:
    """The variables of a pod in this namespace, at the addresses where the proxy serves."""
    found: list[reached.Reached] = []
    for wanted in dict.fromkeys((namespace, _API_SERVER.namespace)):
        async for batch in turns.Turns().batches(reached.every(seen, wanted)):
            found += (
                each
                for each in batch
                if each is not None and (wanted == namespace or each.name == _API_SERVER)
            )
    return environment.of_services(found)
