"""`kproxy demo`: a simulated cluster and the proxy; ask the Services, and show who answers."""

import asyncio
import contextlib
import shlex
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources as package_files
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from kproxy import errors
from kproxy.cluster import documents
from kproxy.demo import stage
from kproxy.simulator import cluster, pods, resources
from kproxy.simulator.storage import Object

_REQUEST_SECONDS = 5.0
_WAIT_SECONDS = 15.0
_NAMESPACE = "default"
KUBECONFIG = "kubeconfig"
"""The cluster's kubeconfig, in the folder of the demonstration's files."""


async def show(console: Console) -> None:
    """Run the whole demonstration, and leave nothing behind.

    On a terminal it stays up after the lessons until Ctrl-C. Raises KproxyError when a port it
    needs is taken, and after a SIGTERM.
    """
    async with _ended_by_sigterm(), AsyncExitStack() as stack:
        ranges = stack.enter_context(stage.claimed_ranges())
        options = cluster.Options(
            service_cidr=ranges.services,
            pod_cidr=ranges.pods,
            load_balancer_cidr=ranges.load_balancers,
        )
        simulated = await stack.enter_async_context(cluster.Cluster(options))
        simulated.apply(_manifests())
        lessons = _Lessons(console, simulated)
        await lessons.wait_for_pods(3)
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="kproxy-demo-", ignore_cleanup_errors=True)
            )
        )
        kubeconfig = folder / KUBECONFIG
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(yaml.safe_dump(simulated.kubeconfig))
        await stack.enter_async_context(stage.proxy(kubeconfig, folder))
        await lessons.show()
        if console.is_terminal:
            await _stay(console, lessons.address("web"), folder)


@asynccontextmanager
async def _ended_by_sigterm() -> AsyncIterator[None]:
    """A SIGTERM unwinds like Ctrl-C does, so that everything is put away."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    received = asyncio.Event()

    def end() -> None:
        received.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if not received.is_set():
            raise
        raise errors.KproxyError("the demonstration was ended by SIGTERM, before its end") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _stay(console: Console, web: tuple[str, int], folder: Path) -> None:
    """Leave the cluster and the proxy up for the user to play with, until Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    console.print("\n[bold]It stays up until Ctrl-C.[/] Have a look, from another terminal:\n")
    for command in (
        f"export KUBECONFIG={shlex.quote(str(folder / KUBECONFIG))}",
        "kubectl get svc,pods --output wide",
        "kubectl scale deployment web --replicas 8",
        f"curl http://{web[0]}:{web[1]}/",
        f"kproxy get services --control {shlex.quote(str(folder / stage.CONTROL))}",
    ):
        console.print(f"   {command}", soft_wrap=True)
    try:
        await stop.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _manifests() -> list[Object]:
    text = package_files.files("kproxy.demo").joinpath("sample.yaml").read_bytes()
    return [document.value for document in documents.read_yaml(text)]


