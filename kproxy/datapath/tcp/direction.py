"""One direction of a connection: what is known of it, and which of it can be true together.

`relay.Leg` moves the bytes and changes this state; here is what reads it, keeps its books, and
checks it.
"""

from collections.abc import Iterator
from typing import Protocol, Self

from kproxy.datapath import splice, syscalls
from kproxy.datapath.tcp import halfclose, sharing


class Owner(Protocol):
    """The connection that a direction belongs to, as far as the relay knows it."""

    progress_at: float
    """When bytes last moved, or the first FIN was relayed; seconds of the poller's clock."""
    reason: halfclose.Reason | None
    """Set by the first half-close."""

    @property
    def shared(self) -> sharing.Shared:
        """What the connections of a data path share."""

    @property
    def client(self) -> "Direction":
        """The direction that starts at the client."""

    @property
    def is_prompt(self) -> bool:
        """Whether `make_prompt` has been called."""

    def make_prompt(self) -> None:
        """Let nothing hold back what is sent to the backend."""

    def note_progress(self) -> None:
        """Start the inactivity clock anew."""

    def reset_by(self, leg: "Direction", /) -> halfclose.Reason:
        """The reason for an end that the failure of `leg`'s socket caused."""

    def close(self) -> None:
        """Both directions have ended in order: close both sockets."""

    def abort(self, reason: halfclose.Reason, /) -> None:
        """Reset both sockets."""


# The states of a direction, and what holds in each between two events. `assert_consistent` checks
# this table. "Kept" is what was read here and not sent yet: `unsent`, or what the pipe holds.
#
# state        how it is seen           what else holds
# dialling     peer is None             not quick, blocked or ended; no pipe; unsent: first bytes
# open-quick   quick                    nothing kept, no pipe, no telltale, neither socket blocked
# open-slow    none of the others       nothing kept; the next event finds out what is special
# waiting      poller.is_waiting()      the budget is spent: `resume` is called in the next round
# peer-full    peer.blocked             not quick, nothing is read; the peer's EPOLLOUT will come
# splicing     pipe                     not quick, not eof; unsent is older than the pipe's bytes
# source-over  eof, not ended           no pipe; peer-full or waiting, or it would have ended
# ended        ended                    eof, nothing kept; the other direction has not ended
# closed       fd < 0                   no peer, no conn, nothing kept, no pipe


class Direction:
    """One socket of a connection, and the state of the bytes that are read from it."""

    __slots__ = (
        "blocked",
        "conn",
        "counted",
        "ended",
        "eof",
        "failed",
        "fd",
        "moved",
        "peer",
        "pipe",
        "quick",
        "readable",
        "sock",
        "telltale",
        "unsent",
        "watches_writable",
    )

    def __init__(self, conn: Owner, sock: syscalls.StreamSocket, fd: int) -> None:
        self.conn = conn
        self.sock = sock
        self.fd = fd
        """The socket's descriptor; -1 once the connection has ended."""
        self.peer: Self | None = None
        """The leg that bytes read here are written to; None while dialling and once closed."""
        self.unsent: bytes | None = None
        """Bytes read here that the peer's socket has not taken yet."""
        self.pipe: splice.Pipe | None = None
        """The pipe this direction is spliced through, while it moves bulk."""
        self.moved = 0
        """Bytes read from this socket that are in no counter yet."""
        self.counted = 0
        """Bytes read from this socket that the service port's counters have."""
        self.telltale = 0
        """Events seen here that forbid taking a short read for a drained socket."""
        self.quick = False
        """Nothing is special about this leg: an event without telltales means bytes to pass on."""
        self.readable = False
        """There may be unread bytes whose edge has been used up."""
        self.blocked = False
        """The last write to this socket found its buffer full; EPOLLOUT will come."""
        self.watches_writable = False
        self.eof = False
        """Nothing more will be read here: FIN or a failure was met."""
        self.failed = False
        """The socket was reset: no FIN may be sent on behalf of what was read here."""
        self.ended = False
        """This direction is over: its last byte and its FIN have been passed on."""

    @property
    def total(self) -> int:
        """Bytes read from this socket."""
        return self.counted + self.moved

    def take_count(self) -> int:
        """The bytes that are in no counter yet; from now on they are in the caller's."""
        taken, self.moved = self.moved, 0
        self.counted += taken
        return taken

    def discard(self) -> None:
        """Drop bytes that were read here and will not be passed on."""
        self.unsent = None
        if self.pipe is not None:
            self._release_pipe(self.pipe)

    def release_idle_pipe(self) -> None:
        """Give back a pipe that holds nothing; the next full read borrows one again."""
        if self.pipe is not None and not self.pipe.filled:
            self._release_pipe(self.pipe)

    def describe(self) -> str:
        """The direction's state, for the log of a bug."""
        return (
            f"fd={self.fd} total={self.total} quick={self.quick} blocked={self.blocked} "
            f"readable={self.readable} telltale={self.telltale:#x} "
            f"eof={self.eof} failed={self.failed} ended={self.ended} "
            f"unsent={len(self.unsent or b'')} pipe={self.pipe.filled if self.pipe else None}"
        )

    def assert_consistent(self) -> None:
        """Check the table of states; AssertionError names what does not hold. For tests.

        Holds between two events, also of a direction that waits for its next budget.
        """
        for rule, holds in self._rules():
            if not holds:
                raise AssertionError(f"{rule}: {self.describe()}")

    def _rules(self) -> Iterator[tuple[str, bool]]:
        peer = self.peer
        has_kept = self.unsent is not None or (self.pipe is not None and self.pipe.filled > 0)
        yield "no empty bytes are kept", self.unsent != b""
        if self.fd < 0:
            yield "closed: no peer, nothing kept", not (peer or has_kept or self.pipe)
            yield "closed: the link to the connection is broken", not hasattr(self, "conn")
            return
        if peer is None:
            yield "dialling: nothing is relayed", not (self.quick or self.blocked or self.ended)
            yield "dialling: no pipe", self.pipe is None
            return
        is_waiting = self.conn.shared.poller.is_waiting(self)
        is_held = peer.blocked or is_waiting
        is_clear = not self.blocked and not peer.blocked
        yield "the directions are each other's peers", peer.peer is self and peer.conn is self.conn
        yield "open-quick: nothing is special", not self.quick or (is_clear and self._is_plain())
        yield "peer-full: EPOLLOUT is watched for", not self.blocked or self.watches_writable
        yield "what is kept waits for room or for its turn", not has_kept or is_held
        yield "unread bytes are read", not self.readable or self.eof or is_held
        yield "splicing: the source is not over", self.pipe is None or not self.eof
        yield "source-over: it ends unless held up", not self.eof or self.ended or is_held
        yield "ended: nothing is left of it", not self.ended or (self.eof and not has_kept)
        yield "ended: the other direction goes on", not (self.ended and peer.ended)

    def settle(self) -> None:
        """Find out whether the fast path is good for the next event, on either leg."""
        peer = self.peer
        if peer is not None:
            is_clear = not self.blocked and not peer.blocked
            self.quick = is_clear and self._is_plain()
            peer.quick = is_clear and peer._is_plain()

    def _is_plain(self) -> bool:
        """Nothing waits in this direction, and a short read here means drained."""
        return not self.telltale and not self.eof and self.unsent is None and self.pipe is None

    def _release_pipe(self, pipe: splice.Pipe) -> None:
        self.pipe = None
        self.conn.shared.pipes.give_back(pipe)
