"""Relay bytes between a client and a backend: the hot path.

A `Connection` has two `Leg`s, one socket each. A leg is also the *direction* that starts at it:
bytes read from a leg are written to its `peer`. `Leg.on_events` is where every byte passes.

What keeps it both fast and faithful:

- *Try first, wait second.* Bytes are read into one shared buffer and sent at once. Only what the
  peer's socket would not take is kept (`unsent`), and then nothing more is read from the source:
  a connection holds at most one buffer, and the kernel's windows do the rest.
- *A short read means drained*, which saves the read that would give EAGAIN. After EPOLLRDHUP it
  means the end: the kernel sets that flag when all before the FIN is in the receive queue. Urgent
  data (a read stops at its mark) and an error put this in doubt: then reads go on until EAGAIN.
- *Splice for bulk.* A read that fills the buffer switches its direction to splice(2) through a
  borrowed pipe. The pipe is filled only when it is empty: EAGAIN from splice then can only mean
  an empty socket, never a full pipe (sozu 1323 lost that edge in production).
- *Only recv(2) shows the end of a stream*: at an urgent mark splice returns 0 with data queued.
- *FIN rides on the last bytes.* When the end is known before the bytes are sent, they go out
  with MSG_MORE, and shutdown(2) sends them and the FIN in one segment: the peer wakes once.
"""

import _socket
import errno
import select

from kproxy.datapath import poller, splice, syscalls
from kproxy.datapath.tcp import direction, halfclose

READ_SIZE = 65536
_BUDGET = 16
"""Steps (a read, a write or a splice) per event before other connections get their turn."""
_CANNOT_SPLICE = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOMEM, errno.ENOBUFS})
"""Failures of splice(2) that say nothing about the socket: copy instead."""
_BULK = 16384
"""A direction whose splices move less than this goes back to copying."""

# One buffer for the whole process: the data path is single-threaded, and no byte stays in it.
_buffer = bytearray(READ_SIZE)
_view = memoryview(_buffer)
_SMALL = 2048
# Its beginnings, ready-made: slicing a memoryview costs as much as parsing a call's arguments.
_starts = [_view[:count] for count in range(_SMALL)]

_SOL_SOCKET = _socket.SOL_SOCKET
_MSG_MORE = 0x8000
_SHUT_WR = _socket.SHUT_WR
_AFTER_END = halfclose.AFTER_END
_CLOSE = halfclose.CLOSE
_HALF_CLOSE = halfclose.HALF_CLOSE
_CLIENT_CLOSED: halfclose.Reason = halfclose.CLIENT_CLOSED
_BACKEND_CLOSED: halfclose.Reason = halfclose.BACKEND_CLOSED
_IN_DOUBT = poller.URGENT | select.EPOLLERR
_INPUT = poller.READABLE | poller.PEER_CLOSED | poller.URGENT | poller.BROKEN
_TELLTALE = poller.PEER_CLOSED | poller.URGENT | poller.BROKEN
_READABLE = poller.READABLE
_WRITABLE = poller.WRITABLE
_READABLE_AND_WRITABLE = _READABLE | _WRITABLE
_BROKEN = poller.BROKEN
_PEER_CLOSED = poller.PEER_CLOSED
_SO_ERROR = _socket.SO_ERROR
_URGENT = poller.URGENT


