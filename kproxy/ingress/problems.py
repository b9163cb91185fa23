"""What is wrong with Ingresses, said once when it appears and once when it is gone."""

from collections.abc import Callable, Collection

import structlog

from kproxy.ingress import state, table

MOST_LINES = 50
"""Lines about problems that one change brings; more of them are counted."""

_log = structlog.get_logger(__name__)


class Report:
    """Remembers what it has said. `on_problem` is called with each problem that is new."""

    def __init__(
        self,
        shown: state.IngressState,
        on_problem: Callable[[table.Problem], None] = lambda _: None,
    ) -> None:
        self._shown = shown
        self._on_problem = on_problem

    def take(self, found: Collection[table.Problem]) -> None:
        """These are the problems of the moment."""
        now = frozenset(found)
        before, self._shown.problems = self._shown.problems, now
        appeared, gone = sorted(now - before), sorted(before - now)
        for each in appeared[:MOST_LINES]:
            _log.log(each.severity.level, str(each))
        if len(appeared) > MOST_LINES:
            _log.warning("more is wrong with Ingresses", problems=len(appeared) - MOST_LINES)
        for each in gone[:MOST_LINES]:
            _log.info("no longer so", problem=str(each))
        for each in appeared:
            self._on_problem(each)
