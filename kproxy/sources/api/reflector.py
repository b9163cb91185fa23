"""Reflector: keeps what we know of one collection equal to what an API server has of it.

client-go's Reflector (`tools/cache/reflector.go`): list, then watch from the list's version, for
ever. What to do next is decided in `progress`, what to ask in `queries`, which version is news in
`versions`; this module asks, reads, and waits. Nothing that a server says or fails to say ends
it, or takes away what was known: while the server is away, the last state stands.

The event loop is shared with a data path, so that objects are taken in for a slice (`turns`) at
most before others get their turn.
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
from kproxy.model import admission
from kproxy.model.kinds.kind import Kind
from kproxy.sources import intake, source
from kproxy.sources.api import (
    api_bounds,
    client,
    discovery,
    progress,
    queries,
    replica,
    rights,
    versions,
)
from kproxy.sources.transfer import backoff, framing, wire

_log = structlog.get_logger(__name__)

WATCH_SECONDS = (300, 600)
"""The server is asked to end a watch after a random time in this range, in seconds."""

GRACE_SECONDS = 30
"""Seconds after that time until the client ends the watch itself."""

QUIET_SECONDS = 70.0
"""A watch on which nothing came for this many seconds is exchanged for a new one.

Bookmarks come every minute from most servers, and from some only while something changes.
"""

SETTLE_SECONDS = metrics.SETTLED_SECONDS + 0.01
"""A watch that was answered and stays open this long works, even if nothing has come on it."""

STREAM_SECONDS = 10.0
"""Deadline for a streaming list. A server that ignores the request for one never ends it."""

PROBE_SECONDS = 2.5
"""Deadline for a probe of a server that did not answer."""

LIFE_SECONDS = 300.0
"""How long probes may fail until a request is made without one."""

_SEVERITIES = dict.fromkeys(
    (
        progress.Outcome.BUG,
        progress.Outcome.CREDENTIALS,
        progress.Outcome.FORBIDDEN,
        progress.Outcome.TLS_FAILED,
        progress.Outcome.UNAUTHORIZED,
    ),
    admission.Severity.ERROR,
)
"""Severities of troubles that need an operator; the others may pass by themselves."""

_NO_FAILURES = frozenset({progress.Outcome.LISTED, progress.Outcome.ENDED, progress.Outcome.QUIET})

_UNANSWERED = frozenset({progress.Outcome.SILENT, progress.Outcome.UNREACHABLE})

_EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"})


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Time, chance and bounds. `clock` is the event loop's, in seconds."""

    clock: Callable[[], float]
    rng: random.Random
    limits: api_bounds.Bounds = field(default_factory=api_bounds.Bounds)


