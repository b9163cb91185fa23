"""`kproxy demo`."""

from rich import console

from kproxy.cli import event_loop
from kproxy.demo import tour


def demo() -> None:
    """Start a simulated cluster and the proxy, and show what a Service does.

    Needs neither a cluster nor root. On a terminal it stays up until Ctrl-C.
    """
    event_loop.run(tour.show(console.Console(highlight=False)))
