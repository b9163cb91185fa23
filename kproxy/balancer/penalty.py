"""The penalty box: backends that failed a dial, kept away from clients until a probe succeeds.

In kube-proxy's userspace mode every client dialled a dead endpoint itself, at up to 3.75 s each
(docs/behaviour.md section 2, item 18). Here the first failed dial boxes the backend for all
service ports of the data plane, and a dial that succeeds takes it out: no later client waits for
it. The box only keeps the books; its owner makes the probe dials.

kproxy's own listening addresses are *barred*: a connection to one of them would come back to the
proxy itself, and round and round if two Services name each other. No probe frees a barred backend;
it is free when the address is given back.

A penalty is a wait before the next probe: 1 s, doubled by each probe that fails, at most 30 s.
"""

import bisect
from collections.abc import Callable
from typing import NamedTuple, Protocol

from kproxy.model import addresses

FIRST_PENALTY = 1.0
LONGEST_PENALTY = 30.0
_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104


class Watcher(Protocol):
    """Is called when a backend that it watches goes into the box or comes out."""

    def penalty_changed(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        """`backend` has just been boxed, barred or freed. Must not watch or unwatch anything."""


class Penalty(NamedTuple):
    """A boxed backend, for status. `until` is when it is probed next, on the monotonic clock."""

    backend: addresses.SocketAddress
    until: float
    failures: int
    probing: bool


class _Term:
    __slots__ = ("failures", "penalty", "probing", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.penalty = FIRST_PENALTY
        self.probing = False
        self.until = 0.0


class PenaltyBox:
    """Which backends are being avoided, and when each is due for a probe. One per data plane.

    Only watched backends are known: a failure of any other changes nothing, and the last
    watcher takes the backend's record along, so it is never probed again.

    `boxed` is the box itself, to read and not to change: while it is empty, as it nearly always
    is, a caller need not report successes. So is `paroled`, with the next penalty of each backend
    on parole.
    """

    __slots__ = (
        "_due",
        "_is_local",
        "_on_change",
        "_own",
        "_own_ports",
        "_watchers",
        "boxed",
        "paroled",
    )

    def __init__(
        self,
        is_local: Callable[[str], bool] = lambda _: False,
        on_change: Callable[[addresses.SocketAddress, bool], None] = lambda _backend, _boxed: None,
    ) -> None:
        """`is_local` says whether an IP address is one of this host's.

        `on_change` is called with a backend and True when it is boxed, False when it is free.
        """
        self._on_change = on_change
        self._is_local = is_local
        self._own: dict[addresses.SocketAddress, str] = {}
        self._own_ports: dict[int, str] = {}
        self._watchers: dict[addresses.SocketAddress, dict[Watcher, None]] = {}
        self.boxed: dict[addresses.SocketAddress, _Term] = {}
        self.paroled: dict[addresses.SocketAddress, float] = {}
        # Sorted. Without those that are being probed.
        self._due: list[tuple[float, addresses.SocketAddress]] = []

    def __len__(self) -> int:
        return len(self.boxed)

    def __contains__(self, backend: addresses.SocketAddress) -> bool:
        return backend in self.boxed

    def watch(self, backend: addresses.SocketAddress, watcher: Watcher) -> bool:
        """Call `watcher` at every change from now on.

        Returns whether `backend` is boxed or barred now.
        """
        self._watchers.setdefault(backend, {})[watcher] = None
        return backend in self.boxed or self.owner(backend) is not None

    def owner(self, backend: addresses.SocketAddress) -> str | None:
        """What listens on a barred backend: a service port, "healthz"...; else None."""
        owner = self._own.get(backend)
        if owner is None and backend.port in self._own_ports and self._is_local(backend.address):
            owner = self._own_ports[backend.port]
        return owner

    def bar(self, backend: addresses.SocketAddress, owner: str) -> None:
        """kproxy listens on `backend` for `owner`: nothing may be proxied to it.

        0.0.0.0 and :: stand for every address of this host.
        """
        if backend.address not in _EVERY_ADDRESS:
            self._own[backend] = owner
            self._bar_watched(backend)
            return
        self._own_ports[backend.port] = owner
        for watched in [each for each in self._watchers if each.port == backend.port]:
            if self._is_local(watched.address):
                self._bar_watched(watched)

    def unbar(self, backend: addresses.SocketAddress) -> None:
        """kproxy no longer listens on `backend`, an address that was barred by itself."""
        if self._own.pop(backend, None) is not None and backend in self._watchers:
            self._notify(backend, boxed=False)

    def _bar_watched(self, backend: addresses.SocketAddress) -> None:
        if backend in self._watchers:
            self._forget_term(backend)
            self._notify(backend, boxed=True)

    def _forget_term(self, backend: addresses.SocketAddress) -> None:
        term = self.boxed.pop(backend, None)
        if term is not None:
            self._unschedule(backend, term)

    def unwatch(self, backend: addresses.SocketAddress, watcher: Watcher) -> None:
        """`watcher` no longer uses `backend`. The last watcher's leaving forgets the backend."""
        watchers = self._watchers.get(backend)
        if watchers is None:
            return
        watchers.pop(watcher, None)
        if not watchers:
            del self._watchers[backend]
            self._forget_term(backend)
            self.paroled.pop(backend, None)

    def fail(self, backend: addresses.SocketAddress, now: float) -> bool:
        """A dial to `backend` failed, a client's or the probe's. True if this boxed it.

        Of a boxed backend only failures during its probe count, the first one of them. Clients
        that have to use it because everything is boxed would otherwise double the penalty with
        each dial, and push the next probe away for as long as they keep trying.
        """
        term = self.boxed.get(backend)
        if term is not None:
            if term.probing:
                self._sentence(backend, term, now)
            return False
        if backend not in self._watchers or self.owner(backend) is not None:
            return False
        term = self.boxed[backend] = _Term()
        term.penalty = self.paroled.pop(backend, FIRST_PENALTY)
        self._sentence(backend, term, now)
        self._notify(backend, boxed=True)
        self._on_change(backend, True)  # noqa: FBT003  # a callback
        return True

    def succeed(self, backend: addresses.SocketAddress) -> None:
        """A dial to `backend` succeeded in time: free, its next penalty the first again."""
        self.paroled.pop(backend, None)
        self._free(backend)

    def parole(self, backend: addresses.SocketAddress) -> None:
        """Free `backend` without a probe; its next penalty is longer, unless it succeeds before.

        For backends that cannot be probed: their next client finds out.
        """
        term = self.boxed.get(backend)
        if term is not None:
            self.paroled[backend] = term.penalty
            self._free(backend)

    def _free(self, backend: addresses.SocketAddress) -> None:
        term = self.boxed.pop(backend, None)
        if term is not None:
            self._unschedule(backend, term)
            self._notify(backend, boxed=False)
            self._on_change(backend, False)  # noqa: FBT003  # a callback

    def next_due(self) -> float | None:
        """When the next probe is due: maybe in the past; None when there is none to make."""
        return self._due[0][0] if self._due else None

    def due_probes(self, now: float) -> list[addresses.SocketAddress]:
        """Boxed backends whose penalty has run out, longest overdue first.

        Each is named again until `probe_started` is called for it, so a caller may start only
        some of them.
        """
        due = self._due
        count = 0
        while count < len(due) and due[count][0] <= now:
            count += 1
        return [backend for _, backend in due[:count]]

    def probe_started(self, backend: addresses.SocketAddress) -> None:
        """A probe dial is under way. However it ends, `fail` or `succeed` must follow."""
        term = self.boxed.get(backend)
        if term is not None:
            self._unschedule(backend, term)
            term.probing = True

    def until(self, backend: addresses.SocketAddress) -> float | None:
        """When `backend` is probed next; None when it is not boxed."""
        term = self.boxed.get(backend)
        return None if term is None else term.until

    def snapshot(self) -> list[Penalty]:
        """All boxed backends, in the order in which they were boxed."""
        return [
            Penalty(backend, term.until, term.failures, term.probing)
            for backend, term in self.boxed.items()
        ]

    def _sentence(self, backend: addresses.SocketAddress, term: _Term, now: float) -> None:
        """Start the next penalty. `backend` is not in the schedule yet."""
        term.failures += 1
        term.probing = False
        term.until = now + term.penalty
        term.penalty = min(2 * term.penalty, LONGEST_PENALTY)
        bisect.insort(self._due, (term.until, backend))

    def _unschedule(self, backend: addresses.SocketAddress, term: _Term) -> None:
        if not term.probing:
            del self._due[bisect.bisect_left(self._due, (term.until, backend))]

    def _notify(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        for watcher in tuple(self._watchers[backend]):
            watcher.penalty_changed(backend, boxed=boxed)
