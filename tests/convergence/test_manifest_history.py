"""A random history of manifest edits ends in the same state as a fresh start.

The worlds are small on purpose: three Services want three addresses, of which two are one in
127/8, so that most histories have collisions, and addresses that change hands.
"""

import asyncio
import contextlib
import dataclasses
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import hypothesis
import pytest
import structlog.testing
import yaml
from hypothesis import strategies as st

from kproxy.model import admission, forwarding, names
from kproxy.model.kinds import (
    endpoint_slice_kind,
    endpoints_kind,
    pod_kind,
    service_kind,
    services,
)
from kproxy.portal import budget
from kproxy.reconcile import proxier
from kproxy.sources import store
from kproxy.sources.files import manifest_state, manifests
from tests.reconcile import builders, recording

Document: TypeAlias = dict[str, Any]
NAMES = ["a", "b", "c"]
ADDRESSES = ["10.0.9.1", "11.0.9.1", "10.0.9.2"]  # the first two are 127.0.0.1
NODE, ZONE = "n1", "z1"
LISTENERS = 3
"""Fewer than three Services with their external IPs can want."""
SLICES = ["s1", "s2", "s3"]
PODS = ["p1", "p2"]
OTHER_FAMILY = {"10.1.0.1": "fd00:1::1", "10.1.0.2": "fd00:1::2"}


def service_document(name: str, spec: Document, metadata: Document) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def spec_with(optional: Document) -> Document:
    """A spec of what was drawn, without what was not. A second address needs a first one."""
    spec = {field: value for field, value in optional.items() if value is not None}
    if "clusterIPs" in spec:
        spec["clusterIPs"] = [spec["clusterIP"], *spec["clusterIPs"]]
    if spec.pop("isName", False):
        return {"type": "ExternalName", "externalName": "db.example.org", "ports": spec["ports"]}
    return spec


PORTS = [
    [("http", 80, "TCP")],
    [("http", 80, "TCP"), ("admin", 81, "TCP")],
    [("http", 81, "TCP"), ("admin", 80, "TCP")],
    [("http", 81, "TCP"), ("dns", 81, "UDP")],
]
ports = st.sampled_from(PORTS).map(
    lambda chosen: [
        {"name": name, "port": number, "protocol": protocol} for name, number, protocol in chosen
    ]
)
specs = st.builds(
    spec_with,
    st.fixed_dictionaries(
        {
            "clusterIP": st.sampled_from([*ADDRESSES, *ADDRESSES, *ADDRESSES, "None", "fd00::1"]),
            "ports": ports,
            "externalIPs": st.sampled_from([None, None, ["12.0.9.2"], ["12.0.9.1", "12.0.9.2"]]),
            "internalTrafficPolicy": st.sampled_from([None, None, "Local"]),
            "sessionAffinity": st.sampled_from([None, "ClientIP"]),
            "clusterIPs": st.sampled_from([None, None, ["fd00::9"]]),
            "trafficDistribution": st.sampled_from([None, None, "PreferClose"]),
            "isName": st.sampled_from([None] * 9 + [True]),
        }
    ),
)
metadata = st.sampled_from(
    [
        {},
        {},
        {},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
        {"annotations": {"kproxy.io/strategy": "random"}},
        {"annotations": {"kproxy.io/weights": "10.1.0.1=9,10.1.0.2=0,fd00:1::1=0"}},
        {"annotations": {"kproxy.io/weights": "v1=3,v2=0"}},
        {
            "annotations": {
                "kproxy.io/strategy": "least-connections",
                "kproxy.io/weights": "v1=0,10.1.0.3=0",
            }
        },
    ]
)


def documents_of_service(name: str) -> st.SearchStrategy[Document]:
    return st.builds(service_document, st.just(name), specs, metadata)


service_documents = st.sampled_from(NAMES).flatmap(documents_of_service)

# The last two are Services' own addresses: loops, as far as the Service has that address.
backend_addresses = st.sampled_from(["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.0.9.1", "12.0.9.2"])


def slice_document(
    name: str, of: str, port_names: list[str], number: int, listed: list[Document], family: str
) -> Document:
    if family == "IPv6":
        listed = [
            {**each, "addresses": [other]}
            for each in listed
            if (other := OTHER_FAMILY.get(each["addresses"][0]))
        ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": family,
        "ports": [
            {"name": port, "port": number, "protocol": "UDP" if port == "dns" else "TCP"}
            for port in port_names
        ],
        "endpoints": listed,
    }


