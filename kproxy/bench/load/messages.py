"""The messages between a benchmark and its children: one JSON object per line.

A generator gets a `Plan` and answers with an `Outcome`, again and again until its stdin ends. A
backend gets a `Served` question as an empty line and answers with what it has served so far.
"""

from typing import Literal, TypeAlias

import msgspec

from kproxy.bench.lab import network

Kind: TypeAlias = Literal["connect", "request", "rate", "arrivals", "hold", "bulk"]

Direction: TypeAlias = Literal["down", "up", "both"]

KINDS: tuple[Kind, ...] = ("connect", "request", "rate", "arrivals", "hold", "bulk")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One load. Times are in seconds.

    connect   short connections, `connections` at once, one request each; closed loop
    request   requests over `connections` kept open; closed loop
    rate      `rate` requests per second in all over `connections` kept open; open loop
    arrivals  `rate` new connections per second, one request each; open loop
    hold      `connections` opened, each answered once, and left open
    bulk      `size` bytes per direction over `connections` streams

    What "hold" leaves open is closed by the next plan. With `keep`, "request" and "rate" leave
    their connections open for a plan of the same kind, with as many to the same target; the first
    plan of another kind closes them.

    An open loop does not wait: it begins at `begin` (CLOCK_MONOTONIC; 0 means now), and sends each
    request when it is due, answered or not the one before. A request that is not answered within
    `patience` has failed. `count` ends a closed loop early, after so many operations. The
    connections come from `clients` different addresses (127.77.0.0/16; 0: the
    kernel chooses).
    """

    kind: Kind
    target: network.Address
    seconds: float = 1.0
    connections: int = 64
    rate: float = 0.0
    begin: float = 0.0
    patience: float = 10.0
    count: int = 0
    clients: int = 0
    size: int = 0
    direction: Direction = "down"
    keep: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a plan. `times` are seconds per operation, counted from where its kind says.

    connect, arrivals: from connect(2) (arrivals: from when it was due) to the whole answer.
    request: from send to the whole answer; rate: from when it was due. `failures` counts by
    reason. `busy` is the generator's share of time not spent waiting (see `headroom`).
    """

    seconds: float
    done: int
    times: list[float] = []
    failures: dict[str, int] = {}
    busy: float = 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


class Refusal(msgspec.Struct, frozen=True, tag="refused"):
    """A plan that could not be carried out, in one sentence."""

    reason: str


class Listen(msgspec.Struct, frozen=True):
    """Where a backend listens; it answers a request there `delay` seconds after it came."""

    address: network.Address
    delay: float = 0.0


class Backend(msgspec.Struct, frozen=True):
    """The task of a backend process: answer requests, and serve streams at `bulk`."""

    listen: tuple[Listen, ...]
    bulk: network.Address | None = None


class Served(msgspec.Struct, frozen=True):
    """What a backend process has done since it started.

    `accepted` and `open` count connections by the port they came to. `waited` is the seconds of
    `elapsed` that it spent waiting.
    """

    elapsed: float
    waited: float
    requests: int
    accepted: dict[int, int]
    open: dict[int, int]


def merged(outcomes: list[Outcome]) -> Outcome:
    """The outcomes of generators that ran side by side, as one; `busy` is that of the busiest."""
    failures: dict[str, int] = {}
    for outcome in outcomes:
        for reason, count in outcome.failures.items():
            failures[reason] = failures.get(reason, 0) + count
    return Outcome(
        seconds=max(each.seconds for each in outcomes),
        done=sum(each.done for each in outcomes),
        times=[time for each in outcomes for time in each.times],
        failures=failures,
        busy=max(each.busy for each in outcomes),
    )


def in_a_row(outcomes: list[Outcome]) -> Outcome:
    """The outcomes of loads that ran one after the other, as one; `busy` is that of the busiest."""
    return msgspec.structs.replace(merged(outcomes), seconds=sum(each.seconds for each in outcomes))
