"""faults: one of four endpoints fails, and what clients notice of it.

All subjects are loaded at the same time, each at a fixed rate with its arrivals between those of
the others: 50 connections a second are far too few to disturb another, and a fault is measured in
the time of one subject instead of all of them. Each round starts fresh processes, in which each
fault has its own Service.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from kproxy import errors
from kproxy.bench.lab import network, recording, rig, rounds
from kproxy.bench.load import loading, messages
from kproxy.bench.report import arithmetic
from kproxy.bench.subjects import subject

FAULTS = {
    "healthy": "all four endpoints answer",
    "blackhole": "one endpoint swallows connection attempts",
    "refused": "one endpoint refuses connections",
    "slow": f"one endpoint answers after {rig.SLOW_SECONDS * 1000:.0f} ms",
    "churn": "an endpoint comes or goes every 100 ms",  # the last: `Running.change` is for that one
}
_PATIENCE = 4.0
_CHURN_EVERY = 0.1
_MILLISECONDS = 1e3
_FILLERS = 8
_CHECK_S = 0.3
_HEAD_START = 0.1  # all generators get their plans before the first connection is due
_LAST_ANSWERS = {"blackhole": 1.0, "slow": rig.SLOW_SECONDS}  # seconds, after the last arrival


def faults(lab: rig.Rig, into: recording.Recording) -> None:
    """Connections at a fixed rate while something is wrong: failures, and time to the answer."""
    into.note(
        f"{lab.size.faults_rate:g} new connections a second for {lab.size.faults_s:g} s, each from "
        f"when it was due to its answer; none after {_PATIENCE:g} s is a failure, "
        "and is in none of the times."
    )
    tried: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()

    def record(fault: str, name: str, outcome: messages.Outcome, number: int) -> None:
        _record(into, fault, name, number, outcome)
        tried[fault, name] += outcome.done + outcome.failed
        failed[fault, name] += outcome.failed
        if fault == "healthy" and outcome.failures:
            reasons = rounds.failures(outcome)
            lab.warn(f"{into.name}: {reasons} through {name} without any fault")

    concerned = lab.concerned(into.name)
    with loading.start(len(concerned), lab.place.folder) as generators:
        for number in range(lab.size.slow_rounds):
            _round(lab, into, number, concerned, generators, record)
    for (fault, name), count in failed.items():
        if count:
            what = FAULTS[fault][:1].upper() + FAULTS[fault][1:]
            into.note(f"{what}: {count} of {tried[fault, name]} failed through {name}.")


def seconds(load_s: float, subjects: int) -> float:
    """What one round is planned to take."""
    return subjects * rounds.START_S + sum(_fault_seconds(fault, load_s) for fault in FAULTS)


def _fault_seconds(fault: str, load_s: float) -> float:
    return _HEAD_START + load_s + _LAST_ANSWERS.get(fault, 0.0)


def _round(
    lab: rig.Rig,
    into: recording.Recording,
    number: int,
    concerned: Sequence[subject.Subject],
    generators: loading.Pool,
    record: Callable[[str, str, messages.Outcome, int], None],
) -> None:
    """Start fresh processes, and record what each fault does to them."""
    of_all = f"round {number + 1} of {lab.size.slow_rounds}"
    with contextlib.ExitStack() as stack:
        services = _services(lab, into, stack)
        running: dict[str, subject.Running] = {}
        for each in concerned:
            with (
                lab.shown.stage(f"{into.name}: starting {each.name}, {of_all}", rounds.START_S),
                rounds.warning(lab, f"{into.name}: {each.name} was left out"),
            ):
                start = each.start(list(services.values()), lab.place)
                running[each.name] = stack.enter_context(start)
        names = {each.name for each in concerned if each.measures("churn")}
        for place, (fault, endpoints) in enumerate(services.items()):
            able = {k: v for k, v in running.items() if fault != "churn" or k in names}
            planned = _fault_seconds(fault, lab.size.faults_s)
            with (
                lab.shown.stage(f"{into.name}: {FAULTS[fault]}, {of_all}", planned),
                rounds.warning(lab, f"{into.name}: {fault} was not measured"),
                contextlib.ExitStack() as churning,
            ):
                if fault == "churn":
                    for one in able.values():
                        churning.enter_context(_churn(one, endpoints))
                targets = [one.frontends[place] for one in able.values()]
                for name, outcome in zip(able, _load(lab, generators, targets), strict=True):
                    record(fault, name, outcome, number)


def _services(
    lab: rig.Rig, into: recording.Recording, stack: contextlib.ExitStack
) -> dict[str, tuple[network.Address, ...]]:
    """For each fault that can be provoked here four endpoints, the second of which has it."""
    first, second, *others = lab.endpoints
    at_fault = {
        "healthy": second,
        "refused": network.Address(second.host, network.free_port(second.host)),
        "slow": lab.slow,
        "churn": second,
    }
    with rounds.warning(lab, f"{into.name}: blackhole was not measured"):
        at_fault["blackhole"] = stack.enter_context(black_hole())
    return {fault: (first, at_fault[fault], *others) for fault in FAULTS if fault in at_fault}


def _load(
    lab: rig.Rig, generators: loading.Pool, targets: Sequence[network.Address]
) -> list[messages.Outcome]:
    rate = lab.size.faults_rate
    first = time.monotonic() + _HEAD_START
    return generators.run_each(
        [
            messages.Plan(
                kind="arrivals",
                target=target,
                seconds=lab.size.faults_s,
                rate=rate,
                begin=first + index / len(targets) / rate,
                patience=_PATIENCE,
            )
            for index, target in enumerate(targets)
        ]
    )


def _record(
    into: recording.Recording, fault: str, name: str, number: int, outcome: messages.Outcome
) -> None:
    times = [time * _MILLISECONDS for time in outcome.times]
    if times:
        for percent in (50, 90):
            title = "median" if percent == 50 else f"{percent}th percentile"
            value = arithmetic.percentile(times, percent)
            into.figure(_kind(fault, f"p{percent}", title, "ms"), name, number, value)
        into.figure(_kind(fault, "max", "longest", "ms"), name, number, max(times))
        into.samples(recording.DistributionKind(fault, FAULTS[fault], "ms"), name, times)
    into.figure(_kind(fault, "failed", "failures", "connections"), name, number, outcome.failed)


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
    KproxyError when a further connection is answered nevertheless.
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
