"""Which objects manifest files give: decisions without effects, made to be called in a thread.

A bad input removes nothing that was good. A file that cannot be read changes nothing. An invalid
object is skipped, or its last good version stays. If a document is so broken that its name cannot
be read, objects that its file no longer gives stay too, since the document may be one of them. A
document removed from its file, or a file removed from its directory, removes its objects. When two
documents describe the same object, the first in the order of paths and documents is used, and
the other is reported.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kproxy.model import admission, allocation, names
from kproxy.model.kinds import endpoints, registry, services
from kproxy.sources import source
from kproxy.sources.documents import document
from kproxy.sources.files import manifest_files, ownerless

MAX_PROBLEMS = 100
"""How many problems of one file are listed; the rest are counted."""

EMPTY_SECONDS = 1.5
"""An emptied file counts as empty after this: `helm template > file` empties it first."""

LATE_SECONDS = 1.0
"""A file whose reading takes longer than this is reported as read beside the others."""

SHRUNK_SECONDS = 0.5
"""A file that gives less than half as many objects as before counts after this."""

Table = Mapping[names.NamespacedName, admission.Accepted]


@dataclass(frozen=True, slots=True)
class Given:
    """An accepted object and the document that gives it."""

    accepted: admission.Accepted
    where: str


@dataclass(frozen=True, slots=True)
class FileState:
    """What is in force of one file: its good objects, and its problems.

    `nameless` counts the invalid documents without a name that are known to hide no object.
    `doubted` is since when (on the monotonic clock) the file has given much less than it did,
    None if it does not: while that is recent, what it gave before stays in force. `late` is
    since when its reading has been late, None if it is not.
    """

    file: manifest_files.ManifestFile
    signature: manifest_files.Signature | None = None
    given: Mapping[admission.Key, Given] = field(default_factory=dict)
    problems: tuple[source.Problem, ...] = ()
    nameless: int = 0
    doubted: float | None = None
    late: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit of a file changed, for the log. `is_good_again`: its problems are gone."""

    shown: str
    added: tuple[tuple[str, int], ...] = ()
    changed: tuple[tuple[str, int], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    is_good_again: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The result of one look at the files.

    `updates` are the objects that are new or different, `gone` those that no longer exist.
    `fresh_problems` are those of `problems` that were not there before. `again_in` says in how many
    seconds to look again although nothing changes, None if that is not needed.
    """

    files: Mapping[Path, FileState]
    tables: Mapping[str, Table]
    updates: tuple[admission.Accepted, ...]
    gone: tuple[admission.Key, ...]
    problems: tuple[source.Problem, ...]
    fresh_problems: tuple[source.Problem, ...]
    changes: tuple[Change, ...]
    again_in: float | None
    of_look: tuple[source.Problem, ...] = ()
    """The `problems` that the last look itself had, such as an unreadable directory."""


NOTHING = View({}, {}, (), (), (), (), (), None)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: files sorted by path, and the content of each that was read.

    `late` are those whose reading has not ended; `lost_roots` say why a root that the user
    named could not be looked into; `problems` are of no file.
    """

    files: Sequence[manifest_files.ManifestFile]
    readings: Mapping[Path, manifest_files.Reading]
    late: Collection[Path]
    lost_roots: Collection[Path]
    problems: tuple[source.Problem, ...]
    now: float


def view(before: View, look: Look, pause: document.Pause) -> View:
    """The view after a look, and how it differs from the one before."""
    files = _believed(before.files, look)
    if before.again_in is None and before.of_look == look.problems and _are(files, before.files):
        # The usual case: at 10,000 Services, combining them anew every few seconds costs 1 % CPU.
        return replace(before, updates=(), gone=(), fresh_problems=(), changes=())
    tables, doubles = _combined(files.values(), pause)
    places = {key: given.where for state in files.values() for key, given in state.given.items()}
    completed, notes = _completed(tables, places, pause)
    tables[services.Service.kind] = completed
    updates = []
    gone = []
    for kind in dict.fromkeys((*tables, *before.tables)):
        table, old = tables.get(kind, {}), before.tables.get(kind, {})
        for name, accepted in table.items():
            pause()
            if old.get(name) is not accepted and old.get(name) != accepted:
                updates.append(accepted)
        gone += [(kind, name) for name in old if name not in table]
    reported = [problem for state in files.values() for problem in state.problems]
    quiet = frozenset(problem.where for problem in reported)
    notes += ownerless.notes(tables, places, quiet, MAX_PROBLEMS, pause)
    problems = (*look.problems, *reported, *notes, *doubles)
    known = frozenset(before.problems)
    deadlines = [
        state.doubted + _patience_with(state) - look.now
        for state in files.values()
        if state.doubted is not None
    ]
    return View(
        files=files,
        tables=tables,
        updates=tuple(updates),
        gone=tuple(gone),
        problems=problems,
        fresh_problems=tuple(problem for problem in problems if problem not in known),
        changes=tuple(_changes(before.files, files)),
        again_in=max(min(deadlines), 0.01) if deadlines else None,
        of_look=look.problems,
    )


def _are(files: Mapping[Path, FileState], others: Mapping[Path, FileState]) -> bool:
    """Whether the states of all files are the very same."""
    return files.keys() == others.keys() and all(
        state is others[path] for path, state in files.items()
    )


def _patience_with(state: FileState) -> float:
    is_empty = state.signature is None or state.signature.size == 0
    return EMPTY_SECONDS if is_empty else SHRUNK_SECONDS


def _believed(before: Mapping[Path, FileState], look: Look) -> dict[Path, FileState]:
    """The state of every file after `look`, sorted by path."""
    after = {}
    for file in look.files:
        old = before.get(file.path)
        reading = look.readings.get(file.path)
        if reading is not None:
            after[file.path] = _absorbed(old, file, reading, look.now)
        elif file.path in look.late:
            after[file.path] = _late(old, file, look.now)
        else:
            after[file.path] = (
                replace(old, late=None) if old and old.late else old or FileState(file)
            )
    for path, state in before.items():
        if path not in after and state.file.root in look.lost_roots:
            after[path] = state
    return dict(sorted(after.items()))


def _late(old: FileState | None, file: manifest_files.ManifestFile, now: float) -> FileState:
    state = replace(old or FileState(file), signature=None)
    if old is not None and (old.late is None or now - old.late < LATE_SECONDS):
        return replace(state, late=now if old.late is None else old.late)
    outcome = "what it gave before stays" if state.given else "nothing is taken from it yet"
    text = "reading it takes long, and goes on beside the others"
    problem = source.Problem(admission.Severity.WARNING, state.file.shown, "", text, outcome)
    since = now - LATE_SECONDS if old is None else old.late
    return replace(state, problems=(problem,), late=since)


def _absorbed(
    old: FileState | None,
    file: manifest_files.ManifestFile,
    reading: manifest_files.Reading,
    now: float,
) -> FileState:
    """The state of a file that has been read, given its state before."""
    old = old or FileState(file)
    if reading.failure:
        outcome = "what it gave before stays" if old.given else "nothing is taken from it"
        problem = source.Problem(admission.Severity.ERROR, file.shown, "", reading.failure, outcome)
        return replace(
            old,
            file=file,
            signature=reading.signature,
            problems=(problem,),
            doubted=None,
            late=None,
        )
    given: dict[admission.Key, Given] = {}
    problems = []
    invalid = {entry.admission.key for entry in reading.entries if entry.admission.is_invalid}
    for entry in reading.entries:
        where, admitted = _where(file, entry), entry.admission
        if admitted.accepted and admitted.key:
            accepted = _unchanged(old.given.get(admitted.key), admitted.accepted)
            first = given.setdefault(admitted.key, Given(accepted, where))
            if first.where != where:
                problems.append(_double(admitted.key, where, first.where))
                continue
        if admitted.finding:
            stays = admitted.is_invalid and admitted.key in old.given
            problem = source.problem_of(admitted, admitted.finding, where, stays=stays)
            problems.append(problem)
    lost = {key: good for key, good in old.given.items() if key not in given}
    given.update((key, good) for key, good in lost.items() if key in invalid)
    nameless = sum(entry.admission.is_nameless for entry in reading.entries)
    is_suspect = nameless > old.nameless or _ends_in_the_middle(reading, old)
    if is_suspect and not lost.keys() <= given.keys():
        given.update(lost)
        nameless = min(nameless, old.nameless)
        problems.append(_withheld(file, sorted(lost.keys() - invalid)))
    made = FileState(file, reading.signature, given, _capped(file, problems), nameless)
    if len(given) * 2 >= len(old.given):
        return made
    doubted = now if old.doubted is None else old.doubted
    if now - doubted >= _patience_with(made):
        return made
    # Nothing else is taken over yet, and the file is read again at the next look.
    return replace(old, file=file, doubted=doubted, signature=made.signature, late=None)


def _capped(
    file: manifest_files.ManifestFile, problems: Sequence[source.Problem]
) -> tuple[source.Problem, ...]:
    """`problems`, the worst first to stay if there are too many to list."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    by_severity = list(admission.Severity)
    worst = sorted(problems, key=lambda each: by_severity.index(each.severity))[:MAX_PROBLEMS]
    more = len(problems) - MAX_PROBLEMS
    severity = admission.Severity(worst[0].severity)
    rest = source.Problem(severity, file.shown, "", f"{more} more findings are not listed")
    return (*worst, rest)


def _ends_in_the_middle(reading: manifest_files.Reading, old: FileState) -> bool:
    """Whether the file may have been cut: its last document was good before and is not now.

    YAML that ends after `spec:` is still YAML; the rest may not be written yet.
    """
    if not reading.entries:
        return False
    last = reading.entries[-1].admission
    return reading.is_cut or (last.is_invalid and last.key in old.given)


def _unchanged(old: Given | None, new: admission.Accepted) -> admission.Accepted:
    """The old object in place of an equal new one, so that the Store compares identities only."""
    return old.accepted if old and old.accepted == new else new


def _where(file: manifest_files.ManifestFile, entry: manifest_files.Entry) -> str:
    parts = (f"document {entry.document}", entry.admission.position)
    return ", ".join((f"{file.shown}:{entry.line}", *(part for part in parts if part)))


def _withheld(file: manifest_files.ManifestFile, lost: Sequence[admission.Key]) -> source.Problem:
    """The problem when objects are gone and a document without a name, which may be one of them,
    has appeared."""
    named = [f"{kind} {name}" for kind, name in lost[: admission.MAX_STATEMENTS]]
    named += [f"{len(lost) - len(named)} more"] if len(lost) > len(named) else []
    return source.Problem(
        admission.Severity.WARNING,
        file.shown,
        "",
        f"{', '.join(named)} may be meant by an invalid document",
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
    states: Iterable[FileState], pause: document.Pause
) -> tuple[dict[str, Table], list[source.Problem]]:
    """All objects by kind and name, the first of each winning, and a problem for each other."""
    winners: dict[admission.Key, Given] = {}
    doubles: list[source.Problem] = []
    for state in states:
        mine = []
        for key, given in state.given.items():
            pause()
            first = winners.setdefault(key, given)
            if first is not given:
                mine.append(_double(key, given.where, first.where))
        doubles += _capped(state.file, mine)
    tables: dict[str, dict[names.NamespacedName, admission.Accepted]] = {}
    for (kind, name), given in winners.items():
        pause()
        tables.setdefault(kind, {})[name] = given.accepted
    return dict(tables), doubles


def _completed(
    tables: Mapping[str, Table], places: Mapping[admission.Key, str], pause: document.Pause
) -> tuple[Table, list[source.Problem]]:
    """The Services with the cluster IPs and node ports that kube-apiserver would allocate."""
    table = tables.get(services.Service.kind, {})
    kept = [each for each in table.values() if isinstance(each, services.Service)]
    wanting = [each for each in kept if each.wants_cluster_ip]
    wanting_ports = {
        names.ServicePortName(each.name, port.name, port.protocol)
        for each in kept
        if each.wants_node_ports
        for port in each.ports
        if not port.node_port
    }
    if not wanting and not wanting_ports:
        return table, []
    ips = allocation.cluster_ips(
        [each.name for each in wanting], _addresses_in_use(tables, pause), pause
    )
    taken = {
        (port.protocol, port.node_port) for each in kept for port in each.ports if port.node_port
    }
    ports = allocation.node_ports(wanting_ports, taken)
    made: dict[names.NamespacedName, admission.Accepted] = dict(table)
    notes = []
    for each in kept:
        completed = _complete(each, ips.get(each.name, ""), ports)
        if completed != each:
            made[each.name] = completed
        text = _allocated(each, completed)
        if text:
            severity = admission.Severity.NOTE
            place = places.get((services.Service.kind, each.name), "")
            subject = f"{services.Service.kind} {each.name}"
            notes.append(source.Problem(severity, place, subject, text))
    if len(notes) > MAX_PROBLEMS:
        more = f"{len(notes) - MAX_PROBLEMS} more Services are completed in the same way"
        notes[MAX_PROBLEMS:] = [source.Problem(admission.Severity.NOTE, "manifests", "", more)]
    return made, notes


def _complete(
    given: services.Service, cluster_ip: str, ports: Mapping[names.ServicePortName, int]
) -> services.Service:
    with_node_ports = ports_before = given.ports
    if given.wants_node_ports:
        with_node_ports = tuple(
            port
            if port.node_port
            else replace(
                port,
                node_port=ports.get(names.ServicePortName(given.name, port.name, port.protocol), 0),
            )
            for port in given.ports
        )
        given = replace(given, ports=with_node_ports, wants_node_ports=False)
    if given.wants_cluster_ip:
        given = replace(given, cluster_ip=cluster_ip, wants_cluster_ip=False)
    filled_in: tuple[str, ...] = ("spec.clusterIP",) if cluster_ip else ()
    if with_node_ports != ports_before:
        filled_in += ("spec.ports[].nodePort",)
    return replace(given, filled_in=filled_in) if filled_in else given


def _allocated(given: services.Service, completed: services.Service) -> str:
    """The addresses that were filled in, as a clause; "" if there are none."""
    parts = []
    if given.wants_cluster_ip:
        parts.append(
            f"spec.clusterIP is absent: it gets {completed.cluster_ip}, "
            "which follows from its namespace and name"
            if completed.cluster_ip
            else f"spec.clusterIP is absent, and {allocation.CLUSTER_IPS} has no address left: "
            "it is not proxied; write one down"
        )
    for old, new in zip(given.ports, completed.ports, strict=True):
        if new.node_port and not old.node_port:
            parts.append(f"port {new.port} gets the node port {new.node_port}")
        elif given.wants_node_ports and not new.node_port:
            parts.append(f"port {new.port} gets no node port: all are taken")
    return "; ".join(parts)


def _addresses_in_use(tables: Mapping[str, Table], pause: document.Pause) -> set[str]:
    """Addresses that manifests name, as far as a cluster IP could be in their way."""
    used: set[str] = set()
    for table in tables.values():
        for each in table.values():
            pause()
            if isinstance(each, services.Service):
                used.update(each.cluster_ips)
                used.update(each.external_ips)
                used.update(each.load_balancer_ips)
            elif isinstance(each, endpoints.EndpointsObject):
                used.update(_loopback_backends(each))
    return used


def _loopback_backends(each: endpoints.EndpointsObject) -> Iterable[str]:
    return (
        endpoint.backend.address
        for port in each.ports
        for endpoint in port.endpoints
        if endpoint.backend.address.startswith("127.")
    )


def _changes(before: Mapping[Path, FileState], after: Mapping[Path, FileState]) -> Iterable[Change]:
    """The changes of each file that was edited, for the log."""
    for path in dict.fromkeys((*before, *after)):
        old, new = before.get(path), after.get(path)
        if old is new:
            continue
        old_given = old.given if old else {}
        new_given = new.given if new else {}
        state = new or old
        if state is None:
            continue
        change = Change(
            state.file.shown,
            _counted(key for key in new_given if key not in old_given),
            _counted(
                key
                for key, given in new_given.items()
                if key in old_given and old_given[key].accepted is not given.accepted
            ),
            _counted(key for key in old_given if key not in new_given),
            _is_bad(old) and new is not None and not _is_bad(new),
        )
        if change != Change(change.shown):
            yield change


def _counted(keys: Iterable[admission.Key]) -> tuple[tuple[str, int], ...]:
    """How many there are of each kind, in the registry's order."""
    counts = Counter(kind for kind, _ in keys)
    known = [each.name for each in registry.KINDS if each.name in counts]
    return tuple((kind, counts[kind]) for kind in dict.fromkeys((*known, *sorted(counts))))


def _is_bad(state: FileState | None) -> bool:
    return state is not None and any(
        problem.severity is admission.Severity.ERROR for problem in state.problems
    )