class _Waits:
    """How long one list-and-watch waits, by the reason for the wait."""

    def __init__(self, rng: random.Random) -> None:
        self._failures = backoff.Backoff(rng)
        self._permission = backoff.Backoff(
            rng,
            first=backoff.PERMISSION_FIRST,
            longest=backoff.PERMISSION_LONGEST,
            least=0.5,
        )
        self._relisted_at: float | None = None
        self._refused_list = False
        self.refusals = 0
        """Requests of one verb in a row that were answered 403."""

    def refused(self, *, is_list: bool) -> None:
        """A request was answered 403."""
        self.refusals = 1 if is_list != self._refused_list else self.refusals + 1
        self._refused_list = is_list

    def admitted(self, *, is_list: bool) -> None:
        """A request was answered. Its verb is permitted; the other one may still be forbidden."""
        if is_list == self._refused_list:
            self.refusals = 0
            self._permission.reset()

    def seconds(self, wait: progress.Wait, now: float, *, is_patient: bool) -> float:
        if wait is progress.Wait.RELIST:
            last, self._relisted_at = self._relisted_at, now
            if last is None or now - last > progress.HEALTHY_WATCH_SECONDS:
                return 0.0
        if wait is progress.Wait.NOTHING:
            return 0.0
        if wait is progress.Wait.PERMISSION:
            return self._permission.delay(now)
        return self._failures.delay(now, at_most=backoff.LONGEST if is_patient else backoff.SOON)


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
        self._clock = clockwork.clock
        self._rng = clockwork.rng
        self._bounds = clockwork.limits
        self._on_settled = on_settled
        self._resource: discovery.Resource | None = None
        self._position = progress.Position()
        self._cause = "start"
        self._replica = replica.Replica(taking, counters, clockwork.limits)
        self._waits = _Waits(clockwork.rng)
        self._is_mute = True
        self._is_settled = False
        self._is_watching = False
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

    def is_quiet(self, seconds: float) -> bool:
        """Whether a watch is open on which nothing has been heard for `seconds`."""
        heard_at = self.counters.contact.heard_at
        return self._is_watching and heard_at is not None and self._clock() - heard_at >= seconds

    def hear(self) -> None:
        """The server has answered a probe: quiet watches count as in contact."""
        if self._is_watching:
            self._heard()

    def interrupt(self, outcome: progress.Outcome) -> None:
        """Interrupt the request under way, which may hang on a dead connection, and ask again.

        `outcome` is INTERRUPTED, or SILENT if the server does not answer.
        """
        self._interruption = outcome
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
            if ending.outcome in _UNANSWERED:
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
                outcome, text = self._interruption, "the server does not answer any more"
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
        if outcome not in _NO_FAILURES:
            self.counters.failures[outcome.reason] += 1
        is_absent = self._may_lack(outcome)
        if is_absent:
            _log.debug(f"{self.where}: {ending.text}; it is not needed, and asked for again later")
        elif progress.is_trouble(self._position, outcome, is_short=is_short):
            if self._may_pass(outcome):
                contact.lost(now)
            else:
                self._fail(ending)
        elif outcome is progress.Outcome.BROKEN_OFF:
            _log.info(f"{self.where}: {ending.text}; the watch goes on from {self.version}")
        wait = progress.wait_after(self._position, outcome, lasted)
        before = self._position
        self._position = progress.after(before, outcome, is_short=is_short)
        if before.is_listed and not self._position.is_listed:
            self._cause = outcome.reason
        if outcome is progress.Outcome.NOT_FOUND:
            self._resource = None
        if outcome is progress.Outcome.FORBIDDEN:
            self._waits.refused(is_list=before.mode is progress.Mode.LIST)
        failing_for = contact.unread_for(now) or 0.0
        is_patient = is_absent or progress.is_patient(
            outcome, failing_for, is_heard=contact.is_heard
        )
        return ending.retry_after + self._waits.seconds(wait, now, is_patient=is_patient)

    def _may_lack(self, outcome: progress.Outcome) -> bool:
        """Whether nothing is missed: what nobody has demanded may be forbidden, too."""
        if outcome is progress.Outcome.FORBIDDEN and self.choice.is_on_demand:
            return False
        is_lacking = outcome in (progress.Outcome.NOT_FOUND, progress.Outcome.FORBIDDEN)
        return is_lacking and not self.choice.is_needed

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
        """Wait until the server answers a probe.

        A request to a server that hangs may hang for half a minute, while the server is back long
        before. A probe is given up within seconds.
        """
        deadline = self._clock() + LIFE_SECONDS
        while self._clock() < deadline and not await self._api.is_alive(PROBE_SECONDS):
            self._nudged.clear()
            await self._pause(self._rng.uniform(1.0, 2.0))

    async def _ask(self) -> progress.Outcome:
        """Make the next request and read its answer."""
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._resource is None:
                    self._resource = await self.choice.resolve(self._api)
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
            while chunk := await self._read(answer, answered_at, framer, pace):
                for line in framer.feed(chunk):
                    pace.restart()
                    await self._on_event(resource, wire.event(line))
                    await self._give_way()
                if framer.is_mid_line:
                    pace.count(len(chunk))
                else:
                    pace.restart()
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
            self._is_settled = self._is_watching = True
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
        self._is_watching = True
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
        if resource.label_selector:
            query = {**query, "labelSelector": resource.label_selector}
        if resource.field_selector:
            query = {**query, "fieldSelector": resource.field_selector}
        async with self._api.get(mode, resource.path(self.namespace), query) as answer:
            self._waits.admitted(is_list=mode is progress.Mode.LIST)
            if self.counters.contact.answered(self._clock()):
                self._intake.settle(self)
            try:
                yield answer
            finally:
                self._is_watching = False

    def _heard(self) -> None:
        """The server has sent something valid: contact is restored."""
        if self.counters.contact.heard(self._clock()):
            self._intake.settle(self)

    def _fail(self, ending: client.RequestError) -> None:
        """Contact is lost. A trouble is reported once, however often it repeats itself."""
        if not self.counters.contact.failed(self._clock(), ending.outcome.reason):
            return
        mode = progress.Mode.LIST if self._position.mode is progress.Mode.LIST else "watch"
        text = f"cannot {mode}: {ending.text}"
        if ending.outcome is progress.Outcome.FORBIDDEN and self._resource is not None:
            is_all = self._intake.store.wants_pods
            followed = [
                each
                for each in discovery.choices(self._intake.kinds)
                if (is_all or not each.is_on_demand) and (each.is_namespaced or not self.namespace)
            ]
            remedy = rights.remedy(mode, self._resource, self.namespace, ending.text, followed)
            text += f"; {remedy}"
        outcome = "what was last known is served" if self.has_listed else "nothing is known yet"
        severity = _SEVERITIES.get(ending.outcome, admission.Severity.WARNING)
        self._intake.tell(self, source.Problem(severity, self.where, "", text, outcome))
        if self.is_forbidden:
            self._on_settled()

    async def _give_way(self) -> None:
        """Let the data path have its turn, if it has waited for long enough."""
        if self._slice.is_over:
            self._intake.announce()
            if self._replica.is_listing:
                # What a list brings stays. The collector would look at all of it, over and over,
                # and hold the loop for 15 ms each time; reference counts free it as before.
                gc.freeze()
            await asyncio.sleep(0)
            self._slice.begin()
