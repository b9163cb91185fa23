"""What the benchmarks share that measure kproxy beside another program, in turns."""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kproxy import errors
from kproxy.bench.lab import processes
from kproxy.bench.subjects import kproxy_run


@dataclass(frozen=True)
class Figure:
    """What was answered in a second, and CPU seconds of the program for each answer."""

    rate: float
    cost: float


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """Of a benchmark with such a docstring: `--rounds`."""
    made = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=7)
    return made


def run(name: str, measure: Callable[[Path], None]) -> int:
    """Measure in a folder that is removed afterwards; the exit code of `benchmarks.NAME`."""
    try:
        with tempfile.TemporaryDirectory() as folder, processes.interruptible():
            measure(Path(folder))
    except errors.KproxyError as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        return 1
    return 0


def in_turns(
    names: Iterable[str], rounds: int, measure: Callable[[str], Figure]
) -> dict[str, list[Figure]]:
    """The figures of each, one of every round. The order turns round from one to the next."""
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    for number in range(rounds):
        for name in sorted(figures, reverse=bool(number % 2)):
            figures[name].append(measure(name))
    return figures


def medians(found: Sequence[Figure]) -> Figure:
    """Of the rates and of the costs."""
    rates, costs = [each.rate for each in found], [each.cost for each in found]
    return Figure(statistics.median(rates), statistics.median(costs))


@dataclass(frozen=True)
class Ratios:
    """Ours divided by theirs, round by round: above 1, we are better. `cost` is a median."""

    rates: Sequence[float]
    cost: float

    @classmethod
    def of(cls, ours: Sequence[Figure], theirs: Sequence[Figure]) -> "Ratios":
        """Of two that were measured in turns."""
        pairs = list(zip(ours, theirs, strict=True))
        cost = statistics.median(b.cost / a.cost for a, b in pairs)
        return cls([a.rate / b.rate for a, b in pairs], cost)

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> str:
        """The least and the greatest rate, in brackets."""
        return f"({min(self.rates):.2f} to {max(self.rates):.2f})"


def show(name: str, found: Sequence[Figure], unit: str) -> None:
    """Print the medians. `unit` is what is counted."""
    middle = medians(found)
    print(f"  {name:8}{middle.rate:10,.0f} {unit}/s {middle.cost * 1e6:8.2f} us of CPU each")


def show_all(figures: dict[str, list[Figure]], unit: str, other: str) -> None:
    """Print the medians of kproxy and of the other, and kproxy's figures divided by the other's."""
    for name, found in figures.items():
        show(name, found, unit)
    ratios = Ratios.of(figures["kproxy"], figures[other])
    print(f"  ratio   {ratios.rate:10.2f} {ratios.spread}, by CPU time {ratios.cost:.2f}")


def write_objects(file: Path, objects: Sequence[dict[str, Any]]) -> None:
    """A manifest of these."""
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


@contextlib.contextmanager
def kproxy(
    folder: Path, manifests: Path, *flags: str
) -> Iterator[tuple[dict[str, Any], processes.Process]]:
    """kproxy as a user starts it, without ops servers; yields what its ready file says."""
    home = Path(tempfile.mkdtemp(dir=folder))
    ready = home / "ready"
    argv = [*kproxy_run.RUN, "--manifests", str(manifests), "--ready-file", str(ready)]
    argv += ["--allow-loopback-endpoints", "--log-level", "error"]
    argv += ["--healthz-bind-address", "none", "--metrics-bind-address", "none", *flags]
    environment = {"XDG_RUNTIME_DIR": str(home)}
    with processes.start("kproxy", argv, home, environment=environment) as process:
        processes.wait_until(process, ready.exists, "did not say that it is ready")
        yield json.loads(ready.read_text()), process
