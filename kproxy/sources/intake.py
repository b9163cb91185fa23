"""Intake: the one way into the Store, for files and for list-and-watches.

Each object is judged by itself. An invalid object leaves its last good version in the Store. An
object that is valid but not for a proxy is removed from the Store. If judging an object raises,
which is a bug in kproxy, the object is quarantined and the others are not affected
(docs/faults.md K25).

A list-and-watch has its objects judged here, in steps. Files are judged in a thread, because an
object of a file is believed or not together with the rest of the file, and arrive by `put`.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import structlog

from kproxy import metrics
from kproxy.model import admission, names, objects, steps
from kproxy.model.kinds import registry
from kproxy.model.kinds.kind import Kind
from kproxy.sources import source, store

_log = structlog.get_logger(__name__)


class Intake:
    """Keeps a Store and the problems of a source. No I/O; on the event loop's thread."""

    def __init__(
        self,
        on_problem: source.OnProblem,
        *,
        allow_loopback: bool,
        kinds: registry.Kinds = registry.KINDS,
    ) -> None:
        self.store = store.Store(kinds)
        self.has_synced = False
        self.quarantined = 0
        """Objects whose admission raised, since the start."""
        self._on_problem = on_problem
        self._allow_loopback = allow_loopback
        self._dirty: set[names.NamespacedName] = set()
        self._problems: dict[object, source.Problem] = {}
        self._listed: tuple[source.Problem, ...] = ()

    @property
    def kinds(self) -> registry.Kinds:
        """The kinds that are read."""
        return self.store.kinds

    def problems(self) -> tuple[source.Problem, ...]:
        """What is wrong at the moment: what `note_all` listed, then what `note` added."""
        return (*self._listed, *self._problems.values())

    def take(self, kind: Kind[Any], raw: objects.RawObject, where: str) -> admission.Key | None:
        """`take_steps`, all at once."""
        return steps.at_once(self.take_steps(kind, raw, where))

    def take_steps(
        self, kind: Kind[Any], raw: objects.RawObject, where: str
    ) -> Generator[None, None, admission.Key | None]:
        """Judge an object and store it, if it is good; its key, if it has one.

        `where` is the collection it came from, in the user's words. Yields while a large object
        is judged; nothing has changed until that is done.
        """
        admitted = yield from self._judge(kind, raw)
        key = admitted.key
        if admitted.accepted is not None:
            self.put(admitted.accepted)
        elif key is not None and not admitted.is_invalid:
            self._dirty |= self.store.delete(*key)
        subject = key or (where, "nameless")
        if admitted.finding is None:
            self._problems.pop(subject, None)
        else:
            stays = admitted.is_invalid and key is not None and self.store.has(*key)
            self.note(subject, source.problem_of(admitted, admitted.finding, where, stays=stays))
        return key

    def put(self, accepted: admission.Accepted) -> None:
        """Store an object that has been judged."""
        self._dirty |= self.store.apply(accepted)

    def forget(self, key: admission.Key) -> None:
        """Remove an object, and the problem it had."""
        self._dirty |= self.store.delete(*key)
        self._problems.pop(key, None)

    def note(self, subject: object, problem: source.Problem) -> None:
        """`subject` has a problem, in place of the one it had. Reported only if it differs."""
        if self._problems.get(subject) != problem:
            self._problems[subject] = problem
            self._on_problem(problem)

    def settle(self, subject: object) -> None:
        """`subject` has no problem any more."""
        self._problems.pop(subject, None)

    def note_all(
        self, problems: tuple[source.Problem, ...], fresh: Iterable[source.Problem]
    ) -> Iterator[None]:
        """List `problems` in place of those listed before; report the `fresh` ones, one a step."""
        self._listed = problems
        for problem in fresh:
            self._on_problem(problem)
            yield

    def complete(self) -> None:
        """All there was at the start has been taken in: the Store can be read from now on."""
        self.has_synced = True
        self._announce()

    def announce(self) -> None:
        """Report what has changed since the last call, once the Store is complete."""
        if self._dirty and self.has_synced:
            self._announce()

    def _announce(self) -> None:
        dirty = frozenset(self._dirty)
        self._dirty.clear()
        self.store.announce(dirty)

    def _judge(
        self, kind: Kind[Any], raw: objects.RawObject
    ) -> Generator[None, None, admission.Admission]:
        try:
            return (
                yield from admission.admit_as_steps(kind, raw, allow_loopback=self._allow_loopback)
            )
        except Exception:
            self.quarantined += 1
            refused = admission.reject_as(kind, raw, "judging it failed: a bug in kproxy")
            _log.exception("internal error: object quarantined", subject=refused.subject)
            return refused


class IntakeSource:
    """The part of `source.Source` that is the same for every source with an intake."""

    def __init__(self, made: Intake) -> None:
        self._intake = made

    @property
    def store(self) -> store.Store:
        """The Store it keeps. Only this source writes it."""
        return self._intake.store

    @property
    def has_synced(self) -> bool:
        """Whether everything that there was at the start has been read, or cannot be."""
        return self._intake.has_synced

    def problems(self) -> tuple[source.Problem, ...]:
        """What is wrong at the moment, with objects and with the way to them."""
        return self._intake.problems()

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """Empty: nothing is listed or watched by API."""
        return ()

    def all_counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """As `counters`, where there are no optional collections."""
        return self.counters()
