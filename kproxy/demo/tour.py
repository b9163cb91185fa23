"""`kproxy demo`: a simulated cluster and the proxy; ask the Services, show which pods answer."""

import asyncio
import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from kproxy import settings
from kproxy.demo import screen, stage
from kproxy.simulator import cluster, cluster_dns
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object

_REQUEST_SECONDS = 5.0
_NAMESPACE = "default"
_STEPS = 7


async def show(shown: screen.Screen, *, stays: bool) -> None:
    """Run the whole demonstration; processes, files and sockets are removed at the end.

    With `stays` the cluster and the proxy go on after the steps until Ctrl-C. Raises KproxyError
    when no port is free, and after a SIGTERM or SIGHUP.
    """
    async with stage.ended_by_signals(), AsyncExitStack() as stack:
        port = stage.free_port()
        claimed = stack.enter_context(stage.claimed_ranges())
        options = cluster.Options(
            service_cidr=claimed.services,
            pod_cidr=claimed.pods,
            load_balancer_cidr=claimed.load_balancers,
            dns=settings.Listen("127.0.0.1", 0),
        )
        simulated = await stack.enter_async_context(cluster.Cluster(options))
        simulated.apply(stage.manifests("kproxy.demo", "sample.yaml", port))
        tour = _Tour(shown, simulated)
        await tour.wait_for_pods(3)
        folder = stage.folder(stack)
        kubeconfig = stage.write_kubeconfig(simulated, folder)
        await stack.enter_async_context(stage.proxy(kubeconfig, folder))
        await tour.show()
        if stays:
            await _stay(shown, tour.address("web"), folder)


