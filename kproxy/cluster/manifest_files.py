"""Manifest files on disk: which there are, what they say, and what to watch to learn of changes.

Blocking file I/O and parsing, made to be called in a thread; no state between calls.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kproxy.cluster import documents
from kproxy.model import admission

EXTENSIONS = frozenset({".json", ".yaml", ".yml"})
"""What is read from a directory; the extensions of `kubectl apply -f DIR`."""

MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read."""

MAX_LINKS = 40
"""How many symbolic links a path may lead through; the kernel's own limit."""


class ManifestFile(NamedTuple):
    """A file to read. `path` is absolute, `shown` the same file in the user's words.

    `root` is the path given by the user that it comes from.
    """

    path: Path
    shown: str
    root: Path


class Signature(NamedTuple):
    """What tells, without reading, that a file has changed. Times are nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Entry(NamedTuple):
    """One object of a file, and the number of the document it stands in."""

    document: int
    admission: admission.Admission


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says. `failure` is "" unless it could not be read or parsed as a whole."""

    signature: Signature | None
    entries: tuple[Entry, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What to watch, and which of the changes seen there matter.

    `directories` are to be watched, without what is below them. They carry device and inode
    because a directory that was removed and made again must be watched anew. `entries` are
    paths that matter by themselves, `contents` directories in which everything does.
    """

    directories: frozenset[tuple[Path, int, int]]
    entries: frozenset[Path]
    contents: frozenset[Path]

    def concerns(self, path: Path) -> bool:
        """Whether a change at `path` can change what the manifests say."""
        return path in self.entries or path in self.contents or path.parent in self.contents


@dataclass(frozen=True, slots=True)
class Scan:
    """One look at all roots.

    `files` are those there are, sorted by path; `readings` those among them that were read,
    being new or changed; `missing` says why a root could not be looked into; `bare` are the
    directories without a manifest.
    """

    files: tuple[ManifestFile, ...]
    readings: Mapping[Path, Reading]
    missing: Mapping[Path, str]
    bare: tuple[Path, ...]
    plan: WatchPlan


def scan(
    roots: Iterable[Path],
    known: Mapping[Path, Signature | None],
    changed: Collection[Path],
    *,
    allow_loopback: bool,
) -> Scan:
    """Look at every root; read what is not `known` by its signature, or said to be `changed`.

    A report of a change counts although the signature is the same: two edits of equal length
    within one tick of the file system's clock leave no other trace.
    """
    found: dict[Path, ManifestFile] = {}
    missing: dict[Path, str] = {}
    bare = []
    for root in roots:
        try:
            listed = _listing(root)
        except OSError as error:
            missing[root] = _reason(error)
            continue
        found.update((file.path, file) for file in listed if file.path not in found)
        if not listed:
            bare.append(root)
    readings: dict[Path, Reading] = {}
    for path in sorted(found):
        if path in known and not _is_changed(path, known[path], changed):
            continue
        try:
            readings[path] = _read(path, allow_loopback=allow_loopback)
        except FileNotFoundError as error:
            gone = found.pop(path)
            if path == _absolute(gone.root):
                missing[gone.root] = _reason(error)
    files = tuple(found[path] for path in sorted(found))
    return Scan(files, readings, missing, tuple(bare), _watch_plan(roots, files))


def _listing(root: Path) -> list[ManifestFile]:
    """The files of a root: itself, or for a directory the manifests in it, not recursively.

    Hidden files are left out, which kubectl does not do: they are what editors leave behind.
    """
    path = _absolute(root)
    if not path.is_dir():
        path.stat()
        return [ManifestFile(path, str(root), root)]
    return [
        ManifestFile(entry, str(root / entry.name), root)
        for entry in path.iterdir()
        if entry.suffix in EXTENSIONS and not entry.name.startswith(".")
    ]


def _absolute(path: Path) -> Path:
    """`path` without "." and "..", its symbolic links kept: they may be changed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute() keeps ".."


def _reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()


def _is_changed(path: Path, known: Signature | None, changed: Collection[Path]) -> bool:
    if path in changed or (changed and Path(os.path.realpath(path)) in changed):
        return True
    try:
        return _signature(path.stat()) != known
    except OSError:
        return known is not None


def _signature(status: os.stat_result) -> Signature:
    return Signature(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def _read(path: Path, *, allow_loopback: bool) -> Reading:
    """Read and judge one file. Raises FileNotFoundError if it has gone meanwhile.

    The signature is taken before reading: what is written meanwhile shows in the next scan.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Reading(_signature(status), failure="not a regular file")
        with path.open("rb") as file:
            signature = _signature(os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        return Reading(None, failure=_reason(error))
    if len(data) > MAX_BYTES:
        return Reading(signature, failure=f"larger than {MAX_BYTES // 2**20} MiB")
    parse = documents.read_json if path.suffix == ".json" else documents.read_yaml
    try:
        return Reading(signature, tuple(_judged(parse(data), allow_loopback=allow_loopback)))
    except documents.MalformedError as error:
        return Reading(signature, failure=str(error))


def _judged(parsed: Iterable[documents.Document], *, allow_loopback: bool) -> Iterator[Entry]:
    for document in parsed:
        if document.flaw:
            yield Entry(document.number, admission.reject(document.value, document.flaw))
            continue
        for admitted in admission.admit(document.value, allow_loopback=allow_loopback):
            yield Entry(document.number, admitted)


def _watch_plan(roots: Iterable[Path], files: Iterable[ManifestFile]) -> WatchPlan:
    """Watch directories, never files: a file replaced by a rename is another inode.

    Every symbolic link on the way to a file counts as well, because that is how a ConfigMap
    volume changes: `web.yaml` leads through `..data`, and `..data` is replaced by a rename.
    """
    entries: set[Path] = set()
    contents: set[Path] = set()
    for root in roots:
        entries.update(_trail(_absolute(root)))
        if root.is_dir():
            contents.add(root.resolve())
    for file in files:
        if file.path.is_symlink():
            entries.update(_trail(file.path))
    directories = set()
    for path in contents | {_existing(entry.parent) for entry in entries}:
        try:
            status = path.stat()
        except OSError:
            continue
        directories.add((path, status.st_dev, status.st_ino))
    return WatchPlan(frozenset(directories), frozenset(entries), frozenset(contents))


def _existing(directory: Path) -> Path:
    """`directory`, or the nearest of its parents that exists."""
    return next((each for each in (directory, *directory.parents) if each.is_dir()), directory)


def _trail(path: Path) -> Iterator[Path]:
    """Whatever decides what an absolute path leads to: every link on the way, and the end.

    Where the way breaks off, what is missing there is the end.
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
        if place.is_symlink():
            yield place
            links += 1
            if links > MAX_LINKS:
                return
            target = place.readlink()
            steps.extend(target.parts[target.is_absolute() :][::-1])
            place = Path(target.anchor) if target.is_absolute() else place.parent
        elif not place.exists():
            break
    yield place
