"""The counter of the demonstration: requests, failures, retries, and who answered."""

from collections import Counter
from dataclasses import dataclass, field

_MOST_FAILURES = 20
"""Failures that are kept in full."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a good answer: when it ended, its path, and why each attempt failed."""

    at: float
    path: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  GET {self.path}: {'; then '.join(self.reasons)}"


@dataclass(slots=True)
class Tally:
    """What happened to all requests of a client."""

    requests: int = 0
    failed: int = 0
    by_pod: Counter[str] = field(default_factory=Counter)
    by_node: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    """Attempts that failed and were repeated, by where the repetition was and why."""
    failures: list[Failure] = field(default_factory=list)
    slowest: float = 0.0

    def answered(self, pod: str, node: str, seconds: float) -> None:
        """A request got a good answer from `pod` through `node`, `seconds` after it began."""
        self.requests += 1
        self.by_pod[pod] += 1
        self.by_node[node] += 1
        self.slowest = max(self.slowest, seconds)

    def failed_with(self, failure: Failure) -> None:
        """A request got none."""
        self.requests += 1
        self.failed += 1
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(failure)

    def retried(self, where: str, why: str) -> None:
        """An attempt failed, and another one follows."""
        self.retries[f"{where}: {why}"] += 1

    @property
    def retried_in_all(self) -> int:
        """Attempts that were repeated."""
        return self.retries.total()