async def _stay(shown: screen.Screen, web: tuple[str, int], folder: Path) -> None:
    """Keep the cluster and the proxy running for the user, until Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    shown.say("\nIt stays up until Ctrl-C. Try this in another terminal:\n")
    for command in _hints(web, folder):
        shown.command(command)
    try:
        await stop.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _hints(web: tuple[str, int], folder: Path) -> list[str]:
    """Commands that work as they stand, with the programs that are installed here."""
    ask = f"http://{web[0]}:{web[1]}/"
    hints = [f"curl {ask}" if shutil.which("curl") else f"wget -qO- {ask}"]
    if shutil.which("kubectl"):
        hints += [
            f"export KUBECONFIG={shlex.quote(str(folder / stage.KUBECONFIG))}",
            "kubectl get svc,pods",
            "kubectl scale deployment web --replicas 8",
        ]
    control = shlex.quote(str(folder / stage.CONTROL))
    return [*hints, f"{_own_command()} get endpoints --control {control}"]


def _own_command() -> str:
    """The command by which a shell calls this program: its name if that finds it, else its path."""
    called = Path(sys.argv[0]).absolute()
    if called.name != "kproxy":
        return f"{shlex.quote(sys.executable)} -m kproxy"
    found = shutil.which("kproxy")
    return "kproxy" if found and Path(found).samefile(called) else shlex.quote(str(called))


class _Tour:
    """The steps, in order."""

    def __init__(self, shown: screen.Screen, simulated: cluster.Cluster) -> None:
        self._screen = shown
        self._registry = simulated.registry

    async def show(self) -> None:
        await self._services()
        await self._rotation()
        await self._deleted_pod()
        await self._scaling()
        await self._affinity()
        await self._no_endpoints()
        await self._dns()

    def address(self, service: str, namespace: str = _NAMESPACE) -> tuple[str, int]:
        """Where a Service is reached: what kubectl prints."""
        spec = self._registry.get(resources.SERVICES, service, namespace)["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]

    async def wait_for_pods(self, count: int) -> None:
        """Return when `count` pods are ready."""
        await self._until(lambda: len(self._ready()) == count, f"{count} pods to be ready")

    async def _services(self) -> None:
        self._title(1, "Services come up")
        self._screen.say("The cluster has 3 nodes, a Deployment of 3 pods, and 3 Services:")
        self._screen.pods((_name(pod), _address(pod)) for pod in self._ready())
        rows = []
        for name in ("web", "sticky", "empty"):
            address, port = self.address(name)
            found = self._registry.get(resources.ENDPOINTS, name, _NAMESPACE)["subsets"]
            count = sum(len(subset.get("addresses", ())) for subset in found)
            rows.append((name, f"{address}:{port}", f"{count} pods" if count else "none"))
        self._screen.rows(("SERVICE", "CLUSTER-IP", "ENDPOINTS"), rows)
        await self._screen.why(
            "A Service is an address that stays while pods come and go. The proxy has read the "
            "Services and their endpoints from the API server, and listens on each ClusterIP "
            "that has endpoints."
        )

    async def _rotation(self) -> None:
        self._title(2, "Rotation")
        self._screen.say("9 requests to web, each on a connection of its own:")
        await self._ask("web", 9)
        await self._screen.why(
            "The proxy accepts each connection, takes the next endpoint in turn, and copies the "
            "bytes both ways: every pod gets the same share."
        )

    async def _deleted_pod(self) -> None:
        gone, known = self._ready()[0], self._names()
        self._title(3, "A pod is deleted")
        self._screen.command(f"kubectl delete pod {_name(gone)}")
        self._registry.delete(resources.PODS, gone["metadata"]["name"], _NAMESPACE)
        await self._until(lambda: self._names() - known, "a successor")
        new = (self._names() - known).pop()
        await self._until(lambda: new in map(_name, self._ready()), f"{new} to be ready")
        addresses = {_name(pod): _address(pod) for pod in (gone, *self._ready())}
        self._screen.pods(
            ((_name(gone), addresses[_name(gone)], "gone"), (new, addresses[new], "has joined"))
        )
        await self._until_answering(3)
        await self._ask("web", 9)
        await self._screen.why(
            "The Deployment made a new pod, on another address. The endpoints of web changed, the "
            "proxy follows them, and clients keep the same address."
        )

    async def _scaling(self) -> None:
        self._title(4, "Scaling")
        self._screen.command("kubectl scale deployment web --replicas 5")
        patch = {"spec": {"replicas": 5}}
        self._registry.patch(resources.DEPLOYMENTS, _NAMESPACE, "web", "merge", patch)
        await self.wait_for_pods(5)
        await self._until_answering(5)
        await self._ask("web", 10)
        await self._screen.why(
            "A pod joins the rotation when it is ready, not when it is created. Connections are "
            "balanced one by one, so new pods have their share at once."
        )

    async def _affinity(self) -> None:
        self._title(5, "ClientIP affinity")
        self._screen.say("6 requests to sticky, from one client:")
        await self._ask("sticky", 6)
        await self._screen.why(
            "The Service has sessionAffinity: ClientIP. The proxy remembers which endpoint a "
            "client's address got, until 10800 s (three hours) after its last connection."
        )

    async def _no_endpoints(self) -> None:
        self._title(6, "No endpoints")
        self._screen.say("A request to empty:")
        await self._ask("empty", 1)
        await self._screen.why(
            "No pod carries the label that empty selects, so the proxy does not listen for it. A "
            "client is refused at once, instead of being accepted and then dropped."
        )

    async def _dns(self) -> None:
        self._title(7, "Names")
        address, port = self.address(cluster_dns.NAME, cluster_dns.NAMESPACE)
        name = f"web.{_NAMESPACE}.svc.{cluster_dns.DOMAIN}"
        self._screen.command(f"dig +short @{address} -p {port} {name}")
        self._screen.say(f"  {await _address_of(name, (address, port))}")
        await self._screen.why(
            "Pods ask the Service kube-dns, at the tenth address of the range. The question came "
            "through the proxy to the cluster's DNS, which is kproxy's own name server here: it "
            "answers from the same Services and endpoints."
        )

    def _title(self, number: int, title: str) -> None:
        self._screen.title(number, _STEPS, title)

    async def _ask(self, service: str, count: int) -> None:
        await self._screen.answers(lambda: _ask(self.address(service)), count)

    async def _until_answering(self, count: int) -> None:
        """Return when the proxy sends a round of requests to `count` different pods, all ready."""

        async with stage.patience(f"{count} pods to answer"):
            while True:
                answers = {await _ask(self.address("web")) for _ in range(count)}
                if answers == set(map(_name, self._ready())):
                    return
                await asyncio.sleep(0.02)

    async def _until(self, condition: Callable[[], object], what: str) -> None:
        await stage.until(self._registry, condition, what)

    def _ready(self) -> list[Object]:
        """Pods that take new connections."""
        listed = self._registry.list(resources.PODS, _NAMESPACE)
        return [pod for pod in listed if pods.is_ready(pod) and not pods.is_terminating(pod)]

    def _names(self) -> set[str]:
        return set(map(_name, self._registry.list(resources.PODS, _NAMESPACE)))


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _address(pod: Object) -> str:
    return str(pod["status"]["podIP"])


async def _address_of(name: str, server: tuple[str, int]) -> str:
    """The address that a DNS server gives for a name, or why it gives none."""
    # It takes a tenth of a second to load, which the first step need not wait for.
    import dns.asyncquery  # noqa: PLC0415
    import dns.exception  # noqa: PLC0415
    import dns.message  # noqa: PLC0415

    query = dns.message.make_query(name, "A")
    try:
        answer = await dns.asyncquery.udp(query, server[0], _REQUEST_SECONDS, server[1])
    except (OSError, dns.exception.DNSException) as error:
        return f"no answer: {error}"
    found = [data.to_text() for records in answer.answer for data in records]
    return found[0] if found else "no address"


async def _ask(address: tuple[str, int]) -> str:
    """One request on a new connection; the pod that answered, or why none did."""
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
