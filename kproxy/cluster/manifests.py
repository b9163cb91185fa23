"""ManifestSource: Services and endpoints from files, followed live.

A bad input costs nothing that was good. A file that cannot be read or parsed as a whole changes
nothing; an invalid object is skipped, or its last good version stays; and when a document breaks
beyond telling its name, what its file no longer gives stays too, since it may be that document's.
What is *validly* gone is gone: a document removed from its file, a file removed from its
directory. But a path that the user named and that vanishes takes nothing along: an unmounted
volume or a half-done deployment is likelier than the wish to serve nothing, which is said by
emptying the file. When two documents describe the same object, the first in the order of paths
and documents is used, and the other is reported.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import watchfiles

from kproxy import errors, metrics
from kproxy.cluster import manifest_files, source, store
from kproxy.model import admission, names

DEBOUNCE_MS = 100
"""Longest wait for a burst of changes to end before it is looked at."""

STEP_MS = 30
"""A burst has ended when nothing has happened for this long; also the watcher's period."""

SETTLE_SECONDS = 0.05
"""A file found broken, or poorer than before, is looked at again after this: it may be being
written, or between an editor's removal and its rename."""

RESCAN_MS = 5_000
"""Without any event, look anyway this often: network file systems tell nothing."""

POLL_SECONDS = 1.0
"""How often to look when nothing can be watched."""


@dataclass(frozen=True, slots=True)
class _Given:
    """An accepted object and the document that gives it."""

    accepted: admission.Accepted
    where: str


@dataclass(frozen=True, slots=True)
class _FileState:
    """What is believed of one file: its good objects, and what is wrong with it.

    `nameless` counts the invalid documents without a name that are known to hide no object.
    """

    file: manifest_files.ManifestFile
    signature: manifest_files.Signature | None
    given: Mapping[admission.Key, _Given] = field(default_factory=dict)
    problems: tuple[source.Problem, ...] = ()
    nameless: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """What one look at the files leads to."""

    files: Mapping[Path, _FileState]
    tables: Mapping[names.Kind, Mapping[names.NamespacedName, admission.Accepted]]
    problems: tuple[source.Problem, ...]
    plan: manifest_files.WatchPlan
    is_doubtful: bool


