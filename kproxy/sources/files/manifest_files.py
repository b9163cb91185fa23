"""Manifest files on disk: which there are, what is in them, and what to watch for changes.

Blocking file I/O and parsing, made to be called in a thread; no state between calls.
"""

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from kproxy import errors
from kproxy.model import admission
from kproxy.model.kinds import registry
from kproxy.sources.documents import document, reading

EXTENSIONS = frozenset({".json", ".yaml", ".yml"})
"""Extensions of the files that are read from a directory, as by `kubectl apply -f DIR`."""

MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read."""

MAX_LINKS = 40
"""How many symbolic links a path may lead through; the kernel's own limit."""

_PIECE = 1024 * 1024


class ManifestFile(NamedTuple):
    """A file to read. `path` is absolute, `shown` the same path as the user gave it.

    `root` is the path given by the user that it comes from.
    """

    path: Path
    shown: str
    root: Path


class Signature(NamedTuple):
    """What shows that a file has changed, without reading it. Times are nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Entry(NamedTuple):
    """One object of a file, and the number and line of the document it stands in.

    `line` is the item's own for an object in a list.
    """

    document: int
    line: int
    admission: admission.Admission


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a file. `failure` is "" unless it could not be read or parsed as a whole.

    `is_gone` says that the file no longer exists. `is_cut` says that the last document
    is malformed, as in a file that is being written.
    """

    signature: Signature | None
    entries: tuple[Entry, ...] = ()
    failure: str = ""
    is_gone: bool = False
    is_cut: bool = False


_Directory: TypeAlias = tuple[Path, int, int]
"""A directory with its device and inode."""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What to watch, and which of the changes seen there matter.

    `directories` are to be watched, without what is below them. They carry device and inode
    because a directory that was removed and made again must be watched anew. `entries` are
    paths that matter by themselves, `contents` directories in which everything does. `above` are
    the directories above all these: one that is moved away takes them along without an event of
    theirs.
    """

    directories: frozenset[_Directory] = frozenset()
    above: frozenset[_Directory] = frozenset()
    entries: frozenset[Path] = frozenset()
    contents: frozenset[Path] = frozenset()

    def concerns(self, path: Path) -> bool:
        """Whether a change at `path` can change what the manifests say."""
        return path in self.entries or path in self.contents or path.parent in self.contents

    def __or__(self, other: "WatchPlan") -> "WatchPlan":
        return WatchPlan(
            self.directories | other.directories,
            self.above | other.above,
            self.entries | other.entries,
            self.contents | other.contents,
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at one root: the manifests there, sorted by path, and what to watch.

    `missing` says why the root could not be read, "" otherwise. `is_bare` says that it is a
    directory without a manifest.
    """

    files: tuple[ManifestFile, ...] = ()
    plan: WatchPlan = WatchPlan()
    missing: str = ""
    is_bare: bool = False


def listing(root: Path, path: Path) -> Listing:
    """The files of a root: itself, or for a directory the manifests in it, not recursively.

    `path` is where the root was when the proxy started, absolute: a relative root leads nowhere
    once the working directory has been removed, even if another one takes its name.
    Hidden files are left out, unlike in kubectl: editors leave them behind.
    """
    files: list[ManifestFile] = []
    links: list[Path] = []
    missing = ""
    is_directory = False
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
        if is_directory:
            shown = readable(root)
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or os.path.splitext(name)[1] not in EXTENSIONS:  # noqa: PTH122
                        continue
                    place = path / name
                    files.append(ManifestFile(place, f"{shown}/{readable(Path(name))}", root))
                    if entry.is_symlink():
                        links.append(place)
        else:
            files.append(ManifestFile(path, readable(root), root))
    except OSError as error:
        missing = errors.reason(error)
    plan = _watch_plan(path, links)
    is_bare = is_directory and not files and not missing
    return Listing(tuple(sorted(files)), plan, missing, is_bare)


