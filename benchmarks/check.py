"""Has kproxy fallen behind its peers since the run that is recorded in `results/`?

    python -m benchmarks.check [RECORDED.json]

Measures the scenarios of a recorded quick run again, and compares kproxy's ratios to its peers
(`kproxy.bench.report.compare.regressions`), never absolute figures. A figure that seems worse is
measured
a second time: chance errs in one figure out of some dozens, but seldom twice in the same one. Exit
code 1 when a figure is worse in both, 130 after Ctrl-C, 2 when there is nothing to compare with.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from kproxy import errors
from kproxy.bench import budget, run
from kproxy.bench.report import compare, readings, results
from kproxy.bench.scenarios import catalogue

INTERRUPTED = 130
RECORDED = Path(__file__).parent / "results" / "quick.json"


def main(arguments: Sequence[str]) -> int:
    """The exit code; what was found is on stdout."""
    path = Path(arguments[0]) if arguments else RECORDED
    terminal = Console(stderr=True, highlight=False)

    def measure(scenarios: tuple[str, ...]) -> results.Report:
        request = run.Request(size=budget.QUICK, scenarios=scenarios, command=("make bench-check",))
        return run.execute(request, terminal)

    try:
        recorded = results.read(path)
        return judge(recorded, measure, Console(highlight=False))
    except errors.KproxyError as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return error.exit_code


def judge(
    recorded: results.Report,
    measure: Callable[[tuple[str, ...]], results.Report],
    console: Console,
) -> int:
    """Measure the scenarios of `recorded`, those that got worse twice, and tell what is found."""
    scenarios = tuple(each.name for each in recorded.scenarios if each.name in catalogue.SCENARIOS)
    first = measure(scenarios)
    if first.interrupted:
        return INTERRUPTED
    compare.show(recorded, first, console)
    worse = _worse(recorded, first)
    if worse:
        console.print("Measuring again what seems worse.")
        second = measure(tuple(name for name in scenarios if name in {key[0] for key in worse}))
        if second.interrupted:
            return INTERRUPTED
        again = _worse(recorded, second)
        worse = {key: again[key] for key in worse if key in again}
    for change in (each for changes in worse.values() for each in changes):
        before, after = readings.ratio(change.before or 0), readings.ratio(change.after or 0)
        console.print(
            f"worse, twice: {compare.name(change)}: {after} instead of {before}", soft_wrap=True
        )
    if not worse:
        console.print("Beside its peers kproxy is no worse than recorded.")
    return 1 if worse else 0


def _worse(
    recorded: results.Report, report: results.Report
) -> dict[tuple[str, str], list[compare.Change]]:
    """The regressions by scenario and figure."""
    found = compare.regressions(recorded, report)
    return {(changes[0].scenario, changes[0].name): changes for changes in found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
