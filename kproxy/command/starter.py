"""`python starter.py PARENT FD COMMAND…`: wait for an environment on FD, then become COMMAND.

It is started before the proxy gives up rights and raises limits, so the command has those of the
user. It imports nothing of kproxy: it runs by its path, in a Python without site packages.

The environment comes as execve(2) has it, `NAME=value` with a NUL behind each. FD closed without
one means that the proxy has ended: so does this process. The kernel ends it, and the command that
it becomes, when the proxy's process ends for any reason (PR_SET_PDEATHSIG).
"""

import ctypes
import errno
import os
import signal
import sys
from pathlib import Path

HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that the parent holds back until this process has the handlers of its own."""

NOT_FOUND = 127
NOT_EXECUTABLE = 126
"""Exit codes of a shell that cannot start a command."""

_PR_SET_PDEATHSIG = 1
_PIECE = 65536


def main() -> int:
    """Become the command; the exit code if that is impossible, or if there is no environment."""
    parent, descriptor = int(sys.argv[1]), int(sys.argv[2])
    command = [os.fsencode(word) for word in sys.argv[3:]]
    _reset_signals()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl(2)
        return 0
    environment = _read(descriptor)
    if not environment:
        return 0
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  # what this program is for
    except FileNotFoundError as error:
        return _fail(command[0], error, NOT_FOUND)
    except OSError as error:
        return _fail(command[0], error, NOT_EXECUTABLE)


def _reset_signals() -> None:
    """As this process was started: Python has a handler for SIGINT and ignores two others."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _read(descriptor: int) -> dict[bytes, bytes]:
    pieces = []
    while piece := os.read(descriptor, _PIECE):
        pieces.append(piece)
    os.close(descriptor)
    items = (item.partition(b"=") for item in b"".join(pieces).split(b"\0") if item)
    return {name: value for name, _, value in items}


def _fail(name: bytes, error: OSError, code: int) -> int:
    """Say why the command did not start; `code` is what the process ends with."""
    reason = (error.strerror or str(error)).lower()
    if code == NOT_FOUND and b"/" not in name:
        reason = "command not found"
    elif error.errno == errno.E2BIG:
        reason = (
            "its environment is too long for execve(2), with variables for all Services of its "
            "namespace: use names (--dns, kproxy get hosts), and another --namespace"
        )
    elif code == NOT_FOUND and Path(os.fsdecode(name)).exists():
        reason = "the program that its first line names does not exist"
    sys.stderr.write(f"kproxy: {os.fsdecode(name)}: {reason}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
