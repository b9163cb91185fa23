"""ManifestSource on real files: what it gives, what it reports, and how it follows edits."""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.model import admission, names
from kproxy.model.kinds import services
from kproxy.sources import source
from kproxy.sources.files import manifest_state, manifests

FIXTURES = Path(__file__).parent.parent.parent / "fixtures" / "manifests"
PATIENCE_SECONDS = 60.0
"""How long a test waits for an event before it fails; nothing is asserted about speed."""


def key(name: str, namespace: str = "default") -> names.NamespacedName:
    return names.NamespacedName(namespace, name)


def service(name: str, ip: str = "10.0.0.1", port: int = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: {ip}, ports: [{{port: {port}}}]}}\n"
    )


def stream(*documents: str) -> str:
    return "---\n".join(documents)


class Watched:
    """A running source with what it has told, and a way to wait for a state instead of a time."""

    def __init__(self, *paths: Path, allow_loopback: bool = False) -> None:
        self.told: list[source.Problem] = []
        self.changes: list[frozenset[names.NamespacedName]] = []
        self._stirred = asyncio.Event()
        self.source: source.Source = manifests.ManifestSource(
            paths,
            on_problem=self._on_problem,
            allow_loopback=allow_loopback,
        )
        self.source.store.subscribe(self._on_change)

    def _on_change(self, dirty: frozenset[names.NamespacedName]) -> None:
        self.changes.append(dirty)
        self._stirred.set()

    def _on_problem(self, problem: source.Problem) -> None:
        self.told.append(problem)
        self._stirred.set()

    async def until(self, reached: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not reached():
                self._stirred.clear()
                await self._stirred.wait()

    async def synced(self) -> None:
        await self.until(lambda: self.source.has_synced)

    async def gives(self, *named: str) -> None:
        await self.until(lambda: self.names() == set(named))

    async def says(self, text: str) -> None:
        await self.until(lambda: any(text in str(problem) for problem in self.told))

    def names(self) -> set[str]:
        return {name.name for name in self.source.store.service_names()}

    def ip(self, name: str) -> str:
        found = self.source.store.service(key(name))
        return found.cluster_ip if found else ""

    def backends(self, name: str) -> list[str]:
        port = names.ServicePortName(key(name))
        return [str(each.backend) for each in self.source.store.endpoints(port)]


async def settled(reached: Callable[[], object]) -> None:
    """Return once `reached` holds, where nothing says that it does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(*paths: Path, allow_loopback: bool = False) -> AsyncIterator[Watched]:
    watched = Watched(*paths, allow_loopback=allow_loopback)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.source.run())
        try:
            await watched.synced()
            yield watched
        finally:
            task.cancel()


async def test_the_scenarios_are_served_as_written() -> None:
    async with running(FIXTURES / "five-clusterip-scenarios.yaml") as watched:
        kept = watched.source.store
        assert watched.told == []
        assert watched.changes == [frozenset(kept.service_names())]
        assert watched.ip("redis") == "10.0.19.85"
        for name in ("redis", "redis-sa"):
            assert watched.backends(name) == ["10.244.1.69:6379", "10.244.1.70:6379"]
        assert watched.backends("redis-empty") == []
        sticky = kept.service(key("redis-sa"))
        assert sticky is not None
        assert sticky.affinity_seconds == services.DEFAULT_AFFINITY_SECONDS
        external = kept.service(key("redis-external"))
        assert external is not None
        assert external.external_ips == ("192.0.2.10",)
        headless = kept.service(key("redis-headless"))
        assert headless is not None
        assert not headless.is_proxied


async def test_node_port_scenarios_keep_nodes_and_policies() -> None:
    async with running(FIXTURES / "five-nodeport-scenarios.yaml") as watched:
        assert watched.told == []
        local = watched.source.store.service(key("redis-np-local"))
        assert local is not None
        assert local.external_policy is services.TrafficPolicy.LOCAL
        assert [port.node_port for port in local.ports] == [30002]
        found = watched.source.store.endpoints(names.ServicePortName(local.name))
        assert [e.node for e in found if e.node == "node-b"] == ["node-b"]


async def test_of_the_broken_example_each_document_is_named_once_and_the_good_one_is_kept() -> None:
    async with running(FIXTURES / "broken.yaml") as watched:
        file = str(FIXTURES / "broken.yaml")
        said = [re.sub(r"^:\d+, ", "", str(each).removeprefix(file)) for each in watched.told]
        assert said == [
            (
                "document 1: Service default/port-out-of-range: spec.ports[0].port is 70000 "
                "but must be from 1 to 65535; skipped"
            ),
            (
                "document 2: Service default/two-unnamed-ports: spec.ports[0].name is absent "
                "but must be given when there is more than one port; spec.ports[1].name is absent "
                "but must be given when there is more than one port; skipped"
            ),
            (
                'document 3: Service default/not-an-ip: spec.clusterIP is "10.0.30.999" '
                'but must be an IP address, "None" or absent; skipped'
            ),
            (
                "document 4: Service default/affinity-too-long: "
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds is 90000 "
                "but must be from 1 to 86400; skipped"
            ),
            (
                "document 7: Endpoints default/bad-endpoints: address left out: "
                'subsets[0].addresses[0].ip is "169.254.169.254" but must not be '
                "a link-local address; address left out: "
                'subsets[0].addresses[1].ip is "127.0.0.1" but must not be a loopback address, '
                "unless --allow-loopback-endpoints is given; "
                'address left out: subsets[0].addresses[2].ip is "224.0.0.1" '
                "but must not be a multicast address"
            ),
            (
                "document 9: the object is a list but must be a mapping with apiVersion and kind; "
                "skipped"
            ),
            (
                "document 10: Service without a name: metadata.name is absent but must be given; "
                "skipped"
            ),
        ]
        assert watched.names() == {"good-one", "same-ip-as-good-one"}
        assert watched.backends("good-one") == ["10.244.3.1:8080"]
        assert watched.backends("bad-endpoints") == []


async def test_other_kinds_and_what_is_filled_in_are_notes() -> None:
    async with running(FIXTURES / "httpd-service.yaml") as watched:
        file = FIXTURES / "httpd-service.yaml"
        assert list(map(str, watched.told)) == [
            (
                f"{file}:2, document 1: apps/v1 Deployment default/my-apache: "
                "not a kind a proxy reads; skipped"
            ),
            (
                f"{file}:14, document 2: Service default/httpd-service: "
                "spec.clusterIP is absent: it gets 10.109.6.152, "
                "which follows from its namespace and name"
            ),
        ]
        completed = watched.source.store.service(key("httpd-service"))
        assert completed is not None
        assert completed.filled_in == ("spec.clusterIP",)
        assert {p.severity for p in watched.told} == {admission.Severity.NOTE}
        assert "1 file, 1 object, 0 problems" in watched.source.describe()


async def test_loopback_endpoints_are_admitted_when_allowed(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
        "subsets: [{addresses: [{ip: 127.0.0.9}, {ip: 169.254.0.1}], ports: [{port: 80}]}]\n"
    )
    file = tmp_path / "web.yaml"
    file.write_text(text)
    async with running(file, allow_loopback=True) as watched:
        assert watched.backends("web") == ["127.0.0.9:80"]
        assert ["169.254.0.1" in str(problem) for problem in watched.told] == [True]


async def test_lists_and_json_are_read(tmp_path: Path) -> None:
    def raw(name: str) -> dict[str, object]:
        spec = {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}

    bad = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [raw("a"), bad, raw("b")]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    (tmp_path / "one.json").write_text(json.dumps(raw("c")))
    typed = {"apiVersion": "v1", "kind": "ServiceList", "items": [{**raw("d"), "kind": None}]}
    (tmp_path / "typed.yaml").write_text(json.dumps(typed))
    async with running(tmp_path) as watched:
        assert watched.names() == {"a", "b", "c", "d"}
        (problem,) = watched.told
        assert problem.where == f"{tmp_path}/list.json:1, document 1, items[1]"
        assert problem.subject == "Service default/bad"


async def test_a_directory_gives_its_manifests_and_nothing_below_or_hidden(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.yaml", "b.yml", ".hidden.yaml", "c.txt", "d.yaml~", "below/e.yaml"):
        (tmp_path / name).write_text(service(f"s{Path(name).name[0].replace('.', 'h')}"))
    async with running(tmp_path) as watched:
        assert watched.names() == {"sa", "sb"}


async def test_a_directory_without_manifests_is_noted(tmp_path: Path) -> None:
    async with running(tmp_path) as watched:
        assert watched.changes == [frozenset()]
        assert ["no *.yaml" in str(problem) for problem in watched.told] == [True]


async def test_of_two_documents_for_one_object_the_first_by_path_wins(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(service("web", "10.0.0.2"))
    (tmp_path / "a.yaml").write_text(stream(service("web", "10.0.0.1"), service("web", "10.0.0.3")))
    async with running(tmp_path) as watched:
        assert watched.ip("web") == "10.0.0.1"
        assert sorted(map(str, watched.told)) == [
            (
                f"{tmp_path}/a.yaml:6, document 2: Service default/web: "
                f"already given by {tmp_path}/a.yaml:1, document 1; skipped"
            ),
            (
                f"{tmp_path}/b.yaml:1, document 1: Service default/web: "
                f"already given by {tmp_path}/a.yaml:1, document 1; skipped"
            ),
        ]
        (tmp_path / "a.yaml").unlink()
        await watched.until(lambda: watched.ip("web") == "10.0.0.2")
        assert watched.source.problems() == ()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: None, "no such file or directory", id="missing"),
        pytest.param(os.mkfifo, "neither a regular file nor a directory", id="pipe"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="link to itself"),
    ],
)
def test_a_path_that_cannot_be_read_at_the_start_is_a_configuration_error(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "web.yaml"
    make(path)
    with pytest.raises(errors.ConfigError) as caught:
        Watched(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("x.yaml", b"a: [1\n", "not valid YAML: line 2", id="YAML"),
        pytest.param("x.json", b'{"a":', "not valid JSON", id="JSON"),
        pytest.param("x.yaml", b"a: \x07", "not valid YAML", id="control character"),
    ],
)
async def test_a_file_that_does_not_parse_at_the_start_costs_the_others_nothing(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.yaml").write_text(service("good"))
    async with running(tmp_path) as watched:
        assert watched.names() == {"good"}
        (problem,) = watched.told
        assert str(problem).startswith(f"{tmp_path}/{name}: {reason}")
        assert str(problem).endswith("nothing is taken from it")


async def test_a_file_beyond_the_size_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kproxy.sources.files.manifest_files.MAX_BYTES", 2**20)
    (tmp_path / "big.yaml").write_text("#" * 2**20 + "\n")
    (tmp_path / "fits.yaml").write_text(service("fits"))
    async with running(tmp_path) as watched:
        assert watched.names() == {"fits"}
        assert [problem.text for problem in watched.told] == ["larger than 1 MiB"]


async def test_an_edit_is_followed_and_only_what_changed_is_dirty(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(stream(service("a"), service("b")))
    async with running(file) as watched:
        file.write_text(stream(service("a"), service("b", "10.0.0.2"), service("c")))
        await watched.gives("a", "b", "c")
        assert watched.ip("b") == "10.0.0.2"
        file.write_text(stream(service("a"), service("c")))
        await watched.gives("a", "c")
        dirty = frozenset[names.NamespacedName]().union(*watched.changes[1:])
        assert dirty == {key("b"), key("c")}
        assert watched.told == []


async def test_two_edits_of_the_same_length_are_both_seen(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(service("web", "10.0.0.0"))
    async with running(file) as watched:
        for last in range(1, 6):
            file.write_text(service("web", f"10.0.0.{last}"))
            await watched.until(lambda last=last: watched.ip("web") == f"10.0.0.{last}")  # type: ignore[misc] # the default binds it


async def test_an_editor_that_replaces_the_file_by_rename_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(file) as watched:
        for name in ("b", "c"):
            (tmp_path / "web.yaml.new").write_text(service(name))
            (tmp_path / "web.yaml.new").replace(file)
            await watched.gives(name)
        file.rename(tmp_path / "web.yaml~")
        file.write_text(service("d"))
        await watched.gives("d")
        assert watched.told == []


async def test_a_directory_that_gains_and_loses_files_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    async with running(tmp_path) as watched:
        (tmp_path / "b.yaml").write_text(service("b"))
        await watched.gives("a", "b")
        (tmp_path / "a.yaml").unlink()
        await watched.gives("b")
        (tmp_path / "b.yaml").rename(tmp_path / "b.off")
        await watched.gives()


@pytest.mark.parametrize("above", [0, 1, 2], ids=["parent", "grandparent", "higher"])
@pytest.mark.parametrize("is_file", [True, False], ids=["file", "directory"])
async def test_a_directory_above_that_is_exchanged_is_followed_at_once(
    tmp_path: Path, above: int, monkeypatch: pytest.MonkeyPatch, *, is_file: bool
) -> None:
    monkeypatch.setattr(manifests, "RESCAN_SECONDS", 3600.0)
    monkeypatch.setattr(manifests, "MAX_RESCAN_SECONDS", 3600.0)
    folder = tmp_path / "a" / "b" / "c"
    exchanged = (folder, *folder.parents)[above]
    below = folder.relative_to(exchanged)

    def prepare(top: Path, name: str) -> None:
        (top / below).mkdir(parents=True)
        (top / below / "web.yaml").write_text(service(name))

    prepare(exchanged, "one")
    async with running(folder / "web.yaml" if is_file else folder) as watched:
        for name in ("two", "three"):
            new, old = tmp_path / f"new-{name}", tmp_path / f"old-{name}"
            prepare(new, name)
            exchanged.rename(old)
            new.rename(exchanged)
            await watched.gives(name)


async def test_a_config_map_volume_that_swaps_its_data_link_is_followed(tmp_path: Path) -> None:
    def publish(version: str, name: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "web.yaml").write_text(service(name))
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    publish("..1", "one")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    for root in (tmp_path, tmp_path / "web.yaml"):
        async with running(root) as watched:
            publish(f"..2-{root.name}", f"two-{len(root.name)}")
            await watched.gives(f"two-{len(root.name)}")
            publish(f"..3-{root.name}", f"three-{len(root.name)}")
            shutil.rmtree(tmp_path / f"..2-{root.name}")
            await watched.gives(f"three-{len(root.name)}")
            assert watched.told == []


async def test_a_link_in_the_middle_of_the_path_is_followed(tmp_path: Path) -> None:
    for version in ("r1", "r2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "web.yaml").write_text(service(version))
    (tmp_path / "current").symlink_to("r1")
    for root in (tmp_path / "current", tmp_path / "current" / "web.yaml"):
        async with running(root) as watched:
            assert watched.names() == {"r1"}
            (tmp_path / "next").symlink_to("r2")
            (tmp_path / "next").replace(tmp_path / "current")
            await watched.gives("r2")
            (tmp_path / "r2" / "web.yaml").write_text(service("edited"))
            await watched.gives("edited")
        (tmp_path / "r2" / "web.yaml").write_text(service("r2"))
        (tmp_path / "back").symlink_to("r1")
        (tmp_path / "back").replace(tmp_path / "current")


@pytest.mark.parametrize("named", ["file", "directory"])
async def test_a_named_path_that_vanishes_takes_nothing_along_and_is_followed_when_back(
    tmp_path: Path, named: str
) -> None:
    directory = tmp_path / "conf"
    directory.mkdir()
    file = directory / "web.yaml"
    file.write_text(service("a"))
    root = file if named == "file" else directory
    async with running(root) as watched:
        shutil.rmtree(directory)
        await watched.says("no such file or directory; what it gave before stays")
        assert watched.names() == {"a"}
        directory.mkdir()
        file.write_text(service("b"))
        await watched.gives("b")
        assert watched.source.problems() == ()
        file.write_text(service("c"))
        await watched.gives("c")
        assert len(watched.told) == 1


async def test_an_emptied_file_gives_nothing(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(file) as watched:
        file.write_text("")
        await watched.gives()
        assert watched.told == []


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(service("a")[:-20], id="cut in a value"),
        pytest.param("a: [", id="no YAML"),
        pytest.param("\x00", id="NUL"),
        pytest.param(service("a", port=0), id="invalid"),
        pytest.param("apiVersion: v1\nkind: Service\nmetadata:\n", id="cut before its name"),
        pytest.param("apiVersion: v1\n", id="cut before its kind"),
        pytest.param("- a list\n", id="no object"),
        pytest.param(service("a") + "spec: {}\n", id="a key twice"),
    ],
)
async def test_a_broken_edit_changes_nothing_that_was_good_and_is_reported_once(
    tmp_path: Path, broken: str
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(stream(service("a"), service("b")))
    async with running(tmp_path) as watched:
        file.write_text(broken)
        await watched.says("stays")
        assert watched.ip("a") == "10.0.0.1"
        told = len(watched.told)
        file.write_text(broken)
        (tmp_path / "other.yaml").write_text(service("other"))
        await watched.until(lambda: "other" in watched.names())
        assert len(watched.told) == told
        file.write_text(service("z"))
        await watched.gives("other", "z")
        assert watched.source.problems() == ()


async def test_an_object_that_turns_bad_keeps_its_last_good_version_while_others_change(
    tmp_path: Path,
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(stream(service("a"), service("b"), service("c")))
    async with running(file) as watched:
        file.write_text(stream(service("a", port=0), service("b", "10.0.0.2")))
        await watched.until(lambda: watched.ip("b") == "10.0.0.2")
        assert watched.names() == {"a", "b"}
        (problem,) = watched.told
        assert problem.subject == "Service default/a"
        assert problem.outcome == "its last good version stays"
        file.write_text(service("b", "10.0.0.2"))
        await watched.gives("b")
        assert watched.source.problems() == ()


async def test_a_nameless_document_that_was_always_bad_does_not_hold_up_removals(
    tmp_path: Path,
) -> None:
    file = tmp_path / "web.yaml"
    nameless = "apiVersion: v1\nkind: Service\n"
    file.write_text(stream(service("a"), service("b"), nameless))
    async with running(file) as watched:
        file.write_text(stream(service("a"), nameless))
        await watched.gives("a")
        assert len(watched.told) == 2  # the nameless document has another number now


async def test_a_file_that_becomes_unreadable_keeps_what_it_gave(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "web.yaml"
    file.parent.mkdir()
    file.write_text(service("a"))
    async with running(file.parent) as watched:
        file.unlink()
        file.mkdir()
        await watched.says("not a regular file; what it gave before stays")
        assert watched.names() == {"a"}


async def test_without_a_way_to_watch_files_are_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("kproxy.sources.files.directory_watch.DirectoryWatch", unavailable)
    monkeypatch.setattr(manifests, "POLL_SECONDS", 0.01)
    file = tmp_path / "web.yaml"
    file.write_text(service("a"))
    async with running(file) as watched:
        await watched.says("changes cannot be watched: Too many open files; raise the sysctl")
        file.write_text(service("b", "10.0.0.22"))
        await watched.gives("b")


async def test_cancelling_leaves_no_task_and_no_open_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))

    def open_files() -> set[str]:
        found = set()
        for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
            with contextlib.suppress(OSError):
                found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")  # noqa: PTH115
        return found

    await asyncio.to_thread(open_files)  # the loop's threads are there before the count
    before = open_files()
    async with running(tmp_path) as watched:
        (tmp_path / "b.yaml").write_text(service("b"))
        await watched.gives("a", "b")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while open_files() - before:  # the watcher's own thread closes its last ones
            await asyncio.to_thread(os.sched_yield)


def history(dice: random.Random, length: int) -> Iterable[tuple[str, str | None]]:
    """Writes and removals of files in a directory; None removes."""
    for _ in range(length):
        name = dice.choice(["a.yaml", "b.yaml", "c.json", "d.txt"])
        if dice.random() < 0.25:
            yield name, None
        elif name == "c.json":
            spec = {"clusterIP": f"10.0.2.{dice.randint(1, 9)}", "ports": [{"port": 80}]}
            meta = {"name": f"s{dice.randint(1, 4)}"}
            raw = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
            yield name, json.dumps(raw)
        else:
            numbers = dice.sample(range(1, 5), dice.randint(0, 4))
            yield name, stream(*(service(f"s{n}", f"10.0.1.{dice.randint(1, 9)}") for n in numbers))


@pytest.mark.parametrize("seed", range(3))
async def test_a_random_history_of_edits_ends_like_a_fresh_start(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "EMPTY_SECONDS", 0.0)  # how much later is tested elsewhere
    monkeypatch.setattr(manifest_state, "SHRUNK_SECONDS", 0.0)
    dice = random.Random(seed)
    async with running(tmp_path) as watched:
        for name, text in history(dice, 30):
            if text is None:
                (tmp_path / name).unlink(missing_ok=True)
            elif dice.random() < 0.5:
                (tmp_path / name).write_text(text)
            else:
                (tmp_path / "new").write_text(text)
                (tmp_path / "new").replace(tmp_path / name)
            await asyncio.sleep(0)
        (tmp_path / "zz.yaml").write_text(service("end"))
        await watched.until(lambda: "end" in watched.names())
        async with running(tmp_path) as fresh:
            await watched.until(lambda: watched.names() == fresh.names())
            for name in fresh.names():
                await watched.until(lambda name=name: watched.ip(name) == fresh.ip(name))  # type: ignore[misc] # the default binds it
            # The last look may have read a file before its last edit.
            await settled(lambda: set(watched.source.problems()) == set(fresh.source.problems()))
