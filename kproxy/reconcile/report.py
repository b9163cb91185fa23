"""The states of frontends, and what is wrong with inputs, as lines in the log.

Normally each frontend whose state is new gets a line. One Service can have thousands, so a sync
that changes many frontends of a Service writes one line for all of them. When listeners are short,
each Service gets one line, and a minute has a limited number of these.
"""

import itertools
import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import structlog

from kproxy.model import addresses, forwarding, names
from kproxy.reconcile import statuses
from kproxy.sources import source

SPELLED_OUT = 16
"""Frontends of a Service that get a line each; of more that change at once, the states are
counted."""

LINES_A_MINUTE = 10
"""Lines about Services that are over a budget; more of them are counted."""

_STRIDE = 64
_OVER = forwarding.FrontendState.OVER_BUDGET

_log = structlog.get_logger(__name__)

_Statuses: TypeAlias = list[statuses.FrontendStatus]


def log_problem(problem: source.Problem) -> None:
    """Log what is wrong with an input, at the level of its severity."""
    _log.log(problem.severity.level, str(problem))


class Reporter:
    """Remembers the state that it last logged for each frontend. `read` gives the present one."""

    def __init__(
        self,
        read: Callable[[names.ServicePortName], _Statuses],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._known: dict[names.ServicePortName, _Statuses] = {}
        self._short: Counter[names.NamespacedName] = Counter()
        self._lines = _Throttle(clock)
        self._hearing: list[Callable[[names.NamespacedName], None]] = []
        self.states: Counter[str] = Counter()
        """How many frontends are in each state, as of the last report."""
        self.shortages = 0
        """How often a Service has run over a budget, so far."""

    def subscribe(self, hear: Callable[[names.NamespacedName], None]) -> None:
        """Call `hear` with each Service, or what is served like one, whose frontends are in
        another state. It must return promptly."""
        self._hearing.append(hear)

    def report(self, changed: Iterable[names.ServicePortName]) -> Iterator[None]:
        """Log what is new of these service ports, those of a Service one after the other."""
        for service, ports in itertools.groupby(changed, operator.attrgetter("service")):
            yield from self._report_service(service, ports)
        if hidden := self._lines.hidden():
            _log.warning("more Services are over budget: see kproxy get services", services=hidden)

    def _report_service(
        self, service: names.NamespacedName, ports: Iterable[names.ServicePortName]
    ) -> Iterator[None]:
        lines: list[tuple[names.ServicePortName, statuses.FrontendStatus, bool]] = []
        closed, over, is_news = 0, 0, False
        reached: Counter[str] = Counter()
        detail = ""
        for count, name in enumerate(ports, 1):
            before, now = self._known.pop(name, []), self._read(name)
            if now:
                self._known[name] = now
            is_news = is_news or before != now
            for each in before if before != now else ():
                if each not in now:
                    self.states[each.state] -= 1
                    over -= each.state is _OVER
                    if each.state is forwarding.FrontendState.BOUND:
                        closed += 1
                        lines.append((name, each, False))
            for each in now if before != now else ():
                if each not in before:
                    self.states[each.state] += 1
                    reached[each.state] += 1
                    if each.state is _OVER:
                        over, detail = over + 1, each.detail
                    else:
                        lines.append((name, each, True))
            del lines[SPELLED_OUT + 1 :]
            if count % _STRIDE == 0:
                yield
        self._report_shortage(service, over, detail)
        for hear in self._hearing if is_news else ():
            hear(service)
        if len(lines) > SPELLED_OUT:
            counts = {str(state).replace("-", "_"): number for state, number in reached.items()}
            _log.info("frontends", service=str(service), closed=closed, **counts)
        else:
            for name, each, is_new in sorted(lines, key=operator.itemgetter(2)):
                _report_line(name, each, is_new=is_new)
        yield

    def _report_shortage(self, service: names.NamespacedName, more: int, detail: str) -> None:
        """One line when a Service runs over a budget, and one when it no longer is."""
        before = self._short.pop(service, 0)
        now = before + more
        if now:
            self._short[service] = now
        if now and not before:
            self.shortages += 1
            if self._lines.allow():
                _log.warning(
                    "over budget: not every frontend of this Service is served",
                    service=str(service),
                    frontends=now,
                    detail=detail,
                )
        elif before and not now and self._lines.allow():
            _log.info("within the budget again", service=str(service))


def _report_line(
    name: names.ServicePortName, status: statuses.FrontendStatus, *, is_new: bool
) -> None:
    if not is_new:
        _log.info("no longer listening", service=str(name), bound=str(status.bound))
    elif status.bound is None and status.state is not forwarding.FrontendState.NOT_SERVED:
        _log.warning("frontend is not served", service=str(name), **_described(status))
    else:
        _log.info("frontend", service=str(name), **_described(status))


class _Throttle:
    """Lets so many lines pass in a minute, and counts the others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minute = float("-inf")
        self._passed = 0
        self._hidden = 0

    def allow(self) -> bool:
        """Whether a line may be written now."""
        now = self._clock()
        if now - self._minute >= 60:
            self._minute, self._passed = now, 0
        self._passed += 1
        if self._passed > LINES_A_MINUTE:
            self._hidden += 1
            return False
        return True

    def hidden(self) -> int:
        """How many lines were left out since they were last reported."""
        hidden, self._hidden = self._hidden, 0
        return hidden


def _described(status: statuses.FrontendStatus) -> dict[str, str]:
    """A frontend for the log."""
    frontend = status.frontend
    described = {"kind": frontend.kind.value}
    host = "node" if frontend.kind is forwarding.FrontendKind.NODE_PORT else frontend.address
    if host:
        described["address"] = str(addresses.SocketAddress(host, frontend.port))
    if status.bound is not None:
        described["bound"] = str(status.bound)
    described["state"] = status.state.value
    if status.detail:
        described["detail"] = status.detail
    return described
