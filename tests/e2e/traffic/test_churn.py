"""Endpoints that come and go under traffic: no client notices (C01, C04)."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets


class Clients:
    """Threads that connect again and again; every answer and every failure is counted."""

    def __init__(self, address: daemon.Address, count: int) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers[sockets.ask(self._address)] += 1
            except OSError as error:
                self.failures.append(str(error))

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """They ask for as long as the block lasts."""
        for each in self._threads:
            each.start()
        try:
            yield
        finally:
            self._stop.set()
            for each in self._threads:
                each.join()


@pytest.mark.parametrize(
    ("streams", "more"),
    [pytest.param(20, 5, id="20"), pytest.param(200, 10, id="200", marks=pytest.mark.long)],
)
def test_c01_new_endpoints_are_used_and_long_streams_go_on(
    tmp_path: Path, run: conftest.Run, streams: int, more: int
) -> None:
    cluster_ip = manifests.fresh_ip()
    service = manifests.service("web", cluster_ip, 8080)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(sockets.backend(manifests.fresh_ip(127)))
        first = old.getsockname()
        path = manifests.write(tmp_path / "web.yaml", service, manifests.endpoints("web", [first]))
        address = run(path).address("web")
        held = [stack.enter_context(sockets.stream(address, old)) for _ in range(streams)]
        named = [(manifests.fresh_ip(127), f"new-{number}") for number in range(more)]
        added = stack.enter_context(sockets.namers(*named))
        backends = [pod.address for pod in added]

        manifests.write(path, service, manifests.endpoints("web", backends))

        seen: set[str] = set()

        def all_answer() -> bool:
            with contextlib.suppress(OSError):
                seen.add(sockets.ask(address, 0.5))
            return seen == {name for _, name in named}

        daemon.wait_until(all_answer, "every new endpoint answers")
        for each in held:
            each.check()


@pytest.mark.parametrize(
    "replacements",
    [pytest.param(15, id="15"), pytest.param(300, id="300", marks=pytest.mark.long)],
)
def test_c04_replacing_every_endpoint_again_and_again_costs_no_client_anything(
    tmp_path: Path, run: conftest.Run, replacements: int
) -> None:
    """The pods that were replaced stay up for a while, as terminating ones do."""
    cluster_ip = manifests.fresh_ip()
    service = manifests.service("web", cluster_ip, 8080)
    sets = [[(manifests.fresh_ip(127), f"{name}-{n}") for n in range(4)] for name in "ab"]
    with sockets.namers(*sets[0], *sets[1]) as pods:
        halves = [[pod.address for pod in half] for half in (pods[:4], pods[4:])]
        path = manifests.write(
            tmp_path / "web.yaml", service, manifests.endpoints("web", halves[0])
        )
        address = run(path).address("web")
        clients = Clients(address, 4)
        with clients.asking():
            for number in range(1, replacements + 1):
                before = clients.answers.copy()
                manifests.write(path, service, manifests.endpoints("web", halves[number % 2]))
                wanted = {name: before[name] for _, name in sets[number % 2]}
                daemon.wait_until(
                    lambda known=wanted: (  # type: ignore[misc]  # a default binds it
                        clients.failures
                        or all(clients.answers[name] > count for name, count in known.items())
                    ),
                    f"each of {list(wanted)} answers",
                )
        assert clients.failures == []
        assert set(clients.answers) == {name for half in sets for _, name in half}
