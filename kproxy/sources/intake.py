"""The one way into the Store: admit an object, store it, report what changed and what is wrong.

Each object is judged by itself. An invalid object leaves its last good version in the Store. An
object that is valid but not for a proxy is removed from the Store. If judging an object raises,
which is a bug in kproxy, the object is quarantined and the others are not affected
(docs/faults.md K25).
"""

from collections.abc import Generator

import structlog

from kproxy.model import admission, names, objects, steps
from kproxy.sources import source, store

_log = structlog.get_logger(__name__)


class Intake:
    """Takes objects in; reports changes and problems. No I/O; on the event loop's thread."""

    def __init__(
        self,
        on_change: source.OnChange,
        on_problem: source.OnProblem,
        *,
        allow_loopback: bool,
    ) -> None:
        self.store = store.Store()
        self.has_synced = False
        self.quarantined = 0
        """Objects whose admission raised, so far."""
        self._on_change = on_change
        self._on_problem = on_problem
        self._allow_loopback = allow_loopback
        self._dirty: set[names.NamespacedName] = set()
        self._problems: dict[object, source.Problem] = {}

    def problems(self) -> tuple[source.Problem, ...]:
        """What is wrong at the moment, in the order in which it went wrong."""
        return tuple(self._problems.values())

    def take(self, kind: names.Kind, raw: objects.RawObject, where: str) -> admission.Key | None:
        """`take_steps`, all at once."""
        return steps.at_once(self.take_steps(kind, raw, where))

    def take_steps(
        self, kind: names.Kind, raw: objects.RawObject, where: str
    ) -> Generator[None, None, admission.Key | None]:
        """Judge an object and store it, if it is good; its key, if it has one.

        `where` is the collection it came from, in the user's words. Yields while a large object
        is judged; nothing has changed until that is done.
        """
        admitted = yield from self._judge(kind, raw)
        key = admitted.key
        if admitted.accepted is not None:
            self._dirty |= self.store.apply(admitted.accepted)
        elif key is not None and not admitted.is_invalid:
            self._dirty |= self.store.delete(*key)
        subject = key or (where, "nameless")
        if admitted.finding is None:
            self._problems.pop(subject, None)
        else:
            stays = admitted.is_invalid and key is not None and self.store.has(*key)
            outcome = "" if admitted.accepted else "skipped"
            if stays:
                outcome = "its last good version stays"
            text, severity = admitted.finding.text, admitted.finding.severity
            self.tell(subject, source.Problem(severity, where, admitted.subject, text, outcome))
        return key

    def forget(self, key: admission.Key) -> None:
        """An object is gone."""
        self._dirty |= self.store.delete(*key)
        self._problems.pop(key, None)

    def tell(self, subject: object, problem: source.Problem) -> None:
        """`subject` has a problem, in place of the one it had. Reported only if it differs."""
        if self._problems.get(subject) != problem:
            self._problems[subject] = problem
            self._on_problem(problem)

    def settle(self, subject: object) -> None:
        """`subject` has no problem any more."""
        self._problems.pop(subject, None)

    def complete(self) -> None:
        """All there was at the start has been taken in: the Store can be read from now on."""
        self.has_synced = True
        self._tell_consumer()

    def announce(self) -> None:
        """Report what has changed since the last call, once the Store is complete."""
        if self._dirty and self.has_synced:
            self._tell_consumer()

    def _tell_consumer(self) -> None:
        """If the consumer raises, which is a bug, the next call reports the same names again."""
        told = frozenset(self._dirty)
        try:
            self._on_change(told)
        except Exception:
            _log.exception("internal error: a consumer failed, its changes will be sent again")
        else:
            self._dirty -= told

    def _judge(
        self, kind: names.Kind, raw: objects.RawObject
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
