"""InformerSource: Services and endpoints of a cluster, by list and watch, followed live.

Two reflectors for a whole cluster, or two for each namespace for users whose rights end there.
While the API server is away the last state stands, and `describe` and the counters say for how
long nothing has been heard.
"""

import asyncio
import random
import time
from collections.abc import Callable

from kproxy import metrics
from kproxy.cluster import client, discovery, intake, reflector, source, store
from kproxy.model import admission

SLEEP_CHECK_SECONDS = 5.0
"""How often to look whether the machine was asleep."""

SLEPT_SECONDS = 1.0
"""A sleep longer than this may have cost connections their peer."""


def time_asleep() -> float:
    """Seconds the machine has been suspended: what CLOCK_BOOTTIME counts, MONOTONIC does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class InformerSource:
    """A `source.Source` that reads an API server.

    `namespaces` restricts it to some; none means the whole cluster. Raises ConfigError when the
    proxy to the server cannot be used. Nothing connects before `run`.

    `clock` must be the event loop's own, which `time.monotonic` is outside of tests. No decision
    depends on the wall clock, except when credentials expire.
    """

    def __init__(
        self,
        access: client.ClusterAccess,
        *,
        on_change: source.OnChange,
        on_problem: source.OnProblem,
        namespaces: frozenset[str] = frozenset(),
        allow_loopback: bool = False,
        clock: Callable[[], float] = time.monotonic,
        asleep: Callable[[], float] = time_asleep,
        rng: random.Random | None = None,
    ) -> None:
        self._access = access
        self._clock = clock
        self._asleep = asleep
        self._intake = intake.Intake(on_change, on_problem, allow_loopback=allow_loopback)
        self._api = client.Client(access, monotonic=clock)
        clockwork = reflector.Clockwork(clock, rng or random.Random())
        self._reflectors = [
            reflector.Reflector(
                self._api,
                resolve,
                self._intake,
                metrics.ReflectorCounters(resource),
                clockwork,
                self._on_listed,
                namespace=namespace,
            )
            for namespace in sorted(namespaces) or [""]
            for resource, resolve in (
                ("services", discovery.services),
                ("endpoints", discovery.endpoints),
            )
        ]

    @property
    def store(self) -> store.Store:
        """The Store it keeps; read-only to everyone else."""
        return self._intake.store

    @property
    def has_synced(self) -> bool:
        """Whether every collection has been listed once."""
        return self._intake.has_synced

    def problems(self) -> tuple[source.Problem, ...]:
        """What is wrong at the moment: with objects, and with the way to the server."""
        return self._intake.problems()

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """What happened so far, of each list-and-watch."""
        return tuple(each.counters for each in self._reflectors)

    def describe(self) -> str:
        """For instance "API server https://10.0.0.1:6443 (admin): services at 184, …"."""
        told = ", ".join(
            f"{each.where} at {each.version}" if each.has_listed else f"{each.where} not listed"
            for each in self._reflectors
        )
        unread = metrics.unread(self.counters(), self._clock())
        stale = f"; out of contact for {max(unread.values()):.0f} s" if unread else ""
        return f"API server {self._access}: {told}{stale}"

    async def run(self) -> None:
        """List, then follow, until cancelled."""
        if not self._access.verifies and self._access.server.startswith("https://"):
            self._intake.tell(self, _unverified(self._access))
        async with self._api, asyncio.TaskGroup() as group:
            for each in self._reflectors:
                group.create_task(each.run(), name=f"reflector of {each.where}")
            group.create_task(self._watch_for_sleep(), name="watch for sleep")

    def reload(self) -> None:
        """Ask the server anew, with the credentials of now."""
        for each in self._reflectors:
            each.reconnect()

    async def _watch_for_sleep(self) -> None:
        """After a suspend the server has forgotten our connections, and will never say so."""
        before = self._asleep()
        while True:
            await asyncio.sleep(SLEEP_CHECK_SECONDS)
            now = self._asleep()
            if now - before > SLEPT_SECONDS:
                for each in self._reflectors:
                    each.reconnect()
            before = now

    def _on_listed(self) -> None:
        if not self.has_synced and all(each.has_listed for each in self._reflectors):
            self._intake.complete()


def _unverified(access: client.ClusterAccess) -> source.Problem:
    return source.Problem(
        admission.Severity.WARNING,
        str(access),
        "",
        "insecure-skip-tls-verify is set: whoever is on the way can pretend to be the API server, "
        "see the token, and send connections anywhere",
        "give certificate-authority instead",
    )
