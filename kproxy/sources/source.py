"""Source: where a Store's objects come from. A contract, in the manner of client-go's
SharedInformer (`tools/cache/shared_informer.go`); manifests are one, an API server another.

A source reads objects from somewhere, keeps a `Store` at what it last saw, and calls the Store's
subscribers with the Services that a change concerns. Everything happens on the event loop's
thread, except for reading and parsing, which must not stall it.

What is promised:

* The Store is written before its subscribers are called, and they get exactly the Services of
  which a reader of the Store may now see something else. The call says *that* they changed;
  the reader looks in the Store to see *what* is true now.
* `has_synced` turns true once, when every object that existed at the start has been read or
  rejected: Services **and** endpoints. Subscribers are called right after it, with an empty set
  if need be, so that one that waits for the first complete state needs no other signal.
  Before that the Store is incomplete, and nothing should be made true from it.
* A rejected object changes nothing: the last good version of it stays in the Store. Losing the
  place that objects come from empties nothing either.
* `on_problem` gets each problem once, when it appears, and again only if it has changed or
  had gone away; `problems` has those of the moment.
* `run` lasts until it is cancelled, and then leaves no task, watch or connection behind; a read
  that is under way in a thread ends by itself, and changes nothing any more.

What is not promised:

* That every state is seen. Changes in quick succession arrive as one; an object that was deleted
  and made again may look merely changed, and one that was made and deleted may never be seen.
* An order between objects. Endpoints may arrive before their Service, and one file's or event's
  objects before another's. A consumer must get to the same end from any order.
* That two names in one call changed at the same moment, or for the same reason.

What a consumer must do: its listener and `on_problem` return promptly and do not raise. A listener
that raises is logged as a bug, affects no other, and gets the same changes again with the next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kproxy import metrics
from kproxy.model import admission
from kproxy.sources import store


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an input, for the user. `str()` is one sentence.

    `where` is the input in the user's words, for instance "web.yaml, document 3"; `subject` the
    kind and name of the object ("" when they cannot be read); `text` what is wrong
    with it, naming field, value and rule; `outcome` what kproxy does with it.
    """

    severity: admission.Severity
    where: str
    subject: str
    text: str
    outcome: str = ""

    def __str__(self) -> str:
        clauses = f"{self.text}; {self.outcome}" if self.outcome else self.text
        return ": ".join(part for part in (self.where, self.subject, clauses) if part)


def problem_of(
    admitted: admission.Admission, finding: admission.Finding, where: str, *, stays: bool
) -> Problem:
    """`finding` as a problem. With `stays` the Store keeps an earlier version of the object."""
    outcome = "" if admitted.accepted else "skipped"
    if stays:
        outcome = "its last good version stays"
    return Problem(finding.severity, where, admitted.subject, finding.text, outcome)


OnProblem: TypeAlias = Callable[[Problem], None]


class Source(Protocol):
    """The contract is in the module's docstring."""

    @property
    def store(self) -> store.Store:
        """The Store it keeps. Only this source writes it."""
        ...

    @property
    def has_synced(self) -> bool:
        """Whether the Store has held a complete state: Services and endpoints."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong at the moment, in the order of the input."""
        ...

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """The counters of each list-and-watch; manifests have none."""
        ...

    def all_counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """The same, and of what Services are served without: the objects of optional parts."""
        ...

    def describe(self) -> str:
        """Where objects come from and whether they are current, in a few words for humans."""
        ...

    async def run(self) -> None:
        """Read, then follow changes, until cancelled."""
        ...

    def reload(self) -> None:
        """Read everything again soon: manifests, or credentials and lists."""
        ...
