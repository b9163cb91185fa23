"""The seam between scenarios and what they compare."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from kproxy.bench.lab import network, processes

Services: TypeAlias = Sequence[Sequence[network.Address]]
"""The endpoints of each Service; a subject gives each Service a frontend of its own."""


ONE_ENDPOINT: Final = frozenset({"connect", "request", "bulk", "latency"})
"""Scenarios that need one endpoint only: every subject can take part."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subject runs: a folder for its files, and an address it may listen on.

    `wrapper` runs a command in another network namespace, when there is one.
    """

    folder: Path
    wrapper: tuple[str, ...] = ()
    host: str = "127.97.0.1"

    def frontends(self, count: int) -> tuple[network.Address, ...]:
        """An address for each of `count` frontends: consecutive hosts, one free port."""
        port = network.free_port()
        first = int.from_bytes(map(int, self.host.split(".")))
        hosts = ((first + i).to_bytes(4) for i in range(count))
        return tuple(network.Address(".".join(map(str, host)), port) for host in hosts)


@dataclass(frozen=True, slots=True)
class Running:
    """A started subject: a frontend per Service, and the process to measure.

    `process` is None when nothing of ours stands in between. `change` puts other endpoints
    behind the last Service while it runs; None when the subject cannot do that.
    """

    frontends: tuple[network.Address, ...]
    process: processes.Process | None = None
    change: Callable[[Sequence[network.Address]], None] | None = None

    @property
    def target(self) -> network.Address:
        """The only frontend, or the first of many."""
        return self.frontends[0]

    def usage(self) -> processes.Usage:
        """CPU used so far by the process; none where nothing of ours stands in between."""
        return self.process.usage() if self.process else processes.Usage()


class Subject(Protocol):
    """One column of the result."""

    @property
    def name(self) -> str: ...

    def measures(self, scenario: str) -> bool:
        """Whether the subject takes part in the scenario.

        The part of faults that is called "churn" needs `Running.change`.
        """
        ...

    def start(self, services: Services, place: Place) -> contextlib.AbstractContextManager[Running]:
        """Start a fresh one; it and its children are ended with the context.

        Raises KproxyError when it does not come up.
        """
        ...

    def version(self) -> str:
        """The program and its version; KproxyError when it is not installed."""
        ...


@contextlib.contextmanager
def listening(
    name: str, argv: Sequence[str], frontends: tuple[network.Address, ...], place: Place
) -> Iterator[Running]:
    """Run a program until the context ends, and yield once its last frontend listens."""
    with processes.start(name, [*place.wrapper, *argv], place.folder) as process:
        processes.wait_listening(process, frontends[-1])
        yield Running(frontends, process)
