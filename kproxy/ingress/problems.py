"""What is wrong with Ingresses, said once when it appears and once when it is gone."""

from collections.abc import Callable, Collection

import structlog

from kproxy import metrics
from kproxy.ingress import table
from kproxy.model import admission

MOST_LINES = 50
"""Lines about problems that one change brings; more of them are counted."""

_log = structlog.get_logger(__name__)


class Report:
    """Remembers what it has said. `on_problem` is called with each problem that is new."""

    def __init__(
        self,
        counters: metrics.IngressCounters,
        on_problem: Callable[[table.Problem], None] = lambda _: None,
    ) -> None:
        self._counters = counters
        self._on_problem = on_problem
        self.current: frozenset[table.Problem] = frozenset()

    def take(self, found: Collection[table.Problem]) -> None:
        """These are the problems of the moment."""
        now = frozenset(found)
        appeared = sorted(now - self.current)
        gone = sorted(self.current - now)
        self.current = now
        self._counters.problems = len(now)
        for each in appeared[:MOST_LINES]:
            _write(each)
        if len(appeared) > MOST_LINES:
            _log.warning("more is wrong with Ingresses", problems=len(appeared) - MOST_LINES)
        for each in gone[:MOST_LINES]:
            _log.info("no longer so", problem=str(each))
        for each in appeared:
            self._on_problem(each)


def _write(problem: table.Problem) -> None:
    if problem.severity is admission.Severity.ERROR:
        _log.error(str(problem))
    elif problem.severity is admission.Severity.WARNING:
        _log.warning(str(problem))
    else:
        _log.info(str(problem))