class ManifestSource:
    """A `source.Source` that reads files and directories.

    Directories are read as by `kubectl apply -f`: *.yaml, *.yml and *.json, not recursively.
    Relative paths are taken from the working directory at the time of reading.

    Raises ConfigError if a path does not exist or is neither a file nor a directory. Problems
    inside files are never raised: they go to `on_problem`.
    """

    def __init__(
        self,
        paths: Collection[str | Path],
        *,
        on_change: source.OnChange,
        on_problem: source.OnProblem,
        allow_loopback: bool = False,
    ) -> None:
        self._roots = tuple(Path(path) for path in paths)
        for root in self._roots:
            _check(root)
        self._on_change = on_change
        self._on_problem = on_problem
        self._allow_loopback = allow_loopback
        self._store = store.Store()
        self._files: Mapping[Path, _FileState] = {}
        self._problems: tuple[source.Problem, ...] = ()
        self._watch_problem: tuple[source.Problem, ...] = ()
        self._has_synced = False
        self._stirred = asyncio.Event()
        self._changed: set[Path] = set()

    @property
    def store(self) -> store.Store:
        """The Store it keeps; read-only to everyone else."""
        return self._store

    @property
    def has_synced(self) -> bool:
        """Whether every file has been read once."""
        return self._has_synced

    def problems(self) -> tuple[source.Problem, ...]:
        """What is wrong at the moment, sorted by file and document."""
        return self._problems

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """None: nothing is listed or watched by API."""
        return ()

    def describe(self) -> str:
        """For instance "manifests from web.yaml, conf.d: 3 files, 12 objects, 1 problem"."""
        given = sum(len(state.given) for state in self._files.values())
        bad = sum(p.severity is not admission.Severity.NOTE for p in self._problems)
        counts = ((len(self._files), "file"), (given, "object"), (bad, "problem"))
        told = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        return f"manifests from {', '.join(map(str, self._roots))}: {told}"

    async def run(self) -> None:
        """Read everything, then follow changes, until cancelled.

        A change is in the Store within 200 ms, unless there is more to parse than that takes.
        Parsing happens in a thread and shares the interpreter lock with the event loop.
        """
        plan = await self._refresh(frozenset())
        while True:
            plan = await self._follow(plan)

    async def _follow(self, plan: manifest_files.WatchPlan) -> manifest_files.WatchPlan:
        """Watch what `plan` says until it is out of date; the plan to go on with."""
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch(plan))
            try:
                # awatch has its inotify watches in place before it first awaits anything; the
                # look that follows finds what happened before they were.
                await asyncio.sleep(0)
                while True:
                    self._stirred.clear()
                    changed, self._changed = frozenset(self._changed), set()
                    newer = await self._refresh(changed)
                    if newer != plan:
                        return newer
                    await self._stirred.wait()
            finally:
                watcher.cancel()

    async def _watch(self, plan: manifest_files.WatchPlan) -> None:
        """Stir whenever something that `plan` concerns has changed, and once in a while."""
        try:
            self._watch_problem = ()
            async for changes in watchfiles.awatch(
                *(directory for directory, _, _ in plan.directories),
                watch_filter=lambda _, path: plan.concerns(Path(path)),
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=RESCAN_MS,
                yield_on_timeout=True,
                recursive=False,
                ignore_permission_denied=True,
            ):
                self._changed.update(Path(path) for _, path in changes)
                self._stirred.set()
        except (OSError, RuntimeError) as error:
            if not isinstance(error, FileNotFoundError):  # else the plan is out of date already
                self._watch_problem = (_unwatched(error),)
            while True:
                self._stirred.set()
                await asyncio.sleep(POLL_SECONDS)

    async def _refresh(self, changed: frozenset[Path]) -> manifest_files.WatchPlan:
        """Look at the files, believe what is to be believed, and tell about it."""
        view = await asyncio.to_thread(self._look, changed)
        if self._has_synced and view.is_doubtful:
            await asyncio.sleep(SETTLE_SECONDS)
            view = await asyncio.to_thread(self._look, changed)
        self._files = view.files
        dirty: frozenset[names.NamespacedName] = frozenset()
        for kind, table in view.tables.items():
            dirty |= self._store.replace(kind, table)
        self._report((*self._watch_problem, *view.problems))
        if dirty or not self._has_synced:
            self._has_synced = True
            self._on_change(dirty)
        return view.plan

    def _look(self, changed: frozenset[Path]) -> _View:
        """Read and compare, in a thread; it changes nothing."""
        before = self._files
        scan = manifest_files.scan(
            self._roots,
            {path: state.signature for path, state in before.items()},
            changed,
            allow_loopback=self._allow_loopback,
        )
        files = _believed(before, scan)
        tables, doubles = _combined(files.values())
        problems = (*_of_roots(scan), *_of_files(files), *doubles)
        return _View(files, tables, problems, scan.plan, _is_doubtful(before, files, scan))

    def _report(self, problems: tuple[source.Problem, ...]) -> None:
        """Tell of each problem that was not there at the last look."""
        before = frozenset(self._problems)
        self._problems = problems
        for problem in problems:
            if problem not in before:
                self._on_problem(problem)


def _check(root: Path) -> None:
    try:
        usable = root.is_dir() or root.is_file()
        root.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise errors.ConfigError(
            f"cannot read manifests from {root}: {reason}; name an existing file or directory"
        ) from None
    if not usable:
        raise errors.ConfigError(
            f"cannot read manifests from {root}: it is neither a regular file nor a directory"
        )


def _unwatched(error: Exception) -> source.Problem:
    reason = str(error) or type(error).__name__
    return source.Problem(
        admission.Severity.WARNING,
        "manifests",
        "",
        f"changes cannot be watched: {reason}",
        f"files are looked at every {POLL_SECONDS:g} s instead",
    )


def _believed(
    before: Mapping[Path, _FileState], scan: manifest_files.Scan
) -> dict[Path, _FileState]:
    """The state of every file after `scan`, sorted by path."""
    after = {}
    for file in scan.files:
        reading = scan.readings.get(file.path)
        old = before.get(file.path)
        after[file.path] = _absorbed(old, file, reading) if reading else before[file.path]
    for path, state in before.items():
        if path not in after and state.file.root in scan.missing:
            after[path] = state
    return dict(sorted(after.items()))