class Leg(direction.Direction):
    """One socket of a connection, and the direction of bytes that starts at it.

    Owns `sock` from construction until the connection ends; nothing else may close it.
    """

    __slots__ = ()

    def on_events(self, mask: int) -> None:
        """An edge on this socket: read what came, write what was waiting."""
        # By comparisons: `&` and `not` of integers take five times as long.
        if (mask != _READABLE and mask != _READABLE_AND_WRITABLE) or not self.quick:
            if self.quick and mask & _TELLTALE:
                self._read_announced(mask)
            else:
                self._on_change(mask)
            return
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            self._source_failed()
            return
        if count == 0 or count >= _SMALL:
            self._pass_on_much(count)
            return
        self.moved += count
        peer = self.peer
        try:
            sent = peer.sock.send(_starts[count])  # type: ignore[union-attr]  # quick legs have one
        except BlockingIOError:
            sent = 0
        except OSError:
            peer.destination_failed()  # type: ignore[union-attr]
            return
        if sent != count:
            self.unsent = bytes(_view[sent:count])
            peer.wait_writable()  # type: ignore[union-attr]

    def resume(self) -> None:
        """The budget was spent; go on."""
        if self.peer is not None:
            self.pump()
            self.settle()

    def on_bug(self) -> None:
        """An exception escaped: end the connection, as a reset."""
        if self.fd >= 0:
            self.conn.abort(halfclose.BUG)

    def read_first(self) -> None:
        """Read the client's first bytes into `unsent`, if any came yet. May set eof or failed."""
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            self.eof = self.failed = True
            return
        if not count:
            self.eof = True
            return
        self.moved += count
        self.readable = count == READ_SIZE
        self.unsent = bytes(_starts[count] if count < _SMALL else _view[:count])

    def put_first(self, data: bytes) -> None:
        """Let the dialled server read `data` before the client's first bytes."""
        self.unsent = data if self.unsent is None else data + self.unsent

    def send_first(self, server: syscalls.StreamSocket) -> int:
        """Try the client's first bytes on a dialled socket.

        Returns 0 when `server` took some: so it is connected. EAGAIN: the client is silent so
        far, or the handshake is not over. Otherwise the errno that ended the dial, or, with
        `failed` set, the client.
        """
        if self.unsent is None and not self.eof:
            self.read_first()
        if self.failed:
            return errno.ECONNRESET
        unsent = self.unsent
        if unsent is None:
            return errno.EAGAIN
        try:
            sent = server.send(unsent)
        except OSError as error:
            return error.errno or errno.ECONNREFUSED
        self.unsent = None if sent == len(unsent) else unsent[sent:]
        return 0

    def pump(self) -> None:
        """Move bytes until a socket blocks, the stream ends, or the budget is spent.

        Does nothing while the direction waits for its next budget.
        """
        if self.fd < 0 or self.conn.shared.poller.is_waiting(self):
            return
        for _ in range(_BUDGET):
            peer = self.peer
            if peer is None or peer.blocked:
                return
            if self.unsent is not None:
                self._send_unsent(peer)
            elif self.pipe is not None and self.pipe.filled:
                self._drain_pipe(peer, self.pipe)
            elif self.eof:
                if not self.ended:
                    self._finish(peer)
                return
            elif not self.readable:
                return
            elif self.pipe is not None:
                self._fill_pipe(self.pipe)
            else:
                self._read()
        if self.peer is not None:
            self.conn.shared.poller.resume_later(self)

    def end_here(self) -> None:
        """Pass on an end of this direction that its source has not sent.

        The caller has found it idle. What the source sends from now on goes nowhere.
        """
        self.eof = True
        self.pump()
        self.settle()

    def wait_writable(self) -> None:
        """The socket is full: nothing is written to it until its EPOLLOUT edge."""
        self.blocked = True
        self.quick = False
        assert self.peer is not None
        self.peer.quick = False
        if not self.watches_writable:
            self.watches_writable = True
            self.conn.shared.poller.rearm(self.fd, poller.RELAY_BOTH)

    def destination_failed(self) -> None:
        """A write to this socket failed: its peer is gone, what it would have read is lost.

        What it sent before it went may still be unread here (a server that answers and closes
        without reading the whole request): pass that on, then reset both sides.
        """
        source = self.peer
        assert source is not None
        self.failed = True
        source.discard()
        source.eof = source.ended = True
        self.quick = source.quick = False
        if self.ended:
            self.conn.abort(self.conn.reset_by(self))
            return
        self.telltale |= _BROKEN
        self.readable = True
        self.conn.note_progress()
        self.pump()

    def _on_change(self, mask: int) -> None:
        """An edge that is more than some bytes to pass on, or that meets a leg that is not idle."""
        peer = self.peer
        if peer is None:
            self._note_while_dialling(mask)
            return
        if not self.conn.is_prompt and not mask & _PEER_CLOSED:
            # The client's second message: from now on Nagle's algorithm would hold it back.
            self.conn.make_prompt()
            self.settle()
            if self.quick:
                self.on_events(mask)
                return
        if mask & _WRITABLE and self.blocked:
            self.blocked = False
            peer.pump()
            self.settle()
            if self.peer is None:
                return
        if mask & _INPUT:
            if self.eof or peer.blocked or self.unsent is not None or self.pipe is not None:
                self.telltale |= mask & _TELLTALE
                self._on_input_while_busy(mask)
                self.settle()
            else:
                self._read_announced(mask)

    def _note_while_dialling(self, mask: int) -> None:
        """Remember edges until the backend is connected. A FIN is no abort; a reset is."""
        self.readable = True
        self.telltale |= mask & _TELLTALE
        if mask & _BROKEN:
            self.conn.abort(halfclose.CLIENT_LEFT_DIAL)

    def _on_input_while_busy(self, mask: int) -> None:
        """An edge while the peer is full, a pipe is in use, or reading is over.

        A leg that is not being read would never meet a reset in a system call, so an error
        event is looked up here (the silent-reset leak).
        """
        peer = self.peer
        assert peer is not None
        self.readable = True
        if mask & _BROKEN and self.sock.getsockopt(_SOL_SOCKET, _SO_ERROR):
            # Reading SO_ERROR clears it: from here on recv would report a clean end.
            self.failed = True
            if self.ended:
                self.conn.abort(self.conn.reset_by(self))
                return
            self.conn.note_progress()
        if not peer.blocked:
            self.pump()

    def _read_announced(self, mask: int) -> None:
        """Read what an event with a telltale brought: in most cases the last bytes, or none."""
        self.quick = False
        self.telltale = telltale = self.telltale | mask & _TELLTALE
        peer = self.peer
        assert peer is not None
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            self._source_failed()
            return
        if count == READ_SIZE or not telltale & _PEER_CLOSED or telltale & _IN_DOUBT:
            self._pass_on(count)
            return
        self.eof = True
        if count:
            self.moved += count
            try:
                sent = peer.sock.send(
                    _starts[count] if count < _SMALL else _view[:count], _MSG_MORE
                )
            except BlockingIOError:
                sent = 0
            except OSError:
                peer.destination_failed()
                return
            if sent != count:
                self.unsent = bytes(_view[sent:count])
                peer.wait_writable()
                return
        self._finish(peer)

    def _pass_on_much(self, count: int) -> None:
        """Pass on what the fast path leaves alone: nothing, or a good deal."""
        if not count or count == READ_SIZE:
            self._pass_on(count)
        else:
            self.moved += count
            self._send_buffer(count)

    def _pass_on(self, count: int) -> None:
        """Pass on `count` bytes just read, and then whatever else there may be."""
        self.readable = True
        if not count:
            self.eof = True
            self.quick = False
            self.pump()
            return
        self.moved += count
        if count < READ_SIZE:
            count = self._read_to_end(count)
        self._send_buffer(count)
        peer = self.peer
        if peer is not None and not peer.blocked:
            self.pump()

    def _read(self) -> None:
        """One read into the buffer and one send of it."""
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            self.readable = False
            return
        except OSError:
            self._source_failed()
            return
        if not count:
            self.eof = True
            self.quick = False
            return
        self.moved += count
        if count < READ_SIZE:
            if self.telltale:
                count = self._read_to_end(count)
            else:
                self.readable = False
        self._send_buffer(count)

    def _read_to_end(self, count: int) -> int:
        """Fill the buffer after its first `count` bytes until it is full or the source is empty.

        Finding the end before sending lets the FIN travel with the last bytes.
        """
        recv_into = self.sock.recv_into
        while count < READ_SIZE:
            try:
                more = recv_into(_view[count:])
            except BlockingIOError:
                self.readable = False
                break
            except OSError:
                self.eof = self.failed = True
                break
            if not more:
                self.eof = True
                break
            self.moved += more
            count += more
        return count

    def _send_buffer(self, count: int) -> None:
        """Send the buffer's first `count` bytes; keep what the peer does not take.

        A read that filled the buffer is bulk: the direction changes over to splice.
        """
        peer = self.peer
        assert peer is not None
        last = self.eof and not self.failed
        try:
            sent = peer.sock.send(
                _starts[count] if count < _SMALL else _view[:count], _MSG_MORE if last else 0
            )
        except BlockingIOError:
            sent = 0
        except OSError:
            peer.destination_failed()
            return
        if sent != count:
            self.unsent = bytes(_view[sent:count])
            peer.wait_writable()
        if count == READ_SIZE and not self.eof and not self.telltale & _URGENT:
            self._start_splicing()

    def _send_unsent(self, peer: "Leg") -> None:
        """Offer the kept bytes again."""
        unsent = self.unsent
        assert unsent is not None
        try:
            sent = peer.sock.send(unsent)
        except BlockingIOError:
            peer.wait_writable()
            return
        except OSError:
            peer.destination_failed()
            return
        if sent == len(unsent):
            self.unsent = None
        else:
            self.unsent = unsent[sent:]
            peer.wait_writable()

    def _start_splicing(self) -> None:
        shared = self.conn.shared
        self.quick = False
        self.pipe = shared.pipes.borrow()
        if self.pipe is None:
            shared.counters.splice_fallbacks += 1
        else:
            shared.counters.splices += 1
            if self.pipe.size < splice.PIPE_SIZE:
                shared.counters.small_pipes += 1

    def _fill_pipe(self, pipe: splice.Pipe) -> None:
        """Move bytes from the socket into the empty pipe.

        Anything but bytes is doubt, and recv(2) settles it: 0 may be the urgent mark instead of
        the end, EINVAL a socket that cannot splice. Only EAGAIN without a telltale is sure.
        """
        try:
            count = self.conn.shared.kernel.splice(self.fd, pipe.write_end, pipe.size)
        except BlockingIOError:
            if self.telltale:
                self._release_pipe(pipe)
                return
            self.readable = False
            if pipe.last_fill < _BULK:
                self._release_pipe(pipe)
            return
        except OSError as error:
            self._release_pipe(pipe)
            if error.errno not in _CANNOT_SPLICE:
                self._source_failed()
            return
        if not count:
            self._release_pipe(pipe)
            return
        pipe.filled = pipe.last_fill = count
        self.moved += count

    def _drain_pipe(self, peer: "Leg", pipe: splice.Pipe) -> None:
        """Move the pipe's bytes into the peer's socket; urgent data sends us back to copying."""
        kernel = self.conn.shared.kernel
        try:
            pipe.filled -= kernel.splice(pipe.read_end, peer.fd, pipe.filled)
        except BlockingIOError:
            peer.wait_writable()
            return
        except OSError as error:
            if error.errno in _CANNOT_SPLICE:
                self.unsent = kernel.read_pipe(pipe.read_end, READ_SIZE)
                pipe.filled -= len(self.unsent)
            else:
                peer.destination_failed()
            return
        if not pipe.filled and self.telltale & _URGENT:
            self._release_pipe(pipe)

    def _source_failed(self) -> None:
        """A read failed: the source was reset. Pass on what is kept, then relay the reset."""
        self.eof = self.failed = True
        self.quick = False
        peer = self.peer
        if peer is not None and not peer.blocked:
            self.pump()

    def _finish(self, peer: "Leg") -> None:
        """The direction's last byte has been passed on: relay how it ended."""
        self.ended = True
        conn = self.conn
        action = _AFTER_END[self.failed or peer.failed][peer.ended]
        if action == _CLOSE:
            conn.close()
        elif action == _HALF_CLOSE:
            # The half-closed timeout runs from here.
            conn.progress_at = conn.shared.poller.now
            conn.reason = _CLIENT_CLOSED if self is conn.client else _BACKEND_CLOSED
            try:
                peer.sock.shutdown(_SHUT_WR)
            except OSError:
                peer.destination_failed()
        else:
            conn.abort(conn.reset_by(self if self.failed else peer))
