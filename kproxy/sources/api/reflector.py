"""Reflector: keeps what we know of one collection equal to what an API server has of it.

client-go's Reflector (`tools/cache/reflector.go`): list, then watch from the list's version, for
ever. What to do next is decided in `progress`, what to ask in `queries`, which version is news in
`versions`; this module asks, reads, and waits. Nothing that a server says or fails to say ends
it, or takes away what was known: while the server is away, the last state stands.

The event loop is shared with a data path: objects are taken in for a slice (`turns`) at most.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from kproxy import metrics, turns
from kproxy.model.kinds.kind import Kind
from kproxy.sources import intake
from kproxy.sources.api import api_bounds, client, discovery, probes, replica, troubles
from kproxy.sources.api.decisions import progress, queries, versions, waits
from kproxy.sources.transfer import framing, wire

_log = structlog.get_logger(__name__)

WATCH_SECONDS = (300, 600)
"""The server is asked to end a watch after a random time in this range, in seconds."""

GRACE_SECONDS = 30
"""Seconds after that time until the client ends the watch itself."""

QUIET_SECONDS = 70.0
"""A watch on which nothing came for this many seconds is exchanged for a new one.

Most servers send a bookmark every minute. `probes` find a deaf watch sooner, where they work.
"""

SETTLE_SECONDS = metrics.SETTLED_SECONDS + 0.01
"""A watch that was answered and stays open this long works, even if nothing has come on it."""

STREAM_SECONDS = 10.0
"""Deadline for a streaming list. A server that ignores the request for one never ends it."""

_EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"})


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Time, chance and bounds. `clock` is the event loop's, in seconds."""

    clock: Callable[[], float]
    rng: random.Random
    limits: api_bounds.Bounds = field(default_factory=api_bounds.Bounds)


