"""The load generator: processes that carry out plans, and the pool that holds them.

`python -m kproxy.bench.load.loading` is one such process: it reads a `messages.Plan` per line,
answers each with a
`messages.Outcome` (or a `messages.Refusal`), and ends with its stdin. A process lives
for a whole benchmark, so that no figure contains the start of a Python.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.load import closedloop, headroom, messages, openloop, streams

_SLACK = 60.0  # how many times longer than planned a load may take on a slow machine


class Generator:
    """Carries out plans in this process, one after the other, and keeps connections for later
    plans."""

    def __init__(self) -> None:
        self._poll = headroom.Poll()
        self._kind: messages.Kind | None = None
        self._kept: dict[tuple[network.Address, int], list[closedloop.Client]] = {}

    def carry_out(self, plan: messages.Plan) -> messages.Outcome:
        """Raises OSError when the connections that a plan needs cannot be opened."""
        if plan.kind != self._kind or plan.kind == "hold":
            self.release()
        self._kind = plan.kind
        match plan.kind:
            case "connect":
                return closedloop.connect(plan, self._poll)
            case "arrivals":
                return openloop.arrivals(plan, self._poll)
            case "bulk":
                return streams.run(plan)
            case "hold":
                clients = self._kept[plan.target, plan.connections] = closedloop.opened(plan)
                return messages.Outcome(seconds=0.0, done=len(clients))
            case "request":
                return self._over_open_connections(plan, closedloop.request)
            case "rate":
                return self._over_open_connections(plan, openloop.rate)

    def _over_open_connections(
        self, plan: messages.Plan, load: closedloop.Load
    ) -> messages.Outcome:
        clients = self._kept.pop((plan.target, plan.connections), [])
        if len(clients) != plan.connections:
            closedloop.close(clients)
            clients = closedloop.opened(plan)
        outcome, clients = load(plan, clients, self._poll)
        if plan.keep:
            self._kept[plan.target, plan.connections] = clients
        else:
            closedloop.close(clients)
        return outcome

    def release(self) -> None:
        """Close the connections that earlier plans have left open."""
        for clients in self._kept.values():
            closedloop.close(clients)
        self._kept = {}

    def close(self) -> None:
        """Close all connections and the epoll; no plan can be carried out any more."""
        self.release()
        self._poll.close()


class Pool:
    """Running generators. Made by `start`."""

    def __init__(self, children: list[processes.Process]) -> None:
        self._children = children

    @property
    def size(self) -> int:
        return len(self._children)

    def run(self, plan: messages.Plan) -> messages.Outcome:
        """Carry out one plan, divided among all generators; errors as for `run_each`."""
        return messages.merged(self.run_each(divided(plan, self.size)))

    def run_each(self, plans: Sequence[messages.Plan]) -> list[messages.Outcome]:
        """Carry out plans side by side, one per generator, at most `size`.

        Raises KproxyError when a target does not answer, or a generator dies.
        """
        running = list(zip(self._children, plans, strict=False))
        assert len(running) == len(plans)
        for child, plan in running:
            child.send(msgspec.json.encode(plan))
        # Read all answers first: one left in a pipe would be taken for the answer to the next plan.
        answers = [child.answer(_allowance(plan)) for child, plan in running]
        outcomes = []
        for answer, plan in zip(answers, plans, strict=True):
            decoded = _decode(answer)
            if isinstance(decoded, messages.Refusal):
                raise errors.KproxyError(f"{plan.target} does not answer: {decoded.reason}")
            outcomes.append(decoded)
        return outcomes


def _allowance(plan: messages.Plan) -> float:
    return plan.seconds + plan.patience + _SLACK


def _decode(line: bytes) -> messages.Outcome | messages.Refusal:
    if line.startswith(b'{"type":"refused"'):
        return msgspec.json.decode(line, type=messages.Refusal)
    return msgspec.json.decode(line, type=messages.Outcome)


def divided(plan: messages.Plan, count: int) -> list[messages.Plan]:
    """The plan, divided into at most `count` plans."""
    if plan.kind != "arrivals":
        count = min(count, plan.connections)
    shares = [plan.connections * (i + 1) // count - plan.connections * i // count
              for i in range(count)]  # fmt: skip
    return [
        msgspec.structs.replace(
            plan,
            connections=share,
            rate=plan.rate / count,
            begin=plan.begin + i / plan.rate if plan.begin and plan.rate else plan.begin,
            count=-(-plan.count // count),
            size=plan.size * share // max(plan.connections, 1),
        )
        for i, share in enumerate(shares)
    ]


@contextlib.contextmanager
def start(count: int, folder: Path, wrapper: tuple[str, ...] = ()) -> Iterator[Pool]:
    """`count` generators until the context ends; `wrapper` is what runs their command."""
    with contextlib.ExitStack() as stack:
        argv = [*wrapper, sys.executable, "-m", "kproxy.bench.load.loading"]
        children = [
            stack.enter_context(
                processes.start("the load generator", argv, folder, interactive=True)
            )
            for _ in range(count)
        ]
        yield Pool(children)


def default_processes() -> int:
    """How many generators (and backends) leave processors for the proxy between them."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def main() -> int:
    """Carry out plans from stdin until it ends; returns the exit code."""
    generator = Generator()
    gc.disable()  # no cycles are made, and a collection would show in the highest percentiles
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin.buffer:
            plan = msgspec.json.decode(line, type=messages.Plan)
            try:
                answer: messages.Outcome | messages.Refusal = generator.carry_out(plan)
            except OSError as error:
                answer = messages.Refusal(error.strerror or str(error) or type(error).__name__)
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
