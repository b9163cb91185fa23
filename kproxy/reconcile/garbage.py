"""When the garbage collector may run: not during a sync, nor over long-lived objects."""

import contextlib
import gc
from collections.abc import Iterator

_LARGE_SYNC = 20_000
"""Objects made by a sync from which on they are kept from the garbage collector."""


@contextlib.contextmanager
def collector_waits() -> Iterator[None]:
    """Keep the garbage collector from running until a sync is done.

    A sync makes long-lived objects, a million for a Service of 20,000 ports. The collector would
    walk them and stop every relay for 0.2 s. After a large sync it never walks them.
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
    """Exempt all present objects from collection, and let the collector run from now on.

    No collection runs first: at 10,000 Services it would stop every relay.
    """
    gc.freeze()
    gc.enable()