def _absorbed(
    old: _FileState | None, file: manifest_files.ManifestFile, reading: manifest_files.Reading
) -> _FileState:
    """What to believe of a file that has been read, given what was believed before."""
    old = old or _FileState(file, None)
    if reading.failure:
        outcome = "what it gave before stays" if old.given else "nothing is taken from it"
        problem = source.Problem(admission.Severity.ERROR, file.shown, "", reading.failure, outcome)
        return replace(old, file=file, signature=reading.signature, problems=(problem,))
    given: dict[admission.Key, _Given] = {}
    problems = []
    invalid = {entry.admission.key for entry in reading.entries if entry.admission.is_invalid}
    for entry in reading.entries:
        where, admitted = _where(file, entry), entry.admission
        if admitted.accepted and admitted.key:
            accepted = _unchanged(old.given.get(admitted.key), admitted.accepted)
            first = given.setdefault(admitted.key, _Given(accepted, where))
            if first.where != where:
                problems.append(_double(admitted.key, where, first.where))
                continue
        if admitted.finding:
            stays = admitted.is_invalid and admitted.key in old.given
            problems.append(_problem(admitted, admitted.finding, where, stays=stays))
    lost = {key: good for key, good in old.given.items() if key not in given}
    given.update((key, good) for key, good in lost.items() if key in invalid)
    nameless = sum(entry.admission.is_nameless for entry in reading.entries)
    is_suspect = nameless > old.nameless or _ends_in_the_middle(reading, old)
    if is_suspect and not lost.keys() <= given.keys():
        given.update(lost)
        nameless = min(nameless, old.nameless)
        problems.append(_withheld(file, sorted(lost.keys() - invalid)))
    return _FileState(file, reading.signature, given, tuple(problems), nameless)


def _ends_in_the_middle(reading: manifest_files.Reading, old: _FileState) -> bool:
    """Whether the file may have been cut: its last document was good before and is not now.

    YAML that ends after `spec:` is still YAML; what came behind it is not gone, but unwritten.
    """
    if not reading.entries:
        return False
    last = reading.entries[-1].admission
    return last.is_invalid and last.key in old.given


def _unchanged(old: _Given | None, new: admission.Accepted) -> admission.Accepted:
    """The old object in place of an equal new one, so that the Store sees it at a glance."""
    return old.accepted if old and old.accepted == new else new


def _where(file: manifest_files.ManifestFile, entry: manifest_files.Entry) -> str:
    parts = (file.shown, f"document {entry.document}", entry.admission.position)
    return ", ".join(part for part in parts if part)


def _problem(
    admitted: admission.Admission, finding: admission.Finding, where: str, *, stays: bool
) -> source.Problem:
    outcome = "" if admitted.accepted else "skipped"
    if stays:
        outcome = "its last good version stays"
    return source.Problem(finding.severity, where, admitted.subject, finding.text, outcome)


def _withheld(file: manifest_files.ManifestFile, lost: Sequence[admission.Key]) -> source.Problem:
    """Objects are gone, and a document without a name, which may be theirs, has appeared."""
    told = [f"{kind} {name}" for kind, name in lost[: admission.MAX_STATEMENTS]]
    told += [f"{len(lost) - len(told)} more"] if len(lost) > len(told) else []
    return source.Problem(
        admission.Severity.WARNING,
        file.shown,
        "",
        f"{', '.join(told)} may be meant by an invalid document",
        "the last good version stays until that is put right",
    )


def _double(key: admission.Key, where: str, first: str) -> source.Problem:
    return source.Problem(
        admission.Severity.ERROR,
        where,
        f"{key[0]} {key[1]}",
        f"already given by {first}",
        "skipped",
    )


def _combined(
    states: Iterable[_FileState],
) -> tuple[dict[names.Kind, dict[names.NamespacedName, admission.Accepted]], list[source.Problem]]:
    """All objects by kind and name, the first of each winning, and a problem for each other."""
    winners: dict[admission.Key, _Given] = {}
    doubles = []
    for state in states:
        for key, given in state.given.items():
            first = winners.setdefault(key, given)
            if first is not given:
                doubles.append(_double(key, given.where, first.where))
    tables: dict[names.Kind, dict[names.NamespacedName, admission.Accepted]] = {
        kind: {} for kind in names.Kind
    }
    for (kind, name), given in winners.items():
        tables[kind][name] = given.accepted
    return tables, doubles


def _is_doubtful(
    before: Mapping[Path, _FileState],
    after: Mapping[Path, _FileState],
    scan: manifest_files.Scan,
) -> bool:
    """Whether a look shows what a write in progress might: something broken, or something gone."""
    if scan.missing or any(reading.failure for reading in scan.readings.values()):
        return True
    return any(
        path not in after or not state.given.keys() <= after[path].given.keys()
        for path, state in before.items()
    )


def _of_files(files: Mapping[Path, _FileState]) -> list[source.Problem]:
    return [problem for state in files.values() for problem in state.problems]


def _of_roots(scan: manifest_files.Scan) -> list[source.Problem]:
    vanished = [
        source.Problem(
            admission.Severity.ERROR,
            str(root),
            "",
            reason,
            "what it gave before stays until it is back",
        )
        for root, reason in scan.missing.items()
    ]
    bare = [
        source.Problem(
            admission.Severity.NOTE, str(root), "", "no *.yaml, *.yml or *.json file is in it"
        )
        for root in scan.bare
    ]
    return vanished + bare