class _Lessons:
    """What is shown, in order."""

    def __init__(self, console: Console, simulated: cluster.Cluster) -> None:
        self._console = console
        self._registry = simulated.registry

    async def show(self) -> None:
        """All of them."""
        self._services()
        await self._rotation()
        await self._deleted_pod()
        await self._scaling()
        await self._affinity()
        await self._nobody()

    def address(self, service: str) -> tuple[str, int]:
        """Where a Service is reached: what kubectl prints."""
        spec = self._registry.get(resources.SERVICES, service, _NAMESPACE)["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]

    async def wait_for_pods(self, count: int) -> None:
        """Return when `count` pods are ready."""
        await self._until(lambda: len(self._ready()) == count, f"{count} pods to be ready")

    def _services(self) -> None:
        self._title("1. Services come up.", "The cluster has 3 nodes and a Deployment of 3 pods:")
        table = Table("Service", "ClusterIP", "Endpoints", box=None, pad_edge=False)
        for name in ("web", "sticky", "empty"):
            address, port = self.address(name)
            found = self._registry.get(resources.ENDPOINTS, name, _NAMESPACE)["subsets"]
            ips = [each["ip"] for subset in found for each in subset.get("addresses", ())]
            table.add_row(name, f"{address}:{port}", " ".join(ips) or "none")
        self._console.print(table)

    async def _rotation(self) -> None:
        self._title("2. Rotation.", "9 requests to web, each on a connection of its own:")
        self._print_answers([await _ask(self.address("web")) for _ in range(9)])

    async def _deleted_pod(self) -> None:
        gone, known = self._ready()[0], self._names()
        self._title("3. A pod is deleted.", f"{gone['metadata']['name']} goes; its successor:")
        self._registry.delete(resources.PODS, gone["metadata"]["name"], _NAMESPACE)
        await self._until(lambda: self._names() - known, "a successor")
        new = (self._names() - known).pop()
        await self._until(lambda: new in map(_name, self._ready()), f"{new} to be ready")
        addresses = {_name(pod): pod["status"]["podIP"] for pod in (gone, *self._ready())}
        self._console.print(
            f"   {new} has joined at {addresses[new]}; its forerunner had {addresses[_name(gone)]}",
            soft_wrap=True,
        )
        await self._until_answering(3)
        self._print_answers([await _ask(self.address("web")) for _ in range(9)])

    async def _scaling(self) -> None:
        self._title("4. Scaling.", "kubectl scale deployment web --replicas 5:")
        patch = {"spec": {"replicas": 5}}
        self._registry.patch(resources.DEPLOYMENTS, _NAMESPACE, "web", "merge", patch)
        await self.wait_for_pods(5)
        await self._until_answering(5)
        self._print_answers([await _ask(self.address("web")) for _ in range(10)])

    async def _affinity(self) -> None:
        self._title("5. ClientIP affinity.", "6 requests to sticky, from one client:")
        self._print_answers([await _ask(self.address("sticky")) for _ in range(6)])

    async def _nobody(self) -> None:
        self._title("6. No endpoints.", "A request to empty:")
        self._print_answers([await _ask(self.address("empty"))])

    async def _until_answering(self, count: int) -> None:
        """Return when the proxy sends a round of requests to `count` different pods, all ready."""

        async with _patience(f"{count} pods to answer"):
            while True:
                answers = {await _ask(self.address("web")) for _ in range(count)}
                if answers == set(map(_name, self._ready())):
                    return
                await asyncio.sleep(0.02)

    async def _until(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition` holds, which only a change in the cluster can make true."""
        changed = asyncio.Event()
        unsubscribe = self._registry.storage.subscribe(lambda _: changed.set())
        try:
            async with _patience(what):
                while not condition():
                    changed.clear()
                    await changed.wait()
        finally:
            unsubscribe()

    def _ready(self) -> list[Object]:
        """Pods that take new connections."""
        listed = self._registry.list(resources.PODS, _NAMESPACE)
        return [pod for pod in listed if pods.is_ready(pod) and not pods.is_terminating(pod)]

    def _names(self) -> set[str]:
        return set(map(_name, self._registry.list(resources.PODS, _NAMESPACE)))

    def _title(self, title: str, what: str) -> None:
        self._console.print(f"\n[bold]{title}[/] {what}", soft_wrap=True)

    def _print_answers(self, answers: Sequence[str]) -> None:
        in_order = " ".join(answer.rpartition("-")[2] for answer in answers)
        self._console.print(f"   {in_order}", soft_wrap=True)
        for answer, count in sorted(Counter(answers).items()):
            self._console.print(f"   [dim]{answer}: {count}[/]", soft_wrap=True)


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


@asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    """Raise KproxyError when the body takes too long."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            yield
    except TimeoutError:
        raise errors.KproxyError(
            f"the demonstration waited {_WAIT_SECONDS:g} s for {what}, in vain; "
            "is this machine very busy?"
        ) from None


async def _ask(address: tuple[str, int]) -> str:
    """One request on a connection of its own; the pod that answered, or why nobody did."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            reader, writer = await asyncio.open_connection(*address)
            with contextlib.closing(writer):
                host = f"{address[0]}:{address[1]}"
                writer.write(
                    f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                answer = (await reader.read()).decode()
    except ConnectionRefusedError:
        return "connection refused"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return f"failed: {error.strerror}"
    pod = [line for line in answer.splitlines() if line.startswith("pod: ")]
    return pod[0].removeprefix("pod: ") if pod else "closed without an answer"
