"""Pipes for splice(2): how bulk bytes cross the proxy without entering user space.

A pipe belongs to one direction of one connection from the first splice until that direction has
drained it. The rule that keeps connections apart: a pipe returns to the pool only when it is
empty; a pipe that still holds bytes at the end of a connection is destroyed (Go's `putPipe`).
"""

from kproxy.datapath import syscalls

PIPE_SIZE = 1 << 20


class Pipe:
    """A kernel pipe lent to one direction. `filled` counts the bytes inside."""

    __slots__ = ("filled", "last_fill", "read_end", "size", "write_end")

    def __init__(self, read_end: int, write_end: int, size: int) -> None:
        self.read_end = read_end
        self.write_end = write_end
        self.size = size
        self.filled = 0
        self.last_fill = 0


class PipePool:
    """Lends pipes; owns every pipe it made, also while lent.

    `limit` bounds how many exist at once (two descriptors each); past it, and whenever the
    kernel refuses another, `borrow` returns None and the caller goes on copying.
    """

    def __init__(self, kernel: syscalls.Kernel, *, limit: int, keep: int = 16) -> None:
        self._kernel = kernel
        self._limit = limit
        self._keep = keep
        self._idle: list[Pipe] = []
        self.lent = 0

    @property
    def idle(self) -> int:
        """Empty pipes waiting to be lent."""
        return len(self._idle)

    def borrow(self) -> Pipe | None:
        """An empty pipe, to be given back with `give_back`; None when there is none to be had."""
        if self._idle:
            self.lent += 1
            return self._idle.pop()
        if self.lent >= self._limit:
            return None
        try:
            pipe = Pipe(*self._kernel.pipe(PIPE_SIZE))
        except OSError:
            return None
        self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """End a loan. A pipe with bytes in it is destroyed: they are another client's data."""
        self.lent -= 1
        if pipe.filled or len(self._idle) >= self._keep:
            self._destroy(pipe)
        else:
            pipe.last_fill = 0
            self._idle.append(pipe)

    def close(self) -> None:
        """Destroy the idle pipes. Lent ones are destroyed as they come back."""
        self._keep = 0
        while self._idle:
            self._destroy(self._idle.pop())

    def _destroy(self, pipe: Pipe) -> None:
        self._kernel.close_fd(pipe.read_end)
        self._kernel.close_fd(pipe.write_end)
