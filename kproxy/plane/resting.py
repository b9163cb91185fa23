"""One service port in the data plane of this process, whether it has had clients or not.

Of ten thousand service ports few ever have clients here. Counters and balancers take much longer to
make than the message that asks for them, so a service port *rests* until its first client comes:
until then that message is all that is kept of it.
"""

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet

from kproxy.model import addresses, forwarding, names
from kproxy.plane import port_state, snapshots

_MOST = 100
"""Endpoints of a service port that rests. Its first client waits for the balancer: some 0.1 ms."""

_UNTOUCHED = snapshots.ServicePort(
    active=0,
    accepted=0,
    ended={},
    bytes_from_clients=0,
    bytes_from_backends=0,
    dial_failures={},
    listen_drops=0,
    reached=0,
    affinity_entries=None,
    affinity_evictions=None,
)


_ANY_POLICY = forwarding.Policy()


class ServicePort:
    """What the data plane holds of one service port. Satisfies `penalty.Watcher`.

    While it rests it watches its endpoints in the penalty box: one that is an address of kproxy's
    own is to be reported, which a balancer does.
    """

    __slots__ = ("_around", "_state", "message", "name", "text")

    def __init__(self, name: names.ServicePortName, around: port_state.Surroundings) -> None:
        self._around = around
        self._state: port_state.ServicePortState | None = None
        self.name = name
        self.text = str(name)
        """The name, as logs and facts show it."""
        self.message = forwarding.SetBackends(name, _ANY_POLICY)
        """What it is balanced over, as set last."""

    @property
    def rests(self) -> bool:
        """Whether `state` has not been needed yet."""
        return self._state is None

    @property
    def state(self) -> port_state.ServicePortState:
        """What serves its clients. It rests no more."""
        made = self._state
        if made is None:
            made = port_state.ServicePortState(
                self.name, self.text, self.message.policy, self._around
            )
            made.start(self.message.pools)
            self._state = made
            self._unwatch(self._endpoints)
        return made

    def may_rest(
        self,
        message: forwarding.SetBackends,
        before: AbstractSet[addresses.SocketAddress],
        now: AbstractSet[addresses.SocketAddress],
    ) -> bool:
        """Do as the message says, if nothing has to be made for that.

        `before` and `now` are all of its endpoints.
        """
        if self._state is not None or not _is_little(message, now):
            return False
        self.message = message
        self._unwatch(before - now)
        if self._watch(now - before):
            _ = self.state
        return True

    def update_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """Balance as the message says, in steps."""
        state = self.state  # with what it had, which clients get until the last step
        self.message = message
        yield from state.update_steps(message)

    def snapshot(self) -> snapshots.ServicePort:
        """What happened here so far."""
        return self._state.snapshot() if self._state is not None else _UNTOUCHED

    def is_used(self, backend: addresses.SocketAddress) -> bool:
        """Whether new connections go to `backend` without reservation."""
        if self._state is not None:
            return self._state.is_used(backend)
        return backend in self._endpoints and backend not in self._around.box

    def penalty_changed(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        """See `penalty.Watcher`. Whether a backend is boxed matters to clients only."""
        if boxed and self._around.box.owner(backend) is not None:
            _ = self.state

    def close(self) -> None:
        """It is gone: clients that are in a queue still are refused."""
        if self._state is None:
            self._unwatch(self._endpoints)
            self.message = forwarding.SetBackends(self.name, _ANY_POLICY)
        else:
            for each in self._state.balancers.values():
                each.close()

    @property
    def _endpoints(self) -> frozenset[addresses.SocketAddress]:
        return frozenset(each for pool in self.message.pools for each in pool.backends)

    def _watch(self, backends: Iterable[addresses.SocketAddress]) -> bool:
        """Whether one of them is boxed or barred."""
        found = False
        for each in backends:
            found |= self._around.box.watch(each, self)
        return found

    def _unwatch(self, backends: Iterable[addresses.SocketAddress]) -> None:
        for each in backends:
            self._around.box.unwatch(each, self)


def _is_little(
    message: forwarding.SetBackends, endpoints: Collection[addresses.SocketAddress]
) -> bool:
    """Whether it is about few endpoints, and nothing else that matters before there are clients."""
    policy = message.policy
    return (
        policy.affinity_seconds is None
        and not policy.lifetime.is_limited
        and len(endpoints) <= _MOST
        and not [pool for pool in message.pools if pool.weights or pool.refused]
    )
