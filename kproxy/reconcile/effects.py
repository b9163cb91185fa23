"""The effects of a sync, in their one order, and what carries them out.

`proxier` explains the order. If a bug raises, that effect and all that follow it stay queued.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import structlog

from kproxy.model import forwarding, names
from kproxy.plane import plane as planes
from kproxy.portal import budget, claims, portal
from kproxy.reconcile import frontend_book

_log = structlog.get_logger(__name__)

_AT_ONCE = 4
"""Backends set or frontends opened between two pauses: some 100 us."""

RETRY_BATCH = 256
"""Failed frontends in each retry. The rest are retried once one of these can be opened."""


@dataclass(slots=True)
class Effects:
    """The effects of one sync, in order."""

    close: deque[forwarding.PortalAddress] = field(default_factory=deque)
    narrow: deque[forwarding.Admit] = field(default_factory=deque)
    set_backends: deque[forwarding.SetBackends] = field(default_factory=deque)
    widen: deque[forwarding.Admit] = field(default_factory=deque)
    set_local_endpoints: deque[forwarding.SetLocalEndpoints] = field(default_factory=deque)
    open: deque[tuple[forwarding.PortalAddress, claims.Claim]] = field(default_factory=deque)
    forget: deque[names.ServicePortName] = field(default_factory=deque)


class Executor:
    """Carries effects out, on a data plane and a portal, and keeps the book of frontends.

    `on_answer` is called when the data plane answers after the sync that asked: with the service
    port of the frontend, and whether frontends that failed before are to be tried again.
    """

    def __init__(
        self,
        plane: planes.Forwarder,
        through: portal.Portal,
        on_answer: Callable[[names.ServicePortName, bool], None],
    ) -> None:
        self.book = frontend_book.FrontendBook()
        """The requests to the data plane and its answers. Read only."""
        self._book = self.book
        self._plane = plane
        self._portal = through
        self._on_answer = on_answer
        self._retrying: set[forwarding.PortalAddress] = set()
        self._is_sending = False
        plane.subscribe(self._hear)

    @property
    def has_failures(self) -> bool:
        """Whether some frontend could not be opened, or is being tried again."""
        return self._book.has_failures or bool(self._retrying)

    def give_up(self, address: forwarding.PortalAddress) -> None:
        """`address` is no longer wanted: forget its failure."""
        self._book.give_up(address)
        self._retrying.discard(address)

    def carry_out(self, plan: Effects) -> Generator[None, None, None]:
        """Carry out the effects. If a bug raises, the remaining ones stay in `plan`."""
        while plan.close:
            self._retrying.discard(plan.close[0])
            claim = self._book.claim(plan.close[0])
            if claim is not None and self._book.close(plan.close[0]):
                self._plane.send(forwarding.CloseFrontend(plan.close[0]))
                self._release(plan.close[0], claim)
            plan.close.popleft()
            yield
        yield from self._admit(plan.narrow)
        while plan.set_backends:
            yield from self._plane.send_steps(plan.set_backends[0])
            plan.set_backends.popleft()
            if len(plan.set_backends) % _AT_ONCE == 0:
                yield
        yield from self._admit(plan.widen)
        while plan.set_local_endpoints:
            self._plane.send(plan.set_local_endpoints[0])
            plan.set_local_endpoints.popleft()
            yield
        while plan.open:
            self._open_frontend(*plan.open[0])
            plan.open.popleft()
            if len(plan.open) % _AT_ONCE == 0:
                yield
        while plan.forget:
            self._plane.send(forwarding.Forget(plan.forget[0]))
            plan.forget.popleft()
            yield

    def retry(
        self, waiting: list[forwarding.PortalAddress], room: budget.Budget
    ) -> Generator[names.ServicePortName, None, None]:
        """Retry some of the frontends that could not be opened, and all once one of them opens.

        Retrying thousands in every sync would cost much work and open nothing. Those that fail
        again go to the end of the queue. If answers come later, so do the attempts that follow a
        success. Yields the service ports whose frontends were tried.
        """
        for first in range(0, len(waiting), RETRY_BATCH):
            opened = 0
            for address in waiting[first : first + RETRY_BATCH]:
                claim = room.granted(address)
                if self._book.failure(address) is not None and claim is not None:
                    self._retrying.add(address)
                    self._open_frontend(address, claim)
                    opened += self._book.is_open(address)
                    yield claim.name
            if not opened:
                break

    def _open_frontend(self, address: forwarding.PortalAddress, claim: claims.Claim) -> None:
        """Ask for `address`. The answer comes to `_hear`."""
        try:
            listen_on = self._acquire(address, claim)
        except OSError as error:
            reason = error.strerror or str(error)
            self._retrying.discard(address)
            _report_failure(address, self._book.fail(address, claim, reason))
            return
        self._book.ask(address, claim)
        self._is_sending = True
        try:
            self._plane.send(
                forwarding.OpenFrontend(
                    claim.name, claim.frontend, address, listen_on, claim.admitted
                )
            )
        except Exception:
            self._book.unask(address)
            self._release(address, claim)
            raise
        finally:
            self._is_sending = False

    def _acquire(
        self, address: forwarding.PortalAddress, claim: claims.Claim
    ) -> forwarding.ListenOn:
        """The address to bind, or the shared listener. Raises OSError."""
        if claim.frontend.kind is forwarding.FrontendKind.HEALTH_CHECK:
            return address.socket_address  # an address of the node, which needs no portal
        return self._portal.acquire(address, claim.admitted)

    def _release(self, address: forwarding.PortalAddress, claim: claims.Claim) -> None:
        """Give back what was acquired."""
        if claim.frontend.kind is not forwarding.FrontendKind.HEALTH_CHECK:
            self._portal.release(address)

    def _admit(self, changed: deque[forwarding.Admit]) -> Generator[None, None, None]:
        """Change which clients the open frontends admit."""
        while changed:
            message = changed[0]
            if self._book.admit(message.address, message.admitted):
                self._portal.admit(message.address, message.admitted)
                self._plane.send(message)
            changed.popleft()
            yield

    def _hear(self, report: forwarding.Report) -> None:
        """Record an answer of the data plane in the book."""
        change = self._book.answer(report)
        if change is None:
            return
        was_retried = report.address in self._retrying
        self._retrying.discard(report.address)
        if change.reason:
            self._release(report.address, change.claim)
            _report_failure(report.address, change)
        if self._is_sending:
            return  # the sync that asked goes on with it
        is_retry_due = was_retried and not change.reason and self._book.has_failures
        self._on_answer(change.claim.name, is_retry_due)


def _report_failure(address: forwarding.PortalAddress, change: frontend_book.Change) -> None:
    """Log why a frontend cannot be opened, if that is new."""
    if change.is_news:
        _log.error(
            "cannot listen, retrying",
            service=str(change.claim.name),
            address=str(address),
            reason=change.reason,
        )
