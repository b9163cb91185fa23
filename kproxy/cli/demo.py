"""`kproxy demo`."""

import gc
from typing import Annotated

import typer
from rich import console

from kproxy import settings
from kproxy.cli import event_loop
from kproxy.demo import screen


def demo(
    pace: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Pause after each step.",
            show_default="2s on a terminal, else 0s",
        ),
    ] = None,
) -> None:
    """Start a simulated cluster and the proxy, and show what a Service does.

    Needs neither a cluster nor root. On a terminal it stays up until Ctrl-C.
    """
    out = console.Console(highlight=False)
    seconds = 2.0 if out.is_terminal else 0.0
    if pace is not None:
        seconds = settings.parse_duration(pace, "--pace", 0, 60)
    shown = screen.Screen(out, seconds)
    shown.say(
        "kproxy demo: a simulated cluster and a service proxy, on this machine alone. "
        "Starting an API server, 3 nodes, 3 pods and the proxy ..."
    )
    # Importing takes half a second: the user has something to read meanwhile.
    from kproxy.demo import tour  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    event_loop.run(tour.show(shown, stays=out.is_terminal))
