"""`python -m kproxy.demo.child PARENT ARGUMENTS…`: `kproxy ARGUMENTS`, for as long as PARENT lives.

The kernel sends this process a SIGTERM when its parent has ended for any reason, so that no proxy
outlives a demonstration that was killed.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, and become `kproxy`."""
    parent = int(sys.argv.pop(1))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before prctl(2)
        sys.exit(1)
    runpy.run_module("kproxy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
