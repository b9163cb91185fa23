"""What a change to the hot path brought: the working tree and a commit, in turns of 40 ms.

    python -m benchmarks.change [COMMIT] [--rounds N] [--scenario connect|request|bulk]...

COMMIT is HEAD unless given. Each round gives every subject one turn; what is printed is the
geometric mean, over all rounds, of the working tree's figure divided by the other's in the same
round, and its standard error. With 400 rounds that is one to two percent on a shared machine, where
two runs of `kproxy bench` may differ by five. HAProxy takes part when it is installed.

Use a Python that others use (`/usr/bin/python3 -m venv …`): another build is another interpreter.
"""

import argparse
import dataclasses
import math
import statistics as stdlib_statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kproxy import errors
from kproxy.bench import budget, progress_bar, run
from kproxy.bench.lab import recording, rig
from kproxy.bench.report import arithmetic, readings, results
from kproxy.bench.scenarios import catalogue
from kproxy.bench.subjects import kproxy_run, peers, subject

SCENARIOS = ("connect", "request", "bulk")
_TREE = Path(__file__).resolve().parent.parent


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> tuple[float, float]:
    """The geometric mean of the ratios of rounds that both have, and its standard error, relative.

    Raises ValueError when fewer than two rounds have both.
    """
    ratios = arithmetic.measured(arithmetic.ratios(ours, theirs))
    logs = [math.log(each) for each in ratios if each]
    if len(logs) < 2:
        raise ValueError("fewer than two rounds were measured of both")
    error = stdlib_statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(stdlib_statistics.fmean(logs)), error


def lines(scenario: results.Scenario, other: str) -> list[str]:
    """One per figure: its title, kproxy ÷ the other, and the standard error."""
    found = []
    for figure in readings.wholes(scenario):
        ours = readings.rounds_of(figure, results.SUBJECT)
        try:
            value, error = ratio(ours, readings.rounds_of(figure, other))
        except ValueError:
            continue
        found.append(f"{figure.title} ÷ {other}: {value:.3f} ± {error:.3f}")
    return found


def checked_out(commit: str, folder: Path) -> Path:
    """The package as it was at `commit`, below `folder`. Raises KproxyError when git has none."""
    found = _git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    archive = _git("archive", found.decode().strip(), "kproxy")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(_TREE), *arguments], capture_output=True, check=True
        )
    except FileNotFoundError:
        raise errors.KproxyError("git is not installed; it holds the state to compare") from None
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise errors.KproxyError(f"git has no such commit to compare with: {told[-1]}") from None
    return done.stdout


def of_tree(name: str, tree: Path) -> kproxy_run.Kproxy:
    """kproxy from a source tree, in this interpreter with what is installed there."""
    # `python -m` puts the working directory before PYTHONPATH: in a clone, it is another tree.
    environment = ("env", "PYTHONSAFEPATH=1", f"PYTHONPATH={tree}")
    return kproxy_run.Kproxy(name, command=(*environment, *kproxy_run.RUN))


def measure(commit: str, rounds: int, scenarios: Sequence[str], console: Console) -> list[str]:
    """The lines of every scenario. Raises KproxyError when a subject cannot be had."""
    size = dataclasses.replace(
        budget.QUICK, fast_rounds=rounds, rounds=rounds, turns=1, bulk_turns=1
    )
    found = []
    run.allow_open_files()
    with tempfile.TemporaryDirectory(prefix="kproxy-change-") as name:
        folder = Path(name)
        tree = folder / "tree"
        tree.mkdir()
        subjects: list[subject.Subject] = [
            of_tree(results.SUBJECT, _TREE),
            of_tree("before", checked_out(commit, tree)),
        ]
        try:
            peers.KNOWN["haproxy"].version()
        except errors.KproxyError:
            pass
        else:
            subjects.append(peers.KNOWN["haproxy"])
        planned = sum(catalogue.SCENARIOS[each].planned(size, subjects) for each in scenarios)
        with (
            progress_bar.show(console, planned) as shown,
            rig.start(subjects, size, folder, shown, []) as lab,
        ):
            for each in scenarios:
                into = recording.Recording(each, catalogue.SCENARIOS[each].title)
                catalogue.SCENARIOS[each].run(lab, into)
                scenario = into.result([])
                for other in subjects[1:]:
                    found += [f"{each}: {line}" for line in lines(scenario, other.name)]
    return found


def main(arguments: Sequence[str]) -> int:
    """0, or 1 and a sentence."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.change", allow_abbrev=False)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 2:
        parser.error("--rounds: at least 2 are needed to tell an error")
    scenarios = chosen.scenario or SCENARIOS[:2]
    try:
        found = measure(chosen.commit, chosen.rounds, scenarios, Console(stderr=True))
    except errors.KproxyError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
