"""ManifestSource: Services and endpoints from files, followed live.

`manifest_files` reads, `manifest_state` decides which objects count, `directory_watch` reports when
to look again; here they are put together, and the Store is written. When a path that the user named
vanishes, its objects stay: an unmounted volume or a half-done deployment is likelier than the wish
to serve nothing, for which the user empties the file.

Files are read in threads that may be left behind, so that a file whose reading does not end, or
takes long, holds up neither the other files nor the end of the process.
"""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from kproxy import errors, turns
from kproxy.model import admission
from kproxy.model.kinds import registry
from kproxy.sources import intake, source
from kproxy.sources.documents import document
from kproxy.sources.files import background, directory_watch, manifest_files, manifest_state

STANDARD_INPUT = Path("-")
"""The path that stands for standard input, which is read once."""

SETTLE_SECONDS = 0.01
"""Seconds from the first event to the look at the files: more events often follow."""

RESCAN_SECONDS = 5.0
"""Seconds between looks without any event: network file systems send none."""

MAX_RESCAN_SECONDS = 60.0
"""Longest pause: with thousands of files looks take long, and at most a 300th of the time is spent
on them."""

POLL_SECONDS = 1.0
"""Seconds between two looks when something cannot be watched."""

RETRY_SECONDS = 30.0
"""Seconds between two tries to watch what could not be watched."""

PATIENCE_SECONDS = 0.1
"""A reading that takes longer than this goes on in another thread, beside the others."""

START_PATIENCE_SECONDS = 5.0
"""The same before the first sync, counted from the last sign of progress."""

LISTING_PATIENCE_SECONDS = 5.0
"""A look at a path that takes longer than this is reported, and goes on beside the others. Until it
ends, known files are read only when they change: on a mount that hangs, each would keep a
thread."""

_ABOVE = "directories above"
_INPUT_PIECE = 1024 * 1024
_OPEN_ENDED = float("inf")
_HINTS = {
    errno.EMFILE: "; raise the sysctl fs.inotify.max_user_instances, or ulimit -n",
    errno.ENFILE: "; raise the sysctl fs.file-max",
    errno.ENOSPC: "; raise the sysctl fs.inotify.max_user_watches",
}

_READ_ONCE = source.Problem(
    admission.Severity.NOTE,
    "standard input",
    "",
    "it is read once; what comes later is not followed",
)

_log = structlog.get_logger(__name__)