slice_endpoints = st.builds(
    lambda address, conditions, node, pod, zone: {
        "addresses": [address],
        "conditions": conditions,
        **({"nodeName": node} if node else {}),
        **({"targetRef": {"kind": "Pod", "name": pod}} if pod else {}),
        **({"hints": {"forZones": [{"name": zone}]}} if zone else {}),
    },
    backend_addresses,
    st.sampled_from(
        [
            {},
            {},
            {"ready": False},
            {"ready": False, "serving": True, "terminating": True},
        ]
    ),
    st.sampled_from([None, NODE, "n2"]),
    st.sampled_from([None, *PODS]),
    st.sampled_from([ZONE, ZONE, "z2", None]),
)


def slices_named(name: str, owners: Sequence[str]) -> st.SearchStrategy[Document]:
    return st.builds(
        slice_document,
        st.just(name),
        st.sampled_from(owners),
        st.sampled_from([["http"], ["http", "admin"], ["http", "dns"], ["admin"]]),
        st.sampled_from([80, 8080]),
        st.lists(slice_endpoints, max_size=3),
        st.sampled_from(["IPv4", "IPv4", "IPv6"]),
    )


slice_documents = st.sampled_from(SLICES).flatmap(lambda name: slices_named(name, NAMES))


def endpoints_document(name: str, port: str, addresses: list[str]) -> Document:
    subset = {
        "addresses": [{"ip": address} for address in addresses],
        "ports": [{"name": port, "port": 8080}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name},
        "subsets": [subset] if addresses else [],
    }


endpoints_documents = st.builds(
    endpoints_document,
    st.sampled_from(NAMES),
    st.sampled_from(["http", "admin"]),
    st.lists(backend_addresses, max_size=2, unique=True),
)
pod_documents = st.builds(
    lambda name, labels: {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
    },
    st.sampled_from(PODS),
    st.sampled_from([{"version": "v1"}, {"version": "v2"}, {}]),
)
good_documents = st.one_of(
    service_documents, service_documents, slice_documents, endpoints_documents, pod_documents
)


def spoilt(document: Document) -> Document:
    """The same object, with something in it that no apiserver would take."""
    wrong: dict[str, Document] = {
        "Service": {"spec": {"clusterIP": "10.0.9.999", "ports": [{"port": 0}]}},
        "EndpointSlice": {"ports": [{"name": "http", "port": 70000}]},
        "Endpoints": {"subsets": "none"},
        "Pod": {"metadata": {"name": document["metadata"]["name"], "labels": "none"}},
    }
    return {**document, **wrong[document["kind"]]}


class World:
    """A proxier over a Store, and a data plane that keeps the books."""

    def __init__(self, kept: store.Store) -> None:
        self.store = kept
        self.plane = recording.RecordingPlane()
        self.proxier = proxier.Proxier(
            kept, self.plane, builders.options(node=NODE, zone=ZONE), room=budget.Budget(LISTENERS)
        )

    def sync(self) -> None:
        """Sync without a log, and check what must hold after any sync."""
        with structlog.testing.capture_logs():
            self.proxier.sync()
        assert len(self.plane.open) <= LISTENERS
        rules = self.proxier.rules()
        statuses = [status for name in rules for status in self.proxier.frontends(name)]
        assert self.proxier.quarantined == 0
        assert self.plane.backends.keys() == rules.keys()
        listening = {s.bound for s in statuses if s.state in {"bound", "dropped"}}
        assert listening == self.plane.open.keys()

    def full_sync(self) -> None:
        """Look at everything, and retry what could not be opened."""
        self.proxier.mark_all()
        self.sync()

    def state(self) -> Document:
        """Everything that can be seen of it, and nothing about how it came to be."""
        rules = self.proxier.rules()
        return {
            "rules": rules,
            "open": self.plane.open,
            "backends": self.plane.backends,
            "frontends": {name: self.proxier.frontends(name) for name in rules},
            "has_failures": self.proxier.has_failures,
        }


# Through the Store, object by object.


@dataclasses.dataclass(frozen=True)
class Edit:
    """An object is made or changed; one that is invalid changes nothing.

    `created` is a Service's age, of which the Store may be told by other means than manifests.
    """

    document: Document
    created: str = ""

    def play(self, world: World, final: dict[admission.Key, admission.Accepted]) -> None:
        (admitted,) = admission.admit(self.document)
        accepted = admitted.accepted
        if isinstance(accepted, services.Service):
            accepted = dataclasses.replace(accepted, created=self.created)
        if accepted is not None and admitted.key is not None:
            final[admitted.key] = accepted
            world.proxier.mark(world.store.apply(accepted))


