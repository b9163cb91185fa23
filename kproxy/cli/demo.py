"""`kproxy demo`."""

from typing import Annotated

import typer
from rich import console

from kproxy.cli import event_loop
from kproxy.demo import screen


def demo(
    pace: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=60,
            metavar="SECONDS",
            help="Pause after each step.",
            show_default="2 on a terminal, else 0",
        ),
    ] = None,
) -> None:
    """Start a simulated cluster and the proxy, and show what a Service does.

    Needs neither a cluster nor root. On a terminal it stays up until Ctrl-C.
    """
    out = console.Console(highlight=False)
    shown = screen.Screen(out, (2.0 if out.is_terminal else 0.0) if pace is None else pace)
    shown.say(
        "kproxy demo: a simulated cluster and a service proxy, on this machine alone. "
        "Starting an API server, 3 nodes, 3 pods and the proxy ..."
    )
    # Half a second, during which there is something to read.
    from kproxy.demo import tour  # noqa: PLC0415

    event_loop.run(tour.show(shown, stays=out.is_terminal))
