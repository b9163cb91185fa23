"""Lifeline: a group of processes that ends with this one, however this one ends.

A death signal (PR_SET_PDEATHSIG) would reach nginx's master alone, and its workers would live on.
A pipe whose reading end asks for signals (O_ASYNC) reaches all of them: when the last writer has
closed it, as the kernel does for a process that is gone, the kernel sends the signal that F_SETSIG
names to the group that F_SETOWN names. The group keeps the reading end open and knows nothing of
it.
"""

import fcntl
import os
import signal

_F_SETSIG = 10
"""`fcntl` has no name for it (include/uapi/asm-generic/fcntl.h)."""


class Lifeline:
    """One pipe. Make it, start the processes with `descriptor`, then `tie` them."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        self._is_tied = False

    @property
    def descriptor(self) -> int:
        """What the processes must inherit."""
        return self._reading

    def tie(self, group: int) -> None:
        """Kill every process of `group` that has inherited the descriptor once this one ends."""
        fcntl.fcntl(self._reading, fcntl.F_SETOWN, -group)
        fcntl.fcntl(self._reading, _F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(self._reading, fcntl.F_GETFL)
        fcntl.fcntl(self._reading, fcntl.F_SETFL, flags | os.O_ASYNC)
        os.close(self._reading)
        self._is_tied = True

    def cut(self) -> None:
        """Kill what is left of the group, and close the pipe. A second call does nothing."""
        if self._writing < 0:
            return
        if not self._is_tied:
            os.close(self._reading)
        os.close(self._writing)
        self._writing = -1
