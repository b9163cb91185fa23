"""A whole run: one scenario after the other, and a report of what was measured."""

import contextlib
import datetime as dt
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kproxy import errors
from kproxy.bench import budget, progress_bar
from kproxy.bench.lab import kernel, machine, processes, recording, rig
from kproxy.bench.load import tools
from kproxy.bench.report import readings, results
from kproxy.bench.scenarios import catalogue
from kproxy.bench.subjects import kproxy_run, peers, subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be measured. `peers` None means those of `peers.DEFAULT` that are installed."""

    size: budget.Budget = budget.FULL
    scenarios: tuple[str, ...] = tuple(catalogue.SCENARIOS)
    peers: tuple[subject.Subject, ...] | None = None
    with_kernel: bool = False
    load_with: tuple[tools.Tool, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(slots=True)
class Run:
    """What has been measured so far; `report` can be asked for at any moment."""

    request: Request
    subjects: list[subject.Subject] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    recordings: list[recording.Recording] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    def prepare(self) -> None:
        """Find the subjects. Raises ConfigError when one that was asked for is not installed."""
        if self.request.with_kernel:
            kernel.check_possible()
        for tool in self.request.load_with:
            try:
                self.versions[tool.name] = tool.version()
            except errors.KproxyError as error:
                raise errors.ConfigError(f"--load: {error}") from error
        chosen = self.request.peers
        wanted = [peers.KNOWN[name] for name in peers.DEFAULT] if chosen is None else chosen
        for each in (peers.ALWAYS[0], kproxy_run.Kproxy(), *wanted, *peers.ALWAYS[1:]):
            try:
                self.versions[each.name] = each.version()
            except errors.KproxyError as error:
                if chosen is not None and each in chosen:
                    raise errors.ConfigError(f"--peers: {error}") from error
                if each.name not in peers.NOT_MISSED:
                    self.warnings.append(f"{each.name} was left out: {error}")
            else:
                self.subjects.append(each)

    def measure(self, console: Console) -> None:
        """Run every scenario, or until Ctrl-C. Ends all processes, and keeps what was measured.

        Raises KproxyError when backends and generators do not come up.
        """
        allow_open_files()
        planned = self.planned_seconds()
        with processes.interruptible():
            try:
                with (
                    tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder,
                    progress_bar.show(console, planned) as shown,
                ):
                    names = readings.listed([readings.label(each.name) for each in self.subjects])
                    shown.note(f"comparing {names}: about {readings.duration(planned)}")
                    for warning in self.warnings:
                        shown.note(warning)
                    self._measure(Path(folder), shown)
            except KeyboardInterrupt:
                processes.end_leftovers()
                self.interrupted = True

    def _measure(self, folder: Path, shown: progress_bar.Progress) -> None:
        request = self.request
        with rig.start(
            self.subjects,
            request.size,
            folder,
            shown,
            self.warnings,
            chosen_tools=request.load_with,
        ) as lab:
            for name in request.scenarios:
                self._carry_out(catalogue.SCENARIOS[name], lab, name, "")
        names = [name for name in request.scenarios if name in catalogue.IN_THE_KERNELS_COMPANY]
        if not (request.with_kernel and names):
            return
        with (
            kernel.namespaces() as topology,
            rig.start(
                kernel.company(self.subjects), request.size, folder, shown, self.warnings, topology
            ) as lab,
        ):
            for name in names:
                where = ", in network namespaces"
                self._carry_out(catalogue.SCENARIOS[name], lab, f"{name}-kernel", where)

    def _carry_out(self, scenario: catalogue.Scenario, lab: rig.Rig, name: str, where: str) -> None:
        into = recording.Recording(name, scenario.title + where, scenario.name)
        self.recordings.append(into)
        scenario.run(lab, into)

    def planned_seconds(self) -> float:
        """What the stages of the run are planned to take in all."""
        size = self.request.size
        every = [catalogue.SCENARIOS[name] for name in self.request.scenarios]
        planned = sum(each.planned(size, self.subjects) for each in every)
        if self.request.with_kernel:
            company = kernel.company(self.subjects)
            planned += sum(
                each.planned(size, company)
                for each in every
                if each.name in catalogue.IN_THE_KERNELS_COMPANY
            )
        return planned

    def scenarios(self) -> tuple[results.Scenario, ...]:
        """What was measured, without scenarios that have nothing yet."""
        order = [results.DIRECT, results.SUBJECT]
        measured = (each.result(order) for each in self.recordings)
        return tuple(s for s in measured if s.figures or s.curves or s.distributions)


def execute(request: Request, console: Console) -> results.Report:
    """Measure what was asked for. Ctrl-C ends the run early, with `interrupted` in the report.

    Raises ConfigError when something that was asked for cannot be had, KproxyError when nothing
    can be measured.
    """
    started = dt.datetime.now(dt.UTC)
    began = time.monotonic()
    run = Run(request)
    run.prepare()
    run.measure(console)
    scenarios = run.scenarios()
    return results.Report(
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        command=request.command,
        machine=machine.this_machine(run.versions),
        scenarios=scenarios,
        warnings=tuple(run.warnings),
        interrupted=run.interrupted,
    )


def allow_open_files() -> None:
    """Raise the soft limit of open files, which children inherit, to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