def absolute(path: Path) -> Path:
    """`path` without "." and "..", its symbolic links kept: they may be changed.

    Raises FileNotFoundError if `path` is relative and the working directory has been removed.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute() keeps ".."


def readable(path: Path) -> str:
    """A path as it can stand in a log: on one line, in UTF-8, without control characters."""
    return errors.printable(str(path))


def read_if_changed(
    path: Path,
    known: Signature | None,
    changed: Collection[Path],
    pause: document.Pause,
    *,
    allow_loopback: bool,
    kinds: registry.Kinds = registry.KINDS,
) -> Reading | None:
    """The content of the file; None if its signature is that of `known` and it is not in `changed`.

    `kinds` are read. A report of a change counts although the signature is the same: two edits of
    equal length within one tick of the file system's clock leave no other trace.
    """
    if known is not None and not _is_changed(path, known, changed):
        return None
    return read(path, pause, allow_loopback=allow_loopback, kinds=kinds)


def _is_changed(path: Path, known: Signature, changed: Collection[Path]) -> bool:
    if path in changed or (changed and Path(os.path.realpath(path)) in changed):
        return True
    try:
        return _signature(path.stat()) != known
    except OSError:
        return True


def _signature(status: os.stat_result) -> Signature:
    return Signature(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def read(
    path: Path,
    pause: document.Pause,
    *,
    allow_loopback: bool,
    kinds: registry.Kinds = registry.KINDS,
) -> Reading:
    """Read and judge one file; never raises.

    The signature is taken before reading: a write during the reading shows at the next look.
    """
    try:
        found = _contents(path, pause)
    except FileNotFoundError as error:
        return Reading(None, failure=errors.reason(error), is_gone=True)
    except OSError as error:
        return Reading(None, failure=errors.reason(error))
    if isinstance(found, Reading):
        return found
    signature, data = found
    try:
        return judged(data, signature, pause, allow_loopback=allow_loopback, kinds=kinds)
    except Exception as error:  # a bug with one file must not affect the others
        text = f"reading it failed: a bug in kproxy ({type(error).__name__})"
        return Reading(signature, failure=text)


def _contents(path: Path, pause: document.Pause) -> Reading | tuple[Signature, bytes]:
    """The bytes of a regular file that is not too large.

    O_NONBLOCK because opening a pipe waits for a writer, and reading some files of /proc and /sys
    waits for an event.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        signature = _signature(status)
        if not stat.S_ISREG(status.st_mode):
            return Reading(signature, failure="not a regular file")
        pieces: list[bytes] = []
        left = MAX_BYTES + 1
        while left > 0 and status.st_size <= MAX_BYTES:
            pause()
            piece = os.read(fd, min(left, _PIECE))
            if not piece:
                return signature, b"".join(pieces)
            pieces.append(piece)
            left -= len(piece)
        return Reading(signature, failure=f"larger than {MAX_BYTES // 2**20} MiB")
    finally:
        os.close(fd)


def judged(
    data: bytes,
    signature: Signature | None,
    pause: document.Pause,
    *,
    allow_loopback: bool,
    kinds: registry.Kinds = registry.KINDS,
) -> Reading:
    """The content of a file, from its text."""
    entries: list[Entry] = []
    failure = ""
    is_cut = False
    for each in reading.read(data, pause):
        pause()
        is_cut = each.is_malformed
        if is_cut and not failure:
            failure = each.flaw
        admitting = admission.admit_steps(each.value, allow_loopback=allow_loopback, kinds=kinds)
        entries.extend(_admitted(each, admitting, pause, kinds))
    if failure and len(entries) == 1:  # the file holds nothing else
        return Reading(signature, failure=failure, is_cut=True)
    return Reading(signature, tuple(entries), is_cut=is_cut)


def _admitted(
    each: reading.Document,
    admitting: Iterator[admission.Admission | None],
    pause: document.Pause,
    kinds: registry.Kinds,
) -> Iterator[Entry]:
    if each.flaw:
        rejected = admission.reject(each.value, each.flaw, kinds)
        yield Entry(each.number, each.line, rejected)
        return
    index = 0
    for admitted in admitting:
        pause()
        if admitted is None:
            continue
        line = each.item_lines.get(index, each.line) if admitted.position else each.line
        index += 1
        remarked = admission.remarked(admitted, each.remark) if each.remark else admitted
        yield Entry(each.number, line, remarked)


def _watch_plan(root: Path, links: Iterable[Path]) -> WatchPlan:
    """Watch directories, never files: a file replaced by a rename is another inode.

    Every symbolic link on the way to a file counts as well, because that is how a ConfigMap
    volume changes: `web.yaml` leads through `..data`, and `..data` is replaced by a rename.
    `links` are those of the files that are links themselves.
    """
    look = functools.cache(_look)  # thousands of links in a directory share the way to it
    entries = set(_trail(root, look))
    contents: set[Path] = set()
    try:
        if stat.S_ISDIR(root.stat().st_mode):
            contents.add(root.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        pass
    for link in links:
        entries.update(_trail(link, look))
    parents = contents | {_existing(entry.parent) for entry in entries}
    above = {each for path in parents for each in path.parents} - parents
    return WatchPlan(
        frozenset(_identified(parents)),
        frozenset(_identified(above)),
        frozenset(entries),
        frozenset(contents),
    )


def _identified(paths: Iterable[Path]) -> Iterator[_Directory]:
    """Those that are there, with device and inode."""
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            yield path, status.st_dev, status.st_ino


def _existing(directory: Path) -> Path:
    """`directory`, or the nearest of its parents that exists."""
    return next((each for each in (directory, *directory.parents) if each.is_dir()), directory)


def _look(place: Path) -> tuple[Path | None, bool]:
    """Where the link at `place` leads, None if it is none, and whether anything is there."""
    try:
        target = place.readlink()
    except FileNotFoundError:
        return None, False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None, True
    return target, True


def _trail(path: Path, look: Callable[[Path], tuple[Path | None, bool]]) -> Iterator[Path]:
    """The paths that decide what an absolute path leads to: every link on the way, and the end.

    Where the way breaks off, the missing path is the end.
    """
    steps = list(path.parts[1:])[::-1]
    place = Path(path.anchor)
    links = 0
    while steps:
        step = steps.pop()
        if step == "..":
            place = place.parent
            continue
        place /= step
        try:
            target, exists = look(place)
        except OSError:  # not permitted, or replaced meanwhile
            break
        if target is not None:
            yield place
            links += 1
            if links > MAX_LINKS:
                return
            steps.extend(target.parts[target.is_absolute() :][::-1])
            place = Path(target.anchor) if target.is_absolute() else place.parent
        elif not exists:
            break
    yield place