class ManifestSource(intake.IntakeSource):
    """A `source.Source` that reads files and directories.

    Directories are read as by `kubectl apply -f`: *.yaml, *.yml and *.json, not recursively.
    Relative paths are taken from the working directory at the start, by its name: one that is
    removed and made again is followed. `STANDARD_INPUT` is read once.

    Raises ConfigError if a path does not exist or is neither a file nor a directory. Problems
    inside files are never raised: they go to `on_problem`.
    """

    def __init__(
        self,
        paths: Collection[str | Path],
        *,
        on_problem: source.OnProblem,
        allow_loopback: bool = False,
        kinds: registry.Kinds = registry.KINDS,
    ) -> None:
        self._paths = tuple(dict.fromkeys(Path(path) for path in paths))
        roots = [path for path in self._paths if path != STANDARD_INPUT]
        self._roots = {root: _checked(root) for root in roots}
        super().__init__(intake.Intake(on_problem, allow_loopback=allow_loopback, kinds=kinds))
        self._allow_loopback = allow_loopback
        self._view = manifest_state.NOTHING
        self._listings: dict[Path, manifest_files.Listing] = {}
        self._late_listings: dict[Path, float] = {}
        self._watch_problems: tuple[source.Problem, ...] = ()
        self._stirred = asyncio.Event()
        self._changed: set[Path] = set()

    def describe(self) -> str:
        """For instance "manifests from web.yaml, conf.d: 3 files, 12 objects, 1 problem"."""
        files = self._view.files.values()
        given = sum(len(state.given) for state in files)
        bad = sum(p.severity is not admission.Severity.NOTE for p in self.problems())
        counts = ((len(files), "file"), (given, "object"), (bad, "problem"))
        counted = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        return f"manifests from {', '.join(map(_shown, self._paths))}: {counted}"

    async def run(self) -> None:
        """Read everything, then follow changes, until cancelled.

        A change is in the Store within 200 ms, unless there is more to parse than that takes.
        """
        readers = _Readers(self._stirred.set)
        plan: manifest_files.WatchPlan | None = None
        watch: directory_watch.DirectoryWatch | None = None
        retry_at = _OPEN_ENDED
        try:
            while True:
                self._stirred.clear()
                began = time.monotonic()
                # Watched before read: a write in between gives an event, even one of the same
                # length in the same tick of the file system's clock.
                newer = await self._list(readers)
                has_lost = watch is not None and watch.has_lost
                if newer != plan or has_lost or time.monotonic() >= retry_at:
                    plan, old = newer, watch
                    watch = await self._watch(plan, readers.watches)
                    if old is not None:
                        old.close()
                    is_complete = not self._watch_problems
                    retry_at = _OPEN_ENDED if is_complete else time.monotonic() + RETRY_SECONDS
                    await self._list(readers)
                await self._refresh(readers)
                took = time.monotonic() - began
                await self._wait(readers, min(max(RESCAN_SECONDS, took * 300), MAX_RESCAN_SECONDS))
        finally:
            if watch is not None:
                watch.close()

    def reload(self) -> None:
        """Read every file again, also those that look unchanged."""
        for listing in self._listings.values():
            self._changed |= {file.path for file in listing.files}
        self._stirred.set()

    async def _wait(self, readers: "_Readers", seconds: float) -> None:
        """Return when something has changed, or after `seconds`, or when the next look is due."""
        seconds = POLL_SECONDS if self._watch_problems or readers.late else seconds
        if self._view.again_in is not None:
            seconds = min(seconds, self._view.again_in)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
                await asyncio.sleep(SETTLE_SECONDS)

    async def _watch(
        self, plan: manifest_files.WatchPlan, crew: "background.Crew[list[source.Problem]]"
    ) -> directory_watch.DirectoryWatch | None:
        """Watch the directories of `plan`. Those that cannot be watched are reported, and looked at
        regularly instead."""
        try:
            watch = directory_watch.DirectoryWatch(plan.concerns, self._on_events)
        except OSError as error:
            self._watch_problems = (_unwatched("manifests", error),)
            return None
        directories = sorted(directory for directory, _, _ in plan.directories)
        calls: dict[object, background.Call[list[source.Problem]]] = {
            directory: functools.partial(_add, watch, directory) for directory in directories
        }
        calls[_ABOVE] = functools.partial(_add_above, watch, [path for path, _, _ in plan.above])
        results = await crew.run(calls, PATIENCE_SECONDS, is_gentle=True)
        problems = [problem for found in results.values() for problem in found]
        problems += (
            _unwatched(
                manifest_files.readable(directory),
                TimeoutError(errno.ETIMEDOUT, "it does not answer"),
            )
            for directory in directories
            if directory not in results
        )
        self._watch_problems = tuple(problems)
        return watch

    def _on_events(self, changed: set[Path]) -> None:
        self._changed |= changed
        self._stirred.set()

    async def _list(self, readers: "_Readers") -> manifest_files.WatchPlan:
        """Look which files there are; returns what to watch for changes."""
        calls: dict[object, background.Call[manifest_files.Listing]] = {
            root: functools.partial(_listed, root, path) for root, path in self._roots.items()
        }
        listings = await readers.listings.run(calls, self._patience, is_gentle=self.has_synced)
        plan = manifest_files.WatchPlan()
        for root in self._roots:
            found = listings.get(root)
            if found is None:
                found = self._late_listing(root)
            else:
                self._late_listings.pop(root, None)
            self._listings[root] = found
            plan |= found.plan
        return plan

    def _late_listing(self, root: Path) -> manifest_files.Listing:
        """The listing of `root` to use while a look at it has not ended."""
        old = self._listings.get(root)
        now = time.monotonic()
        late = now - self._late_listings.setdefault(root, now)
        if old is not None and (old.missing or late < LISTING_PATIENCE_SECONDS):
            return old
        text = "looking at it takes long, and goes on beside the others"
        return dataclasses.replace(old or manifest_files.Listing(), missing=text)

    async def _refresh(self, readers: "_Readers") -> None:
        """Read the files, update the Store, and report changes and problems."""
        look = await self._read(readers)
        calls: dict[object, background.Call[manifest_state.View]] = {
            "view": functools.partial(manifest_state.view, self._view, look)
        }
        views = await readers.views.run(calls, _OPEN_ENDED, is_gentle=self.has_synced)
        self._view = views["view"]
        await turns.in_slices(self._take_in(self._view))
        if self.has_synced:
            self._intake.announce()
        else:
            self._intake.complete()

    @property
    def _patience(self) -> float:
        return PATIENCE_SECONDS if self.has_synced else START_PATIENCE_SECONDS

    async def _read(self, readers: "_Readers") -> manifest_state.Look:
        changed, self._changed = frozenset(self._changed), set()
        files: dict[Path, manifest_files.ManifestFile] = {}
        for each in self._listings.values():
            files.update((file.path, file) for file in each.files if file.path not in files)
        before = self._view.files
        calls: dict[object, background.Call[manifest_files.Reading | None]] = {}
        skipped = {
            path
            for path, file in files.items()
            if file.root in self._late_listings and path not in changed
        }
        for path in sorted(files.keys() - skipped):
            state = before.get(path)
            known = state.signature if state and state.doubted is None else None
            calls[path] = functools.partial(
                _read_if_changed,
                path,
                known,
                changed,
                allow_loopback=self._allow_loopback,
                kinds=self._intake.kinds,
            )
        self._add_standard_input(files, calls)
        readings = await readers.files.run(calls, self._patience, is_gentle=self.has_synced)
        found = {path: readings[path] for path in files if path in readings}
        missing = {root: each.missing for root, each in self._listings.items() if each.missing}
        for path, reading in found.items():
            if reading is not None and reading.is_gone:
                gone = files.pop(path)
                if path == self._roots[gone.root]:
                    missing[gone.root] = reading.failure
        return manifest_state.Look(
            [files[path] for path in sorted(files)],
            {path: reading for path, reading in found.items() if reading is not None},
            {path for path in files if path not in readings and path not in skipped},
            missing,
            (
                *self._watch_problems,
                *_of_roots(missing, self._listings),
                *([_READ_ONCE] if STANDARD_INPUT in self._paths else []),
            ),
            time.monotonic(),
        )

    def _add_standard_input(
        self,
        files: dict[Path, manifest_files.ManifestFile],
        calls: "dict[object, background.Call[manifest_files.Reading | None]]",
    ) -> None:
        if STANDARD_INPUT not in self._paths:
            return
        path = STANDARD_INPUT
        files[path] = manifest_files.ManifestFile(path, "standard input", path)
        state = self._view.files.get(path)
        if state is None or state.signature is None:
            calls[path] = functools.partial(
                _standard_input, allow_loopback=self._allow_loopback, kinds=self._intake.kinds
            )
        else:
            calls[path] = lambda _: None

    def _take_in(self, view: manifest_state.View) -> Iterator[None]:
        """Write the view's objects to the Store; report what is wrong and what was edited."""
        for accepted in view.updates:
            self._intake.put(accepted)
            yield
        for key in view.gone:
            self._intake.forget(key)
            yield
        yield from self._intake.note_all(view.problems, view.fresh_problems)
        for change in view.changes if self.has_synced else ():
            _log_edit(change)
            yield