@dataclasses.dataclass(frozen=True)
class Delete:
    """An object goes, if it was there."""

    kind: str
    name: str

    def play(self, world: World, final: dict[admission.Key, admission.Accepted]) -> None:
        key = names.NamespacedName("default", self.name)
        final.pop((self.kind, key), None)
        world.proxier.mark(world.store.delete(self.kind, key))


@dataclasses.dataclass(frozen=True)
class Sync:
    """The proxier catches up."""

    def play(self, world: World, final: dict[admission.Key, admission.Accepted]) -> None:
        world.sync()


@dataclasses.dataclass(frozen=True)
class Occupy:
    """From now on other processes hold these addresses, whenever the proxier does not."""

    addresses: frozenset[forwarding.PortalAddress]

    def play(self, world: World, final: dict[admission.Key, admission.Accepted]) -> None:
        world.plane.busy = set(self.addresses)


Step: TypeAlias = Edit | Delete | Sync | Occupy
ages = st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])
edits: st.SearchStrategy[Step] = st.one_of(
    st.builds(Edit, good_documents, ages),
    st.builds(Edit, good_documents, ages),
    st.builds(Edit, good_documents.map(spoilt)),
    st.builds(
        Delete,
        st.sampled_from([service_kind.KIND.name, endpoints_kind.KIND.name]),
        st.sampled_from(NAMES),
    ),
    st.builds(Delete, st.just(endpoint_slice_kind.KIND.name), st.sampled_from(SLICES)),
    st.builds(Delete, st.just(pod_kind.KIND.name), st.sampled_from(PODS)),
    st.builds(Sync),
    st.builds(Sync),
)
openings = st.tuples(
    *(st.builds(Edit, documents_of_service(name), ages) for name in NAMES),
    *(st.builds(Edit, slices_named(name, [of])) for name, of in zip(SLICES, NAMES, strict=True)),
    st.builds(Sync),
)


