"""faults: one of four endpoints fails, and what the others' clients notice.

All subjects are loaded at the same time, each at a fixed rate with its arrivals between those of
the others: 50 connections a second are far too few to disturb anybody, and a fault is measured in
the time of one subject instead of all of them. Each fault meets fresh processes.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from kproxy import errors
from kproxy.bench import load, messages, network, recording, rig, rounds, statistics
from kproxy.bench.subjects import subject

FAULTS = {
    "healthy": "all four endpoints are well",
    "blackhole": "one endpoint swallows connection attempts",
    "refused": "one endpoint refuses connections",
    "slow": f"one endpoint answers after {rig.SLOW_SECONDS * 1000:.0f} ms",
    "churn": "an endpoint comes or goes every 100 ms",
}
_PATIENCE = 4.0
_CHURN_EVERY = 0.1
_MILLISECONDS = 1e3
_FILLERS = 8
_CHECK_S = 0.3
_HEAD_START = 0.2  # all generators get their plans before the first connection is due


def faults(lab: rig.Rig, into: recording.Recording) -> None:
    """Connections at a fixed rate while something is wrong: failures, and time to the answer."""
    concerned = lab.concerned(into.name)
    into.note(
        f"{lab.size.faults_rate:g} new connections a second for {lab.size.faults_s:g} s, each from "
        f"when it was due to its answer; none after {_PATIENCE:g} s is a failure."
    )
    with load.start(len(concerned), lab.place.folder) as generators:
        for fault, title in FAULTS.items():
            with (
                lab.shown.stage(
                    f"{into.name}: {title}", seconds(lab.size.faults_s, len(concerned))
                ),
                rounds.warning(lab, f"{into.name}: {fault} was not measured"),
            ):
                able = [each for each in concerned if fault != "churn" or each.measures("churn")]
                _measure(lab, into, fault, able, generators)


def seconds(load_s: float, subjects: int) -> float:
    """What one fault is planned to take."""
    return load_s + _HEAD_START + 0.4 + 0.3 * subjects


def _measure(
    lab: rig.Rig,
    into: recording.Recording,
    fault: str,
    concerned: Sequence[subject.Subject],
    generators: load.Pool,
) -> None:
    with contextlib.ExitStack() as stack:
        endpoints = _endpoints(lab, fault, stack)
        running: dict[str, subject.Running] = {}
        for each in concerned:
            with rounds.warning(lab, f"{into.name}: {each.name} was left out"):
                running[each.name] = stack.enter_context(each.start([endpoints], lab.place))
        if fault == "churn":
            for one in running.values():
                stack.enter_context(_churn(one, endpoints))
        outcomes = _load(lab, generators, list(running.values()))
    for name, outcome in zip(running, outcomes, strict=True):
        _record(lab, into, fault, name, outcome)


def _endpoints(
    lab: rig.Rig, fault: str, stack: contextlib.ExitStack
) -> tuple[network.Address, ...]:
    """Four endpoints, the second of which has the fault."""
    first, second, *others = lab.endpoints
    if fault == "blackhole":
        second = stack.enter_context(black_hole())
    elif fault == "refused":
        second = network.Address(second.host, network.free_port(second.host))
    elif fault == "slow":
        second = lab.slow
    return (first, second, *others)


def _load(
    lab: rig.Rig, generators: load.Pool, running: Sequence[subject.Running]
) -> list[messages.Outcome]:
    rate = lab.size.faults_rate
    first = time.monotonic() + _HEAD_START
    return generators.run_each(
        [
            messages.Plan(
                kind="arrivals",
                target=each.target,
                seconds=lab.size.faults_s,
                rate=rate,
                begin=first + index / len(running) / rate,
                patience=_PATIENCE,
            )
            for index, each in enumerate(running)
        ]
    )


def _record(
    lab: rig.Rig, into: recording.Recording, fault: str, name: str, outcome: messages.Outcome
) -> None:
    into.figure(_kind(fault, "failed", "failures", "connections"), name, 0, outcome.failed)
    if fault == "healthy" and outcome.failures:
        lab.warn(f"{into.name}: {rounds.failures(outcome)} through {name} without any fault")
    times = [time * _MILLISECONDS for time in outcome.times]
    if not times:
        return
    for percent in (50, 90):
        title = "median" if percent == 50 else f"{percent}th percentile"
        value = statistics.percentile(times, percent)
        into.figure(_kind(fault, f"p{percent}", title, "ms"), name, 0, value)
    into.figure(_kind(fault, "max", "longest", "ms"), name, 0, max(times))
    into.samples(recording.DistributionKind(fault, FAULTS[fault], "ms"), name, times)


def _kind(fault: str, name: str, title: str, unit: str) -> recording.FigureKind:
    return recording.FigureKind(f"{fault}_{name}", f"{FAULTS[fault]}: {title}", unit)


@contextlib.contextmanager
def _churn(running: subject.Running, endpoints: Sequence[network.Address]) -> Iterator[None]:
    """While the block lasts, one endpoint after the other leaves and comes back."""
    assert running.change is not None
    change = running.change
    over = threading.Event()

    def churn() -> None:
        turn = 0
        while not over.wait(_CHURN_EVERY):
            gone = endpoints[turn // 2 % len(endpoints)] if turn % 2 == 0 else None
            change([each for each in endpoints if each != gone])
            turn += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def black_hole() -> Iterator[network.Address]:
    """An address whose SYNs the kernel drops: a listener with a full accept queue (Linux).

    Needs no root. The sockets that fill the queue are held, and closed at the end. Raises
    KproxyError when a further connection is answered all the same.
    """
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = network.Address(*listener.getsockname())
        for _ in range(_FILLERS):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003 (the socket's own)
            filler.connect_ex(address)
        time.sleep(0.05)  # the handshakes of those that fit in the queue
        with socket.socket() as probe:
            probe.settimeout(_CHECK_S)
            with contextlib.suppress(TimeoutError):
                probe.connect(address)
                raise errors.KproxyError("a full accept queue does not swallow SYNs here")
        yield address
