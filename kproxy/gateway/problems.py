"""What is wrong with Gateways and routes, said once when it appears and once when it is gone."""

from collections.abc import Generator

import structlog

from kproxy.gateway import state, statuses, watcher

MOST_LINES = 50
"""Lines that one change brings; more of them are counted."""

_log = structlog.get_logger(__name__)


_STRIDE = 32
"""Objects looked at between two pauses: a Gateway may have 64 listeners."""


class Report:
    """Remembers what it has said of each object. `shown` has the number of problems."""

    def __init__(self, shown: state.GatewayState) -> None:
        self._shown = shown
        self._said: dict[state.Key, frozenset[str]] = {}

    def take_in_steps(self, change: watcher.Change) -> Generator[None, None, None]:
        """Say what is new about these."""
        appeared: list[str] = []
        gone: list[str] = []
        for count, key in enumerate((*change.statuses, *change.gone), 1):
            status = change.statuses.get(key)
            now = frozenset(statuses.problems(status)) if status is not None else frozenset()
            before = self._said.pop(key, frozenset())
            if now:
                self._said[key] = now
            self._shown.problems += len(now) - len(before)
            subject = f"{key[0]} {key[1]}"
            appeared += (f"{subject}: {each}" for each in sorted(now - before))
            gone += (f"{subject}: {each}" for each in sorted(before - now))
            if count % _STRIDE == 0:
                yield
        for each in appeared[:MOST_LINES]:
            _log.warning(each)
        if len(appeared) > MOST_LINES:
            _log.warning("more is wrong with Gateways", problems=len(appeared) - MOST_LINES)
        for each in gone[:MOST_LINES]:
            _log.info("no longer so", problem=each)
