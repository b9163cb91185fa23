"""What is said of Gateways and routes: a component beside the proxier, which serves them."""

import asyncio
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

from kproxy.gateway import planner, problems, state, statuses, watcher
from kproxy.model import names
from kproxy.reconcile import report
from kproxy.sources import source

if TYPE_CHECKING:
    from kproxy.gateway import publisher  # the client of API servers: files need none of it

_WITHDRAW_SECONDS = 5.0
"""A shutdown waits so long at most for the API server."""


class Gateways:
    """A `component.Component`. `shown` is kept true, `published` writes it to a cluster if any."""

    name = "gateways"

    def __init__(
        self,
        read: source.Source,
        gateways: planner.Gateways,
        frontends_of: statuses.FrontendsOf,
        reporter: report.Reporter,
        shown: state.GatewayState,
        published: "publisher.Publisher | None" = None,
    ) -> None:
        self._report = problems.Report(shown)
        self._published = published
        self._watcher = watcher.Watcher(read, gateways, frontends_of, self._hear, shown)
        reporter.subscribe(self._on_report)

    def bind(self) -> None:
        """Nothing: the proxier listens."""

    def addresses(self) -> Mapping[str, str | None]:
        """None of its own."""
        return {}

    async def run(self) -> None:
        """Say what becomes of Gateways and routes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watcher.run(), name="statuses of Gateways")
            if self._published is not None:
                group.create_task(self._published.run(), name="status of Gateways, written")

    async def ready(self) -> None:
        """At once: the proxier says when it serves."""

    async def drain(self, grace: float) -> None:
        """Take this proxy's addresses out of the status of Gateways."""
        self._watcher.close()
        if self._published is not None:
            await self._published.withdraw(min(grace, _WITHDRAW_SECONDS))

    def close(self) -> None:
        """Follow no more."""
        self._watcher.close()

    def _hear(self, change: watcher.Change) -> Generator[None, None, None]:
        if self._published is not None:
            self._published.take(change)
        yield from self._report.take_in_steps(change)

    def _on_report(self, name: names.NamespacedName) -> None:
        if not name.is_of_service:
            self._watcher.look()