class Reflector:
    """One list-and-watch. `choice` says of which collection, at first and after a 404.

    `on_settled` is called after every complete list, and when a right is found missing.
    """

    def __init__(
        self,
        api: client.Client,
        choice: discovery.Choice,
        taking: intake.Intake,
        counters: metrics.ReflectorCounters,
        clockwork: Clockwork,
        on_settled: Callable[[], None],
        *,
        namespace: str = "",
    ) -> None:
        self.counters = counters
        self.namespace = namespace
        self.has_listed = False
        self._api = api
        self.choice = choice
        self._intake = taking
        self._clock, self._rng = clockwork.clock, clockwork.rng
        self._bounds = clockwork.limits
        self._on_settled = on_settled
        self._resource: discovery.Resource | None = None
        self._missed: discovery.Resource | None = None
        self._position = progress.Position()
        self._cause = "start"
        self._replica = replica.Replica(taking, counters, clockwork.limits)
        self._waits = waits.Waits(clockwork.rng)
        self._is_mute = True
        self._is_settled = self._is_unanswered = False
        self._spoke_at: float | None = None
        self._slice = turns.Slice(clockwork.clock)
        self._nudged = asyncio.Event()
        self._interruption = progress.Outcome.INTERRUPTED
        self._scope: asyncio.Timeout | None = None

    @property
    def version(self) -> str:
        """The newest resourceVersion seen; "" before the first list."""
        return self._position.version

    @property
    def where(self) -> str:
        """The collection in words, for instance "services in namespace web"."""
        name = str(self._resource or self.counters.resource)
        return f"{name} in namespace {self.namespace}" if self.namespace else name

    @property
    def is_forbidden(self) -> bool:
        """Whether the right to read the collection is missing, as far as is known."""
        return self.counters.contact.trouble == progress.Outcome.FORBIDDEN

    def quiet_for(self) -> float | None:
        """Seconds since the open watch brought anything, or another one in its place; None while
        no watch is open."""
        return None if self._spoke_at is None else self._clock() - self._spoke_at

    async def probe(self) -> None:
        """Ask for a short watch beside a quiet one, and act on what it finds."""
        resource, version, spoke_at = self._resource, self.version, self._spoke_at
        if resource is None or spoke_at is None:
            return
        path = resource.path(self.namespace)
        query = resource.selected(queries.probe(version))
        finding = await probes.probe(self._api, path, query, version)
        if finding is probes.Finding.NEWS:
            await asyncio.sleep(probes.LATER_SECONDS)
        if self._spoke_at != spoke_at:
            return  # the watch has brought something meanwhile, or it is another one
        match finding:
            case probes.Finding.NEWS:
                self.interrupt(progress.Outcome.DEAF)
            case probes.Finding.EXPIRED:
                self.interrupt(progress.Outcome.INTERRUPTED)
            case probes.Finding.SILENCE:
                # The watch stays: it may go on, and a server under load is not asked for another.
                self.counters.failures[progress.Outcome.SILENT] += 1
                self._is_unanswered = True
                self._fail(client.RequestError(progress.Outcome.SILENT, troubles.SILENCE))
                await asyncio.sleep(self._rng.uniform(*probes.AGAIN_SECONDS))
            case probes.Finding.NOTHING:
                self._spoke_at, self._is_unanswered = self._clock(), False
                self._heard()

    def interrupt(self, outcome: progress.Outcome) -> None:
        """Interrupt the request under way, which may hang on a dead connection, and ask again.

        `outcome` says why: INTERRUPTED or DEAF.
        """
        self._interruption, self._spoke_at = outcome, None
        self._nudged.set()
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            is_watch = self._position.mode is not progress.Mode.LIST
            self.counters.contact.begin(self._clock(), is_watch=is_watch)
            ending = await self._attempt()
            for _ in self._replica.abandon_list():
                await self._give_way()
            self._intake.announce()
            seconds = self._consequences(ending)
            self._nudged.clear()
            if seconds > 0:
                await self._pause(seconds)
            if ending.outcome in progress.UNANSWERED:
                await self._wait_for_life()

    async def _attempt(self) -> client.RequestError:
        """One list, or one watch; how it ended."""
        try:
            outcome, text = await self._ask(), ""
        except client.RequestError as error:
            return error
        except framing.FramingError as error:
            self.counters.malformed += 1
            outcome, text = progress.Outcome.MALFORMED, f"the answer cannot be read: {error}"
        except TimeoutError:
            outcome, text = progress.Outcome.SILENT, "the server did not end the watch in time"
            if self._nudged.is_set():
                outcome, text = self._interruption, troubles.DEAFNESS
        except Exception:
            # The last known state stays in force, and the other list-and-watches go on.
            _log.exception("internal error: a list-and-watch failed", resource=self.where)
            outcome, text = progress.Outcome.BUG, "a bug in kproxy; the log has the details"
        return client.RequestError(outcome, text)

    def _consequences(self, ending: client.RequestError) -> float:
        """Decide what follows from how a list or watch ended; returns the seconds to wait."""
        now, outcome, contact = self._clock(), ending.outcome, self.counters.contact
        lasted = contact.lasted(now)
        is_short = self._is_mute and lasted < progress.LEAST_WATCH_SECONDS
        if outcome not in progress.NO_FAILURES:
            self.counters.failures[outcome.reason] += 1
        is_absent = self.choice.may_lack(outcome)
        if is_absent:
            _log.debug(f"{self.where}: {ending.text}; it is not needed, and asked for again later")
        elif progress.is_trouble(self._position, outcome, is_short=is_short):
            if self._may_pass(outcome):
                contact.lost(now)
            else:
                self._fail(ending)
        elif outcome in {progress.Outcome.BROKEN_OFF, progress.Outcome.DEAF}:
            _log.info(f"{self.where}: {ending.text}; the watch goes on from {self.version}")
        wait = progress.wait_after(self._position, outcome, lasted)
        before = self._position
        self._position = progress.after(before, outcome, is_short=is_short)
        if before.is_listed and not self._position.is_listed:
            self._cause = outcome.reason
        if outcome is progress.Outcome.NOT_FOUND:
            self._missed, self._resource = self._resource, None
        if outcome is progress.Outcome.FORBIDDEN:
            self._waits.refused(is_list=before.mode is progress.Mode.LIST)
        failing_for = contact.unread_for(now) or 0.0
        is_patient = is_absent or progress.is_patient(
            outcome, failing_for, is_heard=contact.is_heard
        )
        return ending.retry_after + self._waits.seconds(wait, now, is_patient=is_patient)

    def _may_pass(self, outcome: progress.Outcome) -> bool:
        """Whether a trouble may be over with the next request, and is reported only if it is not.

        A server that has just started answers 403 until it has loaded its roles, and one that
        is being stopped cuts watches that have just begun.
        """
        if outcome is progress.Outcome.FORBIDDEN:
            return self._waits.refusals == 0
        is_first = self.counters.contact.failing_since is None
        return outcome is progress.Outcome.BROKEN_OFF and self.has_listed and is_first

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            pass

    async def _wait_for_life(self) -> None:
        """Wait for a sign of life.

        A request to a server that hangs may hang for half a minute, while the server is back long
        before. Asking for its version is given up within seconds.
        """
        deadline = self._clock() + probes.LIFE_SECONDS
        while self._clock() < deadline and not await self._api.is_alive(probes.LIFE_CHECK_SECONDS):
            self._nudged.clear()
            await self._pause(self._rng.uniform(*probes.AGAIN_SECONDS))

    async def _ask(self) -> progress.Outcome:
        """Make the next request and read its answer."""
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._resource is None:
                    self._resource = await self.choice.resolve(self._api, self._missed)
                    self.counters.resource = self._resource.plural
                if self._position.mode is progress.Mode.LIST:
                    return await self._list(self._resource)
                seconds = self._rng.randint(*WATCH_SECONDS)
                deadline = asyncio.get_running_loop().time() + seconds + GRACE_SECONDS
                self._scope.reschedule(deadline)
                return await self._watch(self._resource, seconds)
        finally:
            self._scope = None

    async def _list(self, resource: discovery.Resource) -> progress.Outcome:
        self._replica.begin_list(is_epoch=self._position.begins_epoch)
        meter = api_bounds.Meter(self._bounds, self._clock)
        query, token = queries.first_page(self._position), ""
        while True:
            meter.page(token)
            try:
                version, token = await self._page(resource, query, meter)
            except client.RequestError as error:
                if not token or error.outcome is not progress.Outcome.EXPIRED:
                    raise
                # The pages' version is gone before the last page (client-go's FullListIfExpired).
                self._replica.begin_list(is_epoch=self._position.begins_epoch)
                query, token = queries.first_page(self._position, is_whole=True), ""
                version, token = await self._page(resource, query, meter)
            if not token:
                break
            query = queries.next_page(token)
        await self._complete(version)
        return progress.Outcome.LISTED

    async def _page(
        self, resource: discovery.Resource, query: Mapping[str, str], meter: api_bounds.Meter
    ) -> tuple[str, str]:
        """One page: its version, and the token of the next one, "" at the last."""
        framer = framing.ListFramer()
        async with self._get(resource, progress.Mode.LIST, query) as answer:
            is_over = False
            while not is_over:
                chunk = await answer.read(self._bounds.slow_seconds)
                meter.chunk(len(chunk))
                is_over = not chunk
                for item in framer.feed(chunk):
                    self._check_age(framer.fields)
                    await self._put(resource.kind, item)
                    await self._give_way()
        if not framer.is_complete:
            raise client.RequestError(progress.Outcome.BROKEN_OFF, "a list ended in the middle")
        self._check_age(framer.fields)
        return wire.list_position(framer.fields)

    def _check_age(self, fields: Mapping[str, msgspec.Raw]) -> None:
        """A server must not answer with an older state than it was asked for (K12)."""
        if self._position.begins_epoch or "metadata" not in fields:
            return
        version, _ = wire.list_position(fields)
        if versions.is_behind(version, self._position.asked_version):
            text = f"the server is behind: it lists version {version}"
            raise client.RequestError(progress.Outcome.TOO_LARGE, text)

    async def _watch(self, resource: discovery.Resource, seconds: int) -> progress.Outcome:
        """A watch, and before it a streaming list if there has been no list."""
        mode, self._is_mute, self._is_settled = self._position.mode, True, False
        query = queries.watch(self._position, seconds)
        if mode is progress.Mode.STREAM:
            self._replica.begin_list(is_epoch=self._position.begins_epoch)
        else:
            self._replica.begin_watch(self._position.version)
        framer, pace = framing.LineFramer(), api_bounds.Pace(self._bounds, self._clock, "an event")
        async with self._get(resource, mode, query) as answer:
            self.counters.watches += 1
            answered_at = self._clock()
            self._spoke_at = None if self._replica.is_listing else answered_at
            while chunk := await self._read(answer, answered_at, framer, pace):
                for line in framer.feed(chunk):
                    pace.restart()
                    await self._on_event(resource, wire.event(line))
                    await self._give_way()
                if framer.is_mid_line:
                    pace.count(len(chunk))
                else:
                    pace.restart()
                self._spoke_at = None if self._replica.is_listing else self._clock()
                self._intake.announce()
        if framer.is_mid_line:
            raise client.RequestError(progress.Outcome.BROKEN_OFF, "a watch ended mid-line")
        if self._replica.is_listing:
            return progress.Outcome.STREAM_REFUSED
        lasted = self.counters.contact.lasted(self._clock())
        if self._is_mute and lasted < progress.LEAST_WATCH_SECONDS:
            text = "the server ends every watch as soon as it begins"
            raise client.RequestError(progress.Outcome.EMPTY, text)
        return progress.Outcome.ENDED

    async def _read(
        self,
        answer: client.Response,
        answered_at: float,
        framer: framing.LineFramer,
        pace: api_bounds.Pace,
    ) -> bytes:
        """The next bytes of a watch; b"" at its end. Raises RequestError."""
        while True:
            open_for, is_settled = self._clock() - answered_at, self._is_settled
            if self._replica.is_listing:
                text = f"no end of a streaming list within {STREAM_SECONDS:g} s"
                passing = client.RequestError(progress.Outcome.STREAM_REFUSED, text)
                patience = STREAM_SECONDS - open_for
            elif framer.is_mid_line:
                passing, patience = pace.failure(), pace.seconds_left
            else:
                passing = client.RequestError(progress.Outcome.QUIET, "")
                patience = QUIET_SECONDS if is_settled else SETTLE_SECONDS - open_for
            try:
                return await answer.read(patience)
            except client.RequestError as error:
                if error.outcome is not progress.Outcome.SILENT:
                    raise
            if is_settled or passing.outcome is not progress.Outcome.QUIET:
                raise passing
            # No bookmark may be assumed: a watch that is answered and stays open is contact.
            self._is_settled = True
            self._heard()

    async def _on_event(self, resource: discovery.Resource, event: wire.Event) -> None:
        """One line of a watch. Raises RequestError for an ERROR, and FramingError."""
        known = event.type in _EVENT_TYPES
        self.counters.events[event.type if known else "other"] += 1
        version = ""
        match event.type:
            case "ADDED" | "MODIFIED":
                version = await self._put(resource.kind, event.object)
            case "DELETED":
                version = self._replica.delete(resource.kind, event.object)
            case "BOOKMARK":
                version, is_end = wire.bookmark(event.object)
                if is_end and self._replica.is_listing:
                    await self._complete(version)
                    return
            case "ERROR":
                status = wire.status(event.object) or wire.Status(500, "", "an unknown error")
                raise client.refused(self._position.mode, status)
        self._is_mute = False
        if self._replica.is_listing:
            return
        self._heard()
        newest = versions.newest(self.version, version) if version else self.version
        self._position = progress.heard(self._position, newest)

    async def _put(self, kind: Kind[Any], raw: msgspec.Raw) -> str:
        """Take in an object as it is now; its version."""
        steps = self._replica.put_steps(kind, raw, self.where)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                version: str = done.value
                return version
            await self._give_way()

    async def _complete(self, version: str) -> None:
        """A list has ended, at `version`: forget what it did not have, and watch from it."""
        for _ in self._replica.unlisted():
            await self._give_way()
        self._replica.begin_watch(version)
        if versions.is_behind(version, self.version):
            _log.warning(
                "the API server returned to an older state; following it",
                resource=self.where,
                version=version,
                before=self.version,
            )
        if not progress.is_stuck(self._position, version):
            self._heard()
        self._position = progress.listed(self._position, version)
        self.counters.relists[self._cause] += 1
        self.has_listed = True
        self._on_settled()
        self._intake.announce()

    @asynccontextmanager
    async def _get(
        self, resource: discovery.Resource, mode: progress.Mode, query: Mapping[str, str]
    ) -> AsyncIterator[client.Response]:
        path, query = resource.path(self.namespace), resource.selected(query)
        async with self._api.get(mode, path, query) as answer:
            self._waits.admitted(is_list=mode is progress.Mode.LIST)
            self._is_unanswered = False
            if self.counters.contact.answered(self._clock()):
                self._intake.settle(self)
            try:
                yield answer
            finally:
                self._spoke_at = None

    def _heard(self) -> None:
        """The server has sent something valid: contact is restored, unless probes fail."""
        if self._is_unanswered:
            self.counters.contact.heard_at = self._clock()
        elif self.counters.contact.heard(self._clock()):
            self._intake.settle(self)

    def _fail(self, ending: client.RequestError) -> None:
        """Contact is lost. A trouble is reported once, however often it repeats itself."""
        if not self.counters.contact.failed(self._clock(), ending.outcome.reason):
            return
        kinds, is_all = self._intake.kinds, self._intake.store.wants_pods
        said = troubles.problem(
            self.where,
            ending,
            self._position.mode,
            self._resource,
            self.namespace,
            discovery.followed(kinds, self.namespace, is_all=is_all),
            has_listed=self.has_listed,
        )
        self._intake.note(self, said)
        if self.is_forbidden:
            self._on_settled()

    async def _give_way(self) -> None:
        """Yield to the event loop once the slice is used up."""
        if self._slice.is_over:
            self._intake.announce()
            if self._replica.is_listing:
                # What a list brings stays. The collector would look at all of it, over and over,
                # and hold the loop for 15 ms each time; reference counts free it as before.
                gc.freeze()
            await asyncio.sleep(0)
            self._slice.begin()
