"""Reflector: keeps what we know of one collection equal to what an API server has of it.

client-go's Reflector (`tools/cache/reflector.go`): list, then watch from the list's version, for
ever. What to do next is decided in `progress`, which version is news in `versions`; this module
asks, reads, and waits. Nothing that a server says or fails to say ends it, or takes away what was
known: while the server is away, the last state stands.

The event loop is shared with a data path, so that objects are taken in for `SLICE_SECONDS` at
most before others get their turn.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import msgspec
import structlog

from kproxy import metrics
from kproxy.cluster import (
    backoff,
    client,
    discovery,
    framing,
    intake,
    progress,
    replica,
    rights,
    source,
    versions,
    wire,
)
from kproxy.model import admission

_log = structlog.get_logger(__name__)

LABEL_SELECTOR = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
"""As kube-proxy asks for Services and endpoints alike: neither headless nor another proxy's."""

PAGE_SIZE = 500
"""Items a page; servers that answer from their cache send all at once nevertheless."""

WATCH_SECONDS = (300, 600)
"""The server is asked to end a watch after a random time in this range, in seconds."""

GRACE_SECONDS = 30
"""If it has not done so this much later, we do."""

SILENCE_SECONDS = 70.0
"""Bookmarks come every minute; a server that is silent for longer is taken for dead."""

STREAM_SILENCE_SECONDS = 10.0
"""Within a streaming list. Servers before 1.27 ignore the request for one and send no end."""

SLICE_SECONDS = 0.002
"""Two reflectors that list at the same time may each have two turns before a timer has its own."""

Resolve: TypeAlias = Callable[[client.Client], Awaitable[discovery.Resource]]

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
"""Of troubles that somebody has to do something about; the others may pass."""

_EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"})


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Time and chance. `clock` is the event loop's, in seconds."""

    clock: Callable[[], float]
    rng: random.Random


