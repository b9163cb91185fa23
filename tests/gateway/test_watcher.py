"""When statuses are looked at: after changes that matter, and no more often than there is time."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from structlog.testing import capture_logs

from kproxy.gateway import component, state, statuses, watcher
from kproxy.model import names
from kproxy.reconcile import report
from kproxy.reconcile import statuses as frontend_statuses
from kproxy.sources import store
from tests import virtual_time
from tests.gateway import documents, stored

TCP = documents.listener("tcp", 9300)
WEB = documents.backend("web")
EDGE = ("Gateway", documents.named("edge"))
SPLIT = ("TCPRoute", documents.named("split"))
SOON = 1.0


class Source:
    """A source of which a test writes the Store."""

    def __init__(self, of: store.Store) -> None:
        self.store = of
        self.has_synced = True


class Watched:
    """A watcher, with what it has heard and how often it has looked at Gateways."""

    def __init__(self, *given: documents.Document | list[documents.Document]) -> None:
        self.stored = stored.Stored(*given)
        self.heard: list[watcher.Change] = []
        self.looks = 0
        self.fails = False
        self.source = Source(self.stored.store)
        self.shown = state.GatewayState()
        self.watcher = watcher.Watcher(
            self.source,  # type: ignore[arg-type]  # as much of a source as is needed
            self.stored.planner,
            self._frontends,
            self._hear,
            self.shown,
        )

    def _hear(self, change: watcher.Change) -> Generator[None, None, None]:
        self.heard.append(change)
        yield

    def _frontends(self, _name: names.ServicePortName) -> list[frontend_statuses.FrontendStatus]:
        self.looks += 1
        if self.fails:
            raise RuntimeError("a bug")
        return []

    async def change(self, *given: documents.Document | list[documents.Document]) -> None:
        """Apply documents, announce them, and wait for what follows."""
        self.stored.store.announce(self.stored.apply(*given))
        await asyncio.sleep(SOON)


def watch(watched: Watched, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario beside a watcher, on virtual time."""

    async def run() -> None:
        running = asyncio.get_running_loop().create_task(watched.watcher.run())
        await watched.change()
        await scenario()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        watched.watcher.close()

    virtual_time.run(run)


def test_what_is_there_at_the_start_is_heard_and_then_only_what_is_new() -> None:
    watched = Watched(documents.gateway(TCP), documents.route(WEB), stored.service("web"))

    async def scenario() -> None:
        assert [set(each.statuses) for each in watched.heard] == [{EDGE, SPLIT}]
        await watched.change(documents.route(WEB, parents=[{"name": "other"}]))
        assert set(watched.heard[1].statuses) == {EDGE}
        assert watched.heard[1].gone == {SPLIT}
        assert set(watched.shown.statuses) == {EDGE}
        assert +watched.shown.counts == {"Gateway": 1}

    watch(watched, scenario)


def test_endpoints_do_not_matter_and_services_do() -> None:
    watched = Watched(documents.gateway(TCP), documents.route(WEB), stored.service("web"))

    async def scenario() -> None:
        service, found = stored.service("web", "10.1.0.1")
        await watched.change(found)
        looks = watched.looks
        for number in range(2, 9):
            _, found = stored.service("web", f"10.1.0.{number}")
            await watched.change(found)
        assert watched.looks == looks
        await watched.change(stored.service("other", "10.1.0.9"))
        assert watched.looks == looks
        service["spec"]["ports"][0]["port"] = 81
        await watched.change(service)
        assert watched.looks == looks + 1
        assert set(watched.heard[-1].statuses) == {SPLIT}

    watch(watched, scenario)


def test_grants_and_namespaces_and_classes_matter() -> None:
    far = documents.backend("far", namespace="other")
    selector = documents.allowed(origin="Selector", selector={"matchLabels": {"team": "a"}})
    watched = Watched(
        documents.gateway({**TCP, "allowedRoutes": selector}),
        documents.route(far),
        stored.service("far", namespace="other"),
    )

    async def scenario() -> None:
        for change in (
            documents.namespace("default", team="a"),
            documents.grant("other", "default"),
            documents.gateway_class(controllerName="example.org/other"),
        ):
            heard = len(watched.heard)
            await watched.change(change)
            assert len(watched.heard) == heard + 1
        assert watched.heard[-1].gone == {EDGE, SPLIT}

    watch(watched, scenario)


def test_many_changes_are_looked_at_together() -> None:
    watched = Watched(documents.gateway(TCP))

    async def scenario() -> None:
        looks = watched.looks
        for number in range(100):
            watched.stored.store.announce(
                watched.stored.apply(documents.route(WEB, name=f"r{number}"))
            )
        await asyncio.sleep(SOON)
        assert watched.looks == looks + 1
        assert len(watched.heard[-1].statuses) == 101

    watch(watched, scenario)


def test_a_bug_ends_nothing() -> None:
    watched = Watched(documents.gateway(TCP))

    async def scenario() -> None:
        watched.fails = True
        await watched.change(documents.gateway(TCP, generation=2))
        watched.fails = False
        heard = len(watched.heard)
        await watched.change(documents.gateway(TCP, generation=3))
        assert len(watched.heard) == heard + 1

    with capture_logs() as logs:
        watch(watched, scenario)
    assert any("internal error" in each["event"] for each in logs)


def test_problems_are_said_once_and_once_more_when_they_are_gone() -> None:
    made = stored.Stored(documents.gateway(TCP), documents.route(WEB))
    source = Source(made.store)
    reporter = report.Reporter(lambda _: [])
    shown = state.GatewayState()
    gateways = component.Gateways(source, made.planner, lambda _: [], reporter, shown)  # type: ignore[arg-type]  # as above

    async def run() -> None:
        running = asyncio.get_running_loop().create_task(gateways.run())
        made.store.announce(frozenset())
        await asyncio.sleep(SOON)
        assert shown.problems == 1
        for number in range(3):
            made.store.announce(made.apply(documents.gateway(TCP, generation=number)))
            await asyncio.sleep(SOON)
        made.store.announce(made.apply(stored.service("web")))
        await asyncio.sleep(SOON)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await gateways.drain(1.0)
        gateways.close()

    with capture_logs() as logs:
        virtual_time.run(run)
    lines = [each["event"] for each in logs]
    missing = "not ResolvedRefs (BackendNotFound): there is no Service default/web"
    assert lines.count(f"TCPRoute default/split: at Gateway default/edge: {missing}") == 1
    assert [each["problem"] for each in logs if each["event"] == "no longer so"] == [
        f"TCPRoute default/split: at Gateway default/edge: {missing}"
    ]


def test_a_status_has_a_sentence_for_each_thing_that_is_wrong() -> None:
    bad = statuses.Condition("Accepted", is_true=False, reason="Why", message="because")
    conflict = statuses.Condition("Conflicted", is_true=True, reason="ProtocolConflict")
    listener = statuses.ListenerStatus("tcp", (), 0, (bad, conflict))
    status = statuses.GatewayStatus(EDGE[1], 1, (), (bad,), (listener,))
    assert list(statuses.problems(status)) == [
        "not Accepted (Why): because",
        "listener tcp: not Accepted (Why): because",
        "listener tcp: Conflicted (ProtocolConflict)",
    ]
