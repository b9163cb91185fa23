"""`--wait SERVICE`: the proxy is ready only when these Services have ready endpoints."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from kproxy.command import settings
from kproxy.model import forwarding, names
from kproxy.ops.views import observed, reached

_LOOK = 0.1
"""Seconds between two looks."""

_SAY = 10.0
"""Seconds between two sentences about what is still missing."""

_log = structlog.get_logger(__name__)


class Waiting:
    """A component that serves nothing, and is ready when all Services are that it waits for."""

    def __init__(
        self, seen: observed.Observed, awaited: Sequence[settings.Awaited], namespace: str
    ) -> None:
        """Services without a namespace are looked for in `namespace`."""
        self._seen = seen
        self._awaited = [
            names.NamespacedName(each.namespace or namespace, each.name) for each in awaited
        ]

    @property
    def name(self) -> str:
        """For the log."""
        return "wait"

    def bind(self) -> None:
        """Do nothing: it has no address."""

    def addresses(self) -> Mapping[str, str | None]:
        """It listens nowhere."""
        return {}

    async def run(self) -> None:
        """Do nothing."""

    async def ready(self) -> None:
        """Return once every Service that is waited for has a ready endpoint, and is served."""
        looks = 0
        while missing := [why for each in self._awaited if (why := self._missing(each))]:
            if looks % round(_SAY / _LOOK) == 0:
                _log.info("waiting", services="; ".join(missing))
            looks += 1
            await asyncio.sleep(_LOOK)

    async def drain(self, grace: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _missing(self, name: names.NamespacedName) -> str:
        """What is not there yet of a Service; "" if it can be used."""
        held = self._seen.source.store
        known = held.service(name)
        if known is None:
            return f"{name} does not exist"
        if known.external_name:
            return ""
        if not reached.ready_hosts(held.sources(name)):
            return f"{name} has no ready endpoint"
        states = {
            frontend.state
            for plan in self._seen.proxier.of_service(name)
            for frontend in self._seen.proxier.frontends(plan.rule.name)
            if frontend.frontend.kind is forwarding.FrontendKind.CLUSTER_IP
        }
        if known.is_headless or forwarding.FrontendState.BOUND in states:
            return ""
        return f"{name} is not served: {', '.join(sorted(states)) or 'it has no cluster IP'}"
