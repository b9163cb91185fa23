"""What is wrong with Gateways and routes, said once when it appears and once when it is gone."""

import structlog

from kproxy.gateway import statuses, watcher

MOST_LINES = 50
"""Lines that one change brings; more of them are counted."""

_log = structlog.get_logger(__name__)


class Report:
    """Remembers what it has said of each object."""

    def __init__(self) -> None:
        self._said: dict[watcher.Key, frozenset[str]] = {}

    def take(self, change: watcher.Change) -> None:
        """Say what is new about these."""
        appeared: list[str] = []
        gone: list[str] = []
        for key in (*change.statuses, *change.gone):
            status = change.statuses.get(key)
            now = frozenset(statuses.problems(status)) if status is not None else frozenset()
            before = self._said.pop(key, frozenset())
            if now:
                self._said[key] = now
            subject = f"{key[0]} {key[1]}"
            appeared += (f"{subject}: {each}" for each in sorted(now - before))
            gone += (f"{subject}: {each}" for each in sorted(before - now))
        for each in appeared[:MOST_LINES]:
            _log.warning(each)
        if len(appeared) > MOST_LINES:
            _log.warning("more is wrong", problems=len(appeared) - MOST_LINES)
        for each in gone[:MOST_LINES]:
            _log.info("no longer so", problem=each)