class Reflector:
    """One list-and-watch. `resolve` says which collection, at first and after a 404.

    `on_listed` is called after every complete list.
    """

    def __init__(
        self,
        api: client.Client,
        resolve: Resolve,
        taking: intake.Intake,
        counters: metrics.ReflectorCounters,
        clockwork: Clockwork,
        on_listed: Callable[[], None],
        *,
        namespace: str = "",
    ) -> None:
        self.counters = counters
        self.has_listed = False
        self._api = api
        self._resolve = resolve
        self._intake = taking
        self._clockwork = clockwork
        self._on_listed = on_listed
        self._namespace = namespace
        self._resource: discovery.Resource | None = None
        self._position = progress.Position()
        self._cause = "start"
        self._replica = replica.Replica(taking, counters)
        self._backoff = backoff.Backoff(clockwork.rng)
        self._trouble: progress.Outcome | None = None
        self._trouble_was_answered = False
        self._began = 0.0
        self._is_answered = False
        self._slice_began = 0.0
        self._nudged = asyncio.Event()
        self._scope: asyncio.Timeout | None = None

    @property
    def version(self) -> str:
        """The newest resourceVersion seen; "" before the first list."""
        return self._position.version

    @property
    def where(self) -> str:
        """The collection in words, for instance "services in namespace web"."""
        name = str(self._resource or self.counters.resource)
        return f"{name} in namespace {self._namespace}" if self._namespace else name

    def reconnect(self) -> None:
        """Whatever is under way may hang on a dead connection: ask anew, at once."""
        self._nudged.set()
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            self._began, self._is_answered = self._clockwork.clock(), False
            self._nudged.clear()
            ending = await self._attempt()
            self._replica.abandon_list()
            self._intake.announce()
            seconds = self._consequences(ending)
            if seconds > 0:
                await self._pause(seconds)

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
                outcome = progress.Outcome.INTERRUPTED
        except Exception:
            # The state stands and the rest goes on: better than an informer that has ended.
            _log.exception("a list-and-watch failed, which is a bug", resource=self.where)
            outcome, text = progress.Outcome.BUG, "a bug in kproxy; the log has the details"
        return client.RequestError(outcome, text)

    def _consequences(self, ending: client.RequestError) -> float:
        """Draw the conclusions from how a list or watch ended; seconds to wait."""
        now, outcome = self._clockwork.clock(), ending.outcome
        lasted = now - self._began
        if outcome not in {progress.Outcome.LISTED, progress.Outcome.ENDED}:
            self.counters.failures[outcome.value] += 1
        if progress.is_trouble(outcome, lasted):
            if self.counters.failing_since is None:
                self.counters.failing_since = now
            self._tell(ending)
        wait = progress.wait_after(self._position, outcome, lasted)
        before, self._position = self._position, progress.after(self._position, outcome)
        if before.is_listed and not self._position.is_listed:
            self._cause = outcome.value
        if outcome is progress.Outcome.NOT_FOUND:
            self._resource = None
        if wait is progress.Wait.PERMISSION:
            return self._clockwork.rng.uniform(0.5, 1.0) * progress.FORBIDDEN_SECONDS
        backed_off = self._backoff.delay(now) if wait is progress.Wait.BACKOFF else 0.0
        return ending.retry_after + backed_off

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            pass

    async def _ask(self) -> progress.Outcome:
        """Make the next request and read its answer."""
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._resource is None:
                    self._resource = await self._resolve(self._api)
                    self.counters.resource = self._resource.plural
                if self._position.mode is progress.Mode.LIST:
                    return await self._list(self._resource)
                seconds = self._clockwork.rng.randint(*WATCH_SECONDS)
                deadline = asyncio.get_running_loop().time() + seconds + GRACE_SECONDS
                self._scope.reschedule(deadline)
                return await self._watch(self._resource, seconds)
        finally:
            self._scope = None

    async def _list(self, resource: discovery.Resource) -> progress.Outcome:
        """All pages of a list."""
        asked, token = self._position.asked_version, ""
        self._replica.begin_list(is_epoch=self._position.begins_epoch)
        while True:
            # A continue token has the version in it; both together are refused.
            query = {"continue": token} if token else {"resourceVersion": asked} if asked else {}
            version, token = await self._page(resource, {**query, "limit": str(PAGE_SIZE)})
            if not token:
                break
        await self._complete(version)
        return progress.Outcome.LISTED

    async def _page(self, resource: discovery.Resource, query: dict[str, str]) -> tuple[str, str]:
        """One page: its version, and the token of the next one, "" at the last."""
        framer = framing.ListFramer()
        async with self._get(resource, progress.Mode.LIST, query) as answer:
            while chunk := await answer.read(SILENCE_SECONDS):
                for item in framer.feed(chunk):
                    self._check_age(framer.fields)
                    self._replica.put(resource.kind, item, self.where)
                    await self._give_way()
        if not framer.is_complete:
            raise client.RequestError(progress.Outcome.BROKEN_OFF, "a list ended in the middle")
        self._check_age(framer.fields)
        self._in_contact()
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
        mode = self._position.mode
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        if self._position.asked_version:
            query["resourceVersion"] = self._position.asked_version
        if mode is progress.Mode.STREAM:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._replica.begin_list(is_epoch=self._position.begins_epoch)
        else:
            self._replica.begin_watch(self._position.version)
        framer, is_empty = framing.LineFramer(), True
        async with self._get(resource, mode, query) as answer:
            self.counters.watches += 1
            while chunk := await self._read(answer):
                for line in framer.feed(chunk):
                    is_empty = False
                    await self._on_event(resource, wire.event(line))
                    await self._give_way()
                self._intake.announce()
        if framer.is_mid_line:
            raise client.RequestError(progress.Outcome.BROKEN_OFF, "a watch ended mid-line")
        if self._replica.is_listing:
            return progress.Outcome.STREAM_REFUSED
        lasted = self._clockwork.clock() - self._began
        if is_empty and lasted < progress.LEAST_WATCH_SECONDS:
            text = "the server ends every watch as soon as it begins"
            raise client.RequestError(progress.Outcome.EMPTY, text)
        return progress.Outcome.ENDED

    async def _read(self, answer: client.Response) -> bytes:
        """The next bytes of a watch. Raises RequestError."""
        if not self._replica.is_listing:
            return await answer.read(SILENCE_SECONDS)
        try:
            return await answer.read(STREAM_SILENCE_SECONDS)
        except client.RequestError as error:
            if error.outcome is not progress.Outcome.SILENT:
                raise
            raise client.RequestError(progress.Outcome.STREAM_REFUSED, error.text) from None

    async def _on_event(self, resource: discovery.Resource, event: wire.Event) -> None:
        """One line of a watch. Raises RequestError for an ERROR, and FramingError."""
        known = event.type in _EVENT_TYPES
        self.counters.events[event.type if known else "other"] += 1
        version = ""
        match event.type:
            case "ADDED" | "MODIFIED":
                version = self._replica.put(resource.kind, event.object, self.where)
            case "DELETED":
                version = self._replica.delete(resource.kind, event.object)
            case "BOOKMARK":
                version, is_end = wire.bookmark(event.object)
                if is_end and self._replica.is_listing:
                    await self._complete(version)
            case "ERROR":
                status = wire.status(event.object) or wire.Status(500, "", "an unknown error")
                raise client.refused(self._position.mode, status)
        self._in_contact()
        if version and not self._replica.is_listing:
            newest = versions.newest(self._position.version, version)
            self._position = replace(self._position, version=newest)

    async def _complete(self, version: str) -> None:
        """A list has ended, at `version`: forget what it did not have, and watch from it."""
        for _ in self._replica.unlisted():
            await self._give_way()
        self._replica.begin_watch(version)
        if versions.is_behind(version, self._position.version):
            _log.warning(
                "the API server went back to an older state, which is the truth now",
                resource=self.where,
                version=version,
                before=self._position.version,
            )
        self._position = progress.listed(self._position, version)
        self.counters.relists[self._cause] += 1
        self.has_listed = True
        self._on_listed()
        self._intake.announce()

    @asynccontextmanager
    async def _get(
        self, resource: discovery.Resource, mode: progress.Mode, query: Mapping[str, str]
    ) -> AsyncIterator[client.Response]:
        path = resource.path(self._namespace)
        async with self._api.get(mode, path, {**query, "labelSelector": LABEL_SELECTOR}) as answer:
            self._is_answered = True
            if self._trouble is not progress.Outcome.SILENT:  # only bytes end a silence
                self.counters.answered_at = self._clockwork.clock()
            self._in_contact()
            try:
                yield answer
            finally:
                self.counters.answered_at = None

    def _in_contact(self) -> None:
        """The server has answered, or said something that makes sense."""
        now = self._clockwork.clock()
        self.counters.last_contact = now
        if self._trouble is not None and progress.is_healed(
            now - self._began, was_answered=self._trouble_was_answered
        ):
            self._trouble = None
            self.counters.failing_since = None
            self._intake.settle(self)

    def _tell(self, ending: client.RequestError) -> None:
        """A trouble is told once, however often it repeats itself."""
        self._trouble_was_answered = self._is_answered
        if self._trouble is ending.outcome:
            return
        self._trouble = ending.outcome
        mode = progress.Mode.LIST if self._position.mode is progress.Mode.LIST else "watch"
        text = f"cannot {mode}: {ending.text}"
        if ending.outcome is progress.Outcome.FORBIDDEN and self._resource is not None:
            text += f"; {rights.remedy(mode, self._resource, self._namespace, ending.text)}"
        outcome = "what was last known is served" if self.has_listed else "nothing is known yet"
        severity = _SEVERITIES.get(ending.outcome, admission.Severity.WARNING)
        self._intake.tell(self, source.Problem(severity, self.where, "", text, outcome))

    async def _give_way(self) -> None:
        """Let the data path have its turn, if it has waited for long enough."""
        if self._clockwork.clock() - self._slice_began >= SLICE_SECONDS:
            self._intake.announce()
            if self._replica.is_listing:
                # What a list brings stays. The collector would look at all of it, over and over,
                # and hold the loop for 15 ms each time; reference counts free it as before.
                gc.freeze()
            await asyncio.sleep(0)
            self._slice_began = self._clockwork.clock()
