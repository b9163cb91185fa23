"""When the garbage collector may run: not during a sync, and not over what stays anyway."""

import contextlib
import gc
from collections.abc import Iterator

_LARGE_SYNC = 20_000
"""Objects made by a sync from which on they are kept from the garbage collector."""


@contextlib.contextmanager
def collector_waits() -> Iterator[None]:
    """Keep the garbage collector from running until a sync is done.

    A sync makes objects that stay, a million for a Service of 20,000 ports, and walking them holds
    every relay up for 0.2 s. Those of a large sync are not walked later either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > _LARGE_SYNC:
                gc.freeze()
            gc.enable()


def keep_what_exists() -> None:
    """Keep the collector from ever walking the objects of now, and let it run from now on.

    There is no collection before: at 10,000 Services it would hold every relay up.
    """
    gc.freeze()
    gc.enable()