class _Readers:
    """The threads of a running source, for each kind of result."""

    def __init__(self, on_late: background.OnLate) -> None:
        self.listings = background.Crew[manifest_files.Listing](on_late)
        self.files = background.Crew[manifest_files.Reading | None](on_late)
        self.views = background.Crew[manifest_state.View](on_late)
        self.watches = background.Crew[list[source.Problem]](lambda: None)

    @property
    def late(self) -> int:
        """How many looks have not ended in time."""
        return self.listings.late + self.files.late


def _log_edit(change: manifest_state.Change) -> None:
    """Log what an edit did: "web.yaml was edited: 1 Service added, 2 EndpointSlices changed"."""
    parts = [
        f"{count} {kind}{'' if count == 1 or kind.endswith('s') else 's'} {verb}"
        for verb, counts in (
            ("added", change.added),
            ("changed", change.changed),
            ("removed", change.removed),
        )
        for kind, count in counts
    ]
    if parts:
        _log.info(f"{change.shown} was edited: {', '.join(parts)}")
    if change.is_good_again:
        _log.info(f"{change.shown} is good again: every object in it is accepted")


def _add(
    watch: directory_watch.DirectoryWatch, directory: Path, _: document.Pause
) -> list[source.Problem]:
    try:
        watch.add(directory)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the directory is gone: the next look makes another plan
    except OSError as error:
        return [_unwatched(manifest_files.readable(directory), error)]
    return []


