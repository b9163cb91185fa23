"""`kproxy demo`: the tour, and the shop."""

from enum import StrEnum
from typing import Annotated

import typer
from rich import console

from kproxy import errors, settings
from kproxy.cli import event_loop
from kproxy.demo import screen

_LONGEST = 3600.0


class Show(StrEnum):
    """What can be shown."""

    TOUR = "tour"
    SHOP = "shop"


def demo(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[tour|shop]",
            help="tour: what a Service does, step by step. shop: a whole application that stays "
            "available while its pods and a proxy die.",
            show_default=False,
            autocompletion=lambda incomplete: [
                each for each in Show if each.startswith(incomplete)
            ],
        ),
    ] = Show.TOUR,
    pace: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="tour: pause after each step.",
            show_default="2s on a terminal, else 0s",
        ),
    ] = None,
    seconds: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="shop: how long it runs.", show_default="60s"),
    ] = None,
    registry: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option(
            "--registry/--no-registry",
            help="shop: then show the same deaths behind a gateway with a registry, for 15 s.",
        ),
    ] = True,
) -> int:
    """Start a simulated cluster and the proxy, and show what they do.

    Needs neither a cluster nor root. On a terminal the tour stays up until Ctrl-C. The shop needs
    nginx, ends by itself, and its exit code is 0 only if no request has failed.
    """
    if name not in list(Show):
        raise errors.ConfigError(f"{name} is no demonstration: there are {', '.join(Show)}")
    out = console.Console(highlight=False)
    if name == Show.SHOP:
        if pace is not None:
            raise errors.ConfigError("--pace is for the tour: the shop has --seconds")
        return _shop(out, seconds, compares=registry)
    if seconds is not None:
        raise errors.ConfigError("--seconds is for the shop: the tour has --pace")
    return _tour(out, pace)


def _tour(out: console.Console, pace: str | None) -> int:
    # FORCE_COLOR makes rich assume a terminal; what goes into a file or a pipe still has to end.
    is_watched = out.is_terminal and out.file.isatty()
    seconds = 2.0 if is_watched else 0.0
    if pace is not None:
        seconds = settings.parse_duration(pace, "--pace", 0, 60)
    shown = screen.Screen(out, seconds)
    shown.say(
        "kproxy demo: a simulated cluster and a service proxy, on this machine alone. "
        "Starting an API server, 3 nodes, 3 pods and the proxy ..."
    )
    # Importing takes half a second: the user has something to read meanwhile.
    from kproxy.demo import tour  # noqa: PLC0415

    event_loop.run(tour.show(shown, stays=is_watched))
    return 0


def _shop(out: console.Console, given: str | None, *, compares: bool) -> int:
    seconds = 60.0 if given is None else settings.parse_duration(given, "--seconds", 3, _LONGEST)
    from kproxy.demo.shop import board, report, shop, tally  # noqa: PLC0415  # see above

    counted = tally.Tally()
    shown = board.Board(out, counted, seconds)
    shown.say(
        "kproxy demo shop: UserMgr and OrderMgr, three pods each, behind Services, an Ingress with "
        "TLS and two nodes with a proxy each."
    )
    shown.say(f"For {seconds:g} s a pod ends each second, and one of the proxies is killed ...")
    shown.say()
    compared = event_loop.run(shop.show(shown, counted, seconds, compares=compares))
    report.show(shown, counted)
    if compared:
        report.compare(shown, compared)
    return int(counted.failed > 0)