def histories(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Histories that begin with a world in which everything is there."""
    return st.builds(
        lambda opening, rest: [*opening, *rest], openings, st.lists(steps, min_size=10, max_size=40)
    )


occupations: st.SearchStrategy[Step] = st.builds(
    Occupy,
    st.frozensets(st.builds(forwarding.PortalAddress, st.just("127.0.0.1"), st.integers(80, 81))),
)


def fresh_start(
    final: dict[admission.Key, admission.Accepted], shuffler: random.Random
) -> Document:
    """The state of a proxy that starts with these objects, listed in any order."""
    fresh = World(store.Store())
    in_any_order = list(final.values())
    shuffler.shuffle(in_any_order)
    for accepted in in_any_order:
        fresh.store.apply(accepted)
    fresh.full_sync()
    return fresh.state()


@hypothesis.settings(max_examples=50)
@hypothesis.given(histories(edits), st.randoms(use_true_random=False))
def test_any_history_of_objects_ends_like_a_fresh_start(
    history: Sequence[Step], shuffler: random.Random
) -> None:
    check(history, shuffler)


@pytest.mark.extra
@hypothesis.settings(max_examples=200)
@hypothesis.given(histories(edits), st.randoms(use_true_random=False))
def test_more_histories_of_objects_end_like_fresh_starts(
    history: Sequence[Step], shuffler: random.Random
) -> None:
    check(history, shuffler)


def check(history: Sequence[Step], shuffler: random.Random) -> None:
    """Play a history; then its end must be that of a fresh start."""
    world = World(store.Store())
    final: dict[admission.Key, admission.Accepted] = {}
    for step in history:
        step.play(world, final)
    world.sync()
    assert world.state() == fresh_start(final, shuffler)


occupied = histories(st.one_of(edits, edits, occupations))


@hypothesis.settings(max_examples=25)
@hypothesis.given(occupied, st.randoms(use_true_random=False))
def test_addresses_that_could_not_be_had_for_a_while_leave_no_trace(
    history: Sequence[Step], shuffler: random.Random
) -> None:
    check_occupied(history, shuffler)


@pytest.mark.extra
@hypothesis.settings(max_examples=100)
@hypothesis.given(occupied, st.randoms(use_true_random=False))
def test_addresses_that_could_not_be_had_leave_no_trace_in_more_histories(
    history: Sequence[Step], shuffler: random.Random
) -> None:
    check_occupied(history, shuffler)


def check_occupied(history: Sequence[Step], shuffler: random.Random) -> None:
    """The same where addresses are taken in between, and all are free in the end."""
    world = World(store.Store())
    final: dict[admission.Key, admission.Accepted] = {}
    for step in history:
        step.play(world, final)
    world.sync()
    world.plane.busy.clear()
    world.full_sync()
    assert world.state() == fresh_start(final, shuffler)


# Through files, as a user edits them.


@dataclasses.dataclass(frozen=True)
class Round:
    """Files written one after another, None to delete one; then a sync, or not yet."""

    files: dict[str, str | None]
    then_sync: bool


def as_yaml(documents: list[Document]) -> str:
    return yaml.safe_dump_all(documents)


def half_written(documents: list[Document]) -> str:
    text = as_yaml(documents)
    return text[: len(text) * 2 // 3]


good_files = st.lists(good_documents, max_size=4).map(as_yaml)
broken_files = st.one_of(
    st.lists(good_documents, min_size=1, max_size=3).map(half_written),
    st.lists(st.one_of(good_documents, good_documents.map(spoilt)), max_size=4).map(as_yaml),
    st.sampled_from(["{", "kind: Service\napiVersion: v1\n", "- 1\n- 2\n", "\x00"]),
)
FILES = ["one.yaml", "three.yaml", "two.yaml"]
rounds = st.builds(
    Round,
    st.dictionaries(
        st.sampled_from(FILES),
        st.one_of(good_files, good_files, broken_files, st.none()),
        min_size=1,
    ),
    st.booleans(),
)
final_files = st.fixed_dictionaries(dict.fromkeys(FILES, good_files))

PATIENCE = 60.0
"""Seconds within which an edit must be seen: far more than it takes."""


class Editor:
    """Edits the files of a directory, and knows when a source has seen an edit.

    Each round ends with a new version of one more file, which is the first to be read: when that
    version is in the Store, so is whatever had been written before it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._version = 0
        self._write_version()

    def play(self, files: dict[str, str | None]) -> None:
        """Write and delete, then the version."""
        for name, text in files.items():
            path = self._directory / name
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(text)
        self._version += 1
        self._write_version()

    def is_seen(self, kept: store.Store) -> bool:
        """Whether `kept` has what the files say now."""
        service = kept.service(names.NamespacedName("default", "version"))
        return service is not None and service.ports[0].port == self._version + 1

    def _write_version(self) -> None:
        port = {"port": self._version + 1}
        document = service_document("version", {"clusterIP": "None", "ports": [port]}, {})
        (self._directory / "0-version.yaml").write_text(as_yaml([document]))


class Followed:
    """A world that follows the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._stirred = asyncio.Event()
        self.source = manifests.ManifestSource([directory], on_problem=lambda _: None)
        self.source.store.subscribe(self._on_change)
        self.world = World(self.source.store)

    def _on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        self.world.proxier.mark(changed)
        self._stirred.set()

    async def has_seen(self, editor: Editor) -> None:
        """Wait until the Store has what the files say now."""
        async with asyncio.timeout(PATIENCE):
            while not (self.source.has_synced and editor.is_seen(self.source.store)):
                self._stirred.clear()
                await self._stirred.wait()


@contextlib.asynccontextmanager
async def followed(directory: Path) -> AsyncIterator[Followed]:
    """Follow the files of a directory until the end of the block."""
    made = Followed(directory)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.source.run())
        yield made
        running.cancel()


async def edited_live(
    directory: Path, history: Sequence[Round], last: dict[str, str]
) -> tuple[Document, Document]:
    """The state after following `history` and `last`, and that of a fresh start from `last`."""
    editor = Editor(directory)
    async with followed(directory) as live:
        await live.has_seen(editor)
        for each in history:
            editor.play(each.files)
            await live.has_seen(editor)
            if each.then_sync:
                live.world.sync()
        editor.play({**last})
        await live.has_seen(editor)
        live.world.sync()
    async with followed(directory) as fresh:
        await fresh.has_seen(editor)
        fresh.world.full_sync()
    return live.world.state(), fresh.world.state()


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(st.lists(rounds, min_size=1, max_size=4), final_files)
def test_any_history_of_files_ends_like_a_fresh_start_from_the_last_ones(
    history: Sequence[Round], last: dict[str, str]
) -> None:
    # What is emptied counts later than the rest, and how much later is of no interest here. A
    # file whose reading takes long comes later, too, as any may on a busy machine.
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.multiple(manifest_state, EMPTY_SECONDS=0.0, SHRUNK_SECONDS=0.0),
        mock.patch.multiple(manifests, PATIENCE_SECONDS=PATIENCE, START_PATIENCE_SECONDS=PATIENCE),
    ):
        live, fresh = asyncio.run(edited_live(Path(directory), history, last))
    assert live == fresh
