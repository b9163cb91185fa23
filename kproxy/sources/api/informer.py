"""InformerSource: Services and endpoints of a cluster, by list and watch, followed live.

There are two reflectors for a whole cluster, or two for each namespace for users whose rights end
there; and one more, of pods, once a Service weighs its endpoints by a label of pods. While the API
server is away the last state stays in force, and `describe` and the counters say since when the
server has not answered. A namespace whose objects may not be read does not delay another one. Its
Services are listed only once its endpoints are: a Service without endpoints would refuse its
clients.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator

from kproxy import metrics
from kproxy.model import admission
from kproxy.model.kinds import registry
from kproxy.sources import intake, source
from kproxy.sources.access import kubeconfig
from kproxy.sources.api import api_bounds, client, discovery, probes, reflector
from kproxy.sources.api.decisions import progress

SLEEP_CHECK_SECONDS = 5.0
"""Seconds between two checks whether the machine was asleep."""

SLEPT_SECONDS = 1.0
"""A sleep longer than this may have cost connections their peer."""

PROBE_EARLY_SECONDS = 0.01
"""A watch that is nearly quiet for long enough is probed: a sleep may end early by a rounding."""

MOST_PROBED_QUICKLY = 8
"""Collections that are probed as often as `probes` says. Of more, each is probed less often, so
that one proxy asks a server for two or three probes a second at most."""


def time_asleep() -> float:
    """Seconds the machine has been suspended: what CLOCK_BOOTTIME counts, MONOTONIC does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class InformerSource(intake.IntakeSource):
    """A `source.Source` that reads an API server.

    `kinds` are read. `namespaces` restricts it to some; none means the whole cluster. Raises
    ConfigError when the proxy to the server cannot be used. Nothing connects before `run`.

    `limits` bounds what the server may send. `clock` must be the event loop's own, which
    `time.monotonic` is outside of tests. No decision depends on the wall clock, except when
    credentials expire.
    """

    def __init__(
        self,
        access: kubeconfig.ClusterAccess,
        *,
        on_problem: source.OnProblem,
        namespaces: frozenset[str] = frozenset(),
        allow_loopback: bool = False,
        kinds: registry.Kinds = registry.KINDS,
        clock: Callable[[], float] = time.monotonic,
        asleep: Callable[[], float] = time_asleep,
        rng: random.Random | None = None,
        limits: api_bounds.Bounds | None = None,
    ) -> None:
        self._access = access
        self._clock = clock
        self._asleep = asleep
        super().__init__(intake.Intake(on_problem, allow_loopback=allow_loopback, kinds=kinds))
        self._api = client.Client(access, monotonic=clock)
        self._clockwork = reflector.Clockwork(
            clock, rng or random.Random(), limits or api_bounds.Bounds()
        )
        self._is_restricted = bool(namespaces)
        self._namespaces = sorted(namespaces) or [""]
        self._scopes = [
            _Scope(self._reflect(namespace, is_on_demand=False)) for namespace in self._namespaces
        ]
        self._reflectors = [each for scope in self._scopes for each in scope.reflectors]
        self._is_demanded = asyncio.Event()
        self.store.subscribe(self._look_for_demand)

    def _reflect(self, namespace: str, *, is_on_demand: bool) -> Iterator[reflector.Reflector]:
        """The reflectors of a namespace: of what is always read, or of what is read on demand."""
        for choice in discovery.choices(self._intake.kinds):
            # A user with rights in namespaces only may not read cluster-scoped objects.
            if namespace and not choice.is_namespaced:
                continue
            if choice.is_on_demand is is_on_demand:
                yield reflector.Reflector(
                    self._api,
                    choice,
                    self._intake,
                    metrics.ReflectorCounters(choice.name, namespace),
                    self._clockwork,
                    self._on_settled,
                    namespace=namespace,
                )

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """What happened so far, of each list-and-watch whose loss matters."""
        return tuple(each.counters for each in self._missed())

    def all_counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """What happened so far, of every list-and-watch."""
        return tuple(each.counters for each in self._reflectors)

    def _missed(self) -> Iterator[reflector.Reflector]:
        """The list-and-watches whose loss affects users."""
        for each in self._reflectors:
            if each.choice.is_needed or each.choice.is_on_demand:
                yield each

    def describe(self) -> str:
        """For instance "API server https://10.0.0.1:6443 (admin): services at 184, …"."""
        listed = ", ".join(
            f"{each.where} at {each.version}" if each.has_listed else f"{each.where} not listed"
            for each in self._missed()
        )
        unread = metrics.unread(self.counters(), self._clock())
        stale = f"; out of contact for {max(unread.values()):.0f} s" if unread else ""
        return f"API server {self._access}: {listed}{stale}"

    async def run(self) -> None:
        """List, then follow, until cancelled."""
        if not self._access.verifies and self._access.server.startswith("https://"):
            self._intake.note(self, _unverified(self._access))
        async with self._api, asyncio.TaskGroup() as group:
            for scope in self._scopes:
                for each in sorted(scope.reflectors, key=lambda each: each.choice.waits):
                    group.create_task(self._run(each, scope), name=f"reflector of {each.where}")
                    group.create_task(self._watch_for_silence(each), name=f"probes of {each.where}")
            group.create_task(self._follow_on_demand(group), name="wait for a demand")
            group.create_task(self._watch_for_sleep(), name="watch for sleep")

    def _look_for_demand(self, _: object) -> None:
        if self.store.wants_pods:
            self._is_demanded.set()

    async def _follow_on_demand(self, group: asyncio.TaskGroup) -> None:
        """Begin to read what is read on demand, once a Service asks for it; then for good."""
        await self._is_demanded.wait()
        for namespace in self._namespaces:
            for each in self._reflect(namespace, is_on_demand=True):
                self._reflectors.append(each)
                group.create_task(each.run(), name=f"reflector of {each.where}")
                group.create_task(self._watch_for_silence(each), name=f"probes of {each.where}")

    async def _run(self, followed: reflector.Reflector, scope: "_Scope") -> None:
        if self._is_restricted and followed.choice.waits:
            await scope.has_others.wait()
        await followed.run()

    def reload(self) -> None:
        """Reread kubeconfig, credentials and certificates, and repeat the requests."""
        self._api.renew()
        for each in self._reflectors:
            each.interrupt(progress.Outcome.INTERRUPTED)

    async def _watch_for_sleep(self) -> None:
        """After a suspend, interrupt all requests: the server has closed our connections without a
        packet."""
        before = self._asleep()
        while True:
            await asyncio.sleep(SLEEP_CHECK_SECONDS)
            now = self._asleep()
            if now - before > SLEPT_SECONDS:
                for each in self._reflectors:
                    each.interrupt(progress.Outcome.INTERRUPTED)
            before = now

    async def _watch_for_silence(self, followed: reflector.Reflector) -> None:
        """Probe a watch while it is quiet: nothing changes, or the server or the watch is gone."""
        interval = probes.QUIET_SECONDS * max(1.0, len(self._reflectors) / MOST_PROBED_QUICKLY)
        while True:
            quiet = followed.quiet_for() or 0.0
            if quiet >= interval - PROBE_EARLY_SECONDS:
                await followed.probe()
            else:
                await asyncio.sleep(interval - quiet)

    def _on_settled(self) -> None:
        for scope in self._scopes:
            scope.look()
        if self.has_synced or not any(scope.has_listed for scope in self._scopes):
            return
        if all(
            scope.has_listed or (self._is_restricted and scope.is_forbidden)
            for scope in self._scopes
        ):
            self._intake.complete()


class _Scope:
    """The reflectors of one namespace, or of the whole cluster."""

    def __init__(self, reflectors: Iterable[reflector.Reflector]) -> None:
        self.reflectors = tuple(reflectors)
        self._needed = tuple(each for each in self.reflectors if each.choice.is_needed)
        self.has_others = asyncio.Event()
        """All that is needed has been listed, but for the collections that wait for this."""

    def look(self) -> None:
        """A reflector has listed, or was refused: see what follows from that."""
        if all(each.has_listed for each in self._needed if not each.choice.waits):
            self.has_others.set()

    @property
    def has_listed(self) -> bool:
        """Whether every collection that is needed has been listed."""
        return all(each.has_listed for each in self._needed)

    @property
    def is_forbidden(self) -> bool:
        """Whether the right to read one that is needed is missing."""
        return any(each.is_forbidden for each in self._needed)


def _unverified(access: kubeconfig.ClusterAccess) -> source.Problem:
    return source.Problem(
        admission.Severity.WARNING,
        str(access),
        "",
        "insecure-skip-tls-verify is set: any machine between here and the API server can pose as "
        "it, read the token, and send connections anywhere",
        "give certificate-authority instead",
    )