def _add_above(
    watch: directory_watch.DirectoryWatch, directories: Sequence[Path], pause: document.Pause
) -> list[source.Problem]:
    """Without these watches a change is only seen later: what cannot be watched is passed over."""
    for each in directories:
        pause()
        with contextlib.suppress(OSError):
            watch.add_above(each)
    return []


def _listed(root: Path, path: Path, _: document.Pause) -> manifest_files.Listing:
    try:
        return manifest_files.listing(root, path)
    except Exception as error:  # a bug with one path must not affect the others
        text = f"looking at it failed: a bug in kproxy ({type(error).__name__})"
        return manifest_files.Listing(missing=text)


def _read_if_changed(
    path: Path,
    known: manifest_files.Signature | None,
    changed: Collection[Path],
    pause: document.Pause,
    *,
    allow_loopback: bool,
    kinds: registry.Kinds,
) -> manifest_files.Reading | None:
    return manifest_files.read_if_changed(
        path, known, changed, pause, allow_loopback=allow_loopback, kinds=kinds
    )


def _standard_input(
    pause: document.Pause, *, allow_loopback: bool, kinds: registry.Kinds
) -> manifest_files.Reading:
    """Everything on standard input, up to a bound.

    By its descriptor: sys.stdin has a lock, and Python aborts if a thread holds it at the end.
    """
    limit = manifest_files.MAX_BYTES
    data = bytearray()
    with contextlib.suppress(OSError):  # closed, or a directory
        while len(data) <= limit and (piece := os.read(0, _INPUT_PIECE)):
            pause()
            data += piece
    signature = manifest_files.Signature(0, 0, len(data), 0, 0)
    if len(data) > limit:
        text = f"larger than {limit // 2**20} MiB"
        return manifest_files.Reading(signature, failure=text)
    if not data.strip():
        return manifest_files.Reading(signature, failure="nothing came on it")
    return manifest_files.judged(
        bytes(data), signature, pause, allow_loopback=allow_loopback, kinds=kinds
    )


def _shown(path: Path) -> str:
    return "standard input" if path == STANDARD_INPUT else manifest_files.readable(path)


def _checked(root: Path) -> Path:
    """The absolute path of `root`. Raises ConfigError if it cannot be read from."""
    try:
        path = manifest_files.absolute(root)
    except FileNotFoundError:
        raise errors.ConfigError(
            f"cannot read manifests from {root}: the working directory has been removed; "
            "change to one that exists, or name an absolute path"
        ) from None
    try:
        usable = path.is_dir() or path.is_file()
        path.stat()
    except OSError as error:
        advice = errors.advice_on_url(root) or "name an existing file or directory"
        raise errors.ConfigError(
            f"cannot read manifests from {root}: {errors.reason(error)}; {advice}"
        ) from None
    if not usable:
        raise errors.ConfigError(
            f"cannot read manifests from {root}: it is neither a regular file nor a directory"
        )
    return path


def _unwatched(where: str, error: OSError) -> source.Problem:
    reason = error.strerror or os.strerror(error.errno or 0)
    hint = _HINTS.get(error.errno or 0, "")
    return source.Problem(
        admission.Severity.WARNING,
        where,
        "",
        f"changes cannot be watched: {reason}{hint}",
        f"files are looked at every {POLL_SECONDS:g} s instead",
    )


def _of_roots(
    missing: Mapping[Path, str], listings: Mapping[Path, manifest_files.Listing]
) -> Iterator[source.Problem]:
    for root, reason in missing.items():
        outcome = "what it gave before stays until it is back"
        yield source.Problem(
            admission.Severity.ERROR, manifest_files.readable(root), "", reason, outcome
        )
    for root, each in listings.items():
        if each.is_bare:
            text = "no *.yaml, *.yml or *.json file is in it"
            where = manifest_files.readable(root)
            yield source.Problem(admission.Severity.NOTE, where, "", text)
