"""Replica: what one list-and-watch knows of its collection, object by object.

It gives objects to the intake only when they are news, so a list that repeats what is known costs
little. It also notes which known objects a list did *not* have: those were deleted while no watch
was open (docs/faults.md K06).
"""

from collections.abc import Generator, Iterator
from typing import Any

import msgspec

from kproxy import metrics
from kproxy.model import admission
from kproxy.model.kinds.kind import Kind
from kproxy.sources import intake
from kproxy.sources.api import api_bounds
from kproxy.sources.api.decisions import versions
from kproxy.sources.transfer import wire


class Replica:
    """No I/O; on the event loop's thread. `where` is the collection in the user's words."""

    def __init__(
        self,
        taking: intake.Intake,
        counters: metrics.ReflectorCounters,
        limits: api_bounds.Bounds,
    ) -> None:
        self._intake = taking
        self._counters = counters
        self._bounds = limits
        self._versions = versions.Versions()
        self._seen: set[admission.Key] | None = None
        self._added: set[admission.Key] = set()
        self._is_epoch = False

    @property
    def is_listing(self) -> bool:
        """Whether a list has begun that has not ended."""
        return self._seen is not None

    def begin_list(self, *, is_epoch: bool) -> None:
        """A list begins. With `is_epoch` its objects are taken even if they are older than those
        known."""
        self._seen = set()
        self._added = set()
        self._is_epoch = is_epoch

    def unlisted(self) -> Iterator[None]:
        """All objects have come: forget the others, one a step, so that a caller may pause."""
        for key in self._versions.missing_from(self._seen or set()):
            self._forget(key, "")
            yield
        self._seen = None
        self._added.clear()

    def abandon_list(self) -> Iterator[None]:
        """A list that has begun, if any, was never finished: one step each, to pause between.

        What it did not have may be there all the same. What it had stays, unless that is more
        than may be known: then what only this list had is forgotten.
        """
        if self._seen is not None and len(self._versions) > self._bounds.objects:
            for key in self._added:
                self._forget(key, "")
                yield
        self._seen = None
        self._added.clear()

    def begin_watch(self, version: str) -> None:
        """Events follow, all newer than `version`."""
        self._versions.begin_watch(version)

    def put_steps(
        self, kind: Kind[Any], raw: msgspec.Raw, where: str
    ) -> Generator[None, None, str]:
        """Take in an object of a list or of a watch; its version, "" if it has none.

        Yields while a large object is judged. Raises RequestError when the bound on objects is
        passed.
        """
        identity = wire.identity(raw)
        if identity is None:
            self._counters.malformed += 1
            yield from self._intake.take_steps(kind, raw, where)
            return ""
        key = (kind.name, identity.name)
        is_new = key not in self._versions
        known = len(self._versions) if self._seen is None else len(self._seen)
        if is_new and known >= self._bounds.objects:
            raise api_bounds.too_many_objects(self._bounds)
        if self._seen is not None:
            self._seen.add(key)
            if is_new:
                self._added.add(key)
        if self._is_news(key, identity.version):
            yield from self._intake.take_steps(kind, raw, where)
            self._versions.put(key, identity.version)
        return identity.version

    def delete(self, kind: Kind[Any], raw: msgspec.Raw) -> str:
        """Remove an object; the version of the deletion, "" if it has none."""
        identity = wire.identity(raw)
        if identity is None:
            self._counters.malformed += 1
            return ""
        key = (kind.name, identity.name)
        if self._versions.is_end(key, identity.version):
            self._forget(key, identity.version)
        return identity.version

    def _is_news(self, key: admission.Key, version: str) -> bool:
        if self._seen is None:
            return self._versions.is_news(key, version)
        return self._is_epoch or not self._versions.is_current(key, version)

    def _forget(self, key: admission.Key, version: str) -> None:
        if self._seen is not None:
            self._seen.discard(key)
        self._versions.drop(key, version)
        self._intake.forget(key)
