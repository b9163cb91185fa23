"""What all scenarios of a run share: the subjects, and running backends and generators."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kproxy.bench import budget, progress_bar
from kproxy.bench.lab import network
from kproxy.bench.load import backend, loading, messages, tools
from kproxy.bench.subjects import subject

ENDPOINTS = 4

SLOW_SECONDS = 0.3
"""How long the slow endpoint takes to answer."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Where clients, subjects and backends are: commands that run others there, and addresses."""

    clients: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    frontend_host: str = "127.97.0.1"
    backend_host: str = "127.0.0.1"


ON_THIS_HOST = Topology()


@dataclass(frozen=True, slots=True)
class Rig:
    """Running backends and generators. Made by `start`; scenarios read it, and add warnings.

    `endpoints` answer requests, `slow` does so after `SLOW_SECONDS`, `bulk` serves streams.
    """

    subjects: Sequence[subject.Subject]
    size: budget.Budget
    place: subject.Place
    generators: loading.Pool
    backends: backend.Backends
    endpoints: tuple[network.Address, ...]
    slow: network.Address
    bulk: network.Address
    shown: progress_bar.Progress
    warnings: list[str]
    tools: Mapping[messages.Kind, tools.Tool]
    """The tool that carries out plans of a kind in place of our generators, if there is one."""

    def concerned(self, scenario: str) -> list[subject.Subject]:
        """The subjects that a scenario measures."""
        return [each for each in self.subjects if each.measures(scenario)]

    def carry_out(self, plan: messages.Plan) -> messages.Outcome:
        """Carry out a plan. Raises KproxyError when it fails as a whole."""
        tool = self.tools.get(plan.kind)
        return tool.run(plan, self.place.folder) if tool else self.generators.run(plan)

    def warn(self, sentence: str) -> None:
        """Show a warning now and in the report; each one once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            self.shown.note(sentence)


@contextlib.contextmanager
def start(
    subjects: Sequence[subject.Subject],
    size: budget.Budget,
    folder: Path,
    shown: progress_bar.Progress,
    warnings: list[str],
    topology: Topology = ON_THIS_HOST,
    *,
    chosen_tools: Sequence[tools.Tool] = (),
) -> Iterator[Rig]:
    """Start backends and generators for a whole run; they are ended with the context.

    Tools take the place of the generators for what they can do; they are for `ON_THIS_HOST`.
    Raises KproxyError when something does not come up.
    """
    *endpoints, slow, bulk = (
        network.Address(topology.backend_host, each.port)
        for each in network.free_addresses(ENDPOINTS + 2)
    )
    spec = messages.Backend(
        (*map(messages.Listen, endpoints), messages.Listen(slow, SLOW_SECONDS)), bulk
    )
    by_kind = {kind: tool for tool in chosen_tools for kind in tool.kinds}
    count = loading.default_processes()
    with contextlib.ExitStack() as stack:
        backends = stack.enter_context(backend.start(spec, count, folder, topology.pods))
        generators = stack.enter_context(loading.start(count, folder, topology.clients))
        if "bulk" in by_kind:
            bulk = stack.enter_context(tools.iperf3_server(folder))
        yield Rig(
            subjects,
            size,
            subject.Place(folder, topology.node, topology.frontend_host),
            generators,
            backends,
            tuple(endpoints),
            slow,
            bulk,
            shown,
            warnings,
            by_kind,
        )
