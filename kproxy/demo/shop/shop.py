"""Puts the shop together: cluster, two nodes, clients, trouble; and says how it went."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kproxy import settings
from kproxy.demo import stage
from kproxy.demo.shop import (
    application,
    balancer,
    board,
    comparison,
    http_client,
    load,
    registry,
    tally,
    trouble,
)
from kproxy.ingress.daemon import program
from kproxy.simulator import certificates, cluster
from kproxy.simulator.kinds import pods
from kproxy.simulator.kinds.configuration import secret_rules
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object

RATE = 40.0
"""Requests in a second."""

_KILL_INTERVAL = 1.0
_PATHS = ("/user/7", "/order/1")
_PODS = 6
_ROLL_AT, _KILL_AT, _RETURN_AT = 0.25, 0.45, 0.65
"""Parts of the time after which a Deployment is rolled, a proxy is killed, and comes back."""


@dataclass(frozen=True, slots=True)
class Site:
    """The addresses of one node: where its Ingress listens and its DNS answers."""

    name: str
    https: settings.Listen
    dns: settings.Listen
    network: str
    """Where its proxy binds the addresses of Services."""


def sites(second_octet: int, port: int) -> tuple[Site, Site]:
    """Two nodes in 127.N.0.0/16, of which a simulated cluster uses the first half.

    The second proxy binds Services in the last quarter: both cannot have the same addresses.
    """
    base = f"127.{second_octet}"
    return (
        Site(
            "node-1",
            settings.Listen(f"{base}.129.1", port),
            settings.Listen(f"{base}.130.1", port),
            "127.0.0.0/8",
        ),
        Site(
            "node-2",
            settings.Listen(f"{base}.129.2", port),
            settings.Listen(f"{base}.130.2", port),
            f"{base}.192.0/18",
        ),
    )


async def show(
    shown: board.Board, counted: tally.Tally, seconds: float, *, compares: bool
) -> list[comparison.Row]:
    """Run the application under load and trouble for so long; everything ends with it.

    If it `compares`, the other architecture follows, and what both did is returned.

    Raises ConfigError without nginx, KproxyError when something cannot start.
    """
    program.find(None)
    async with stage.ended_by_signals(), AsyncExitStack() as stack:
        run = await _Run.prepared(stack, shown, counted)
        await run.show(seconds)
        return await run.compare() if compares else []


class _Run:
    """One run: what there is, and what happens to it."""

    def __init__(
        self,
        shown: board.Board,
        counted: tally.Tally,
        simulated: cluster.Cluster,
        nodes: "_Nodes",
        port: int,
    ) -> None:
        self._port = port
        self._board = shown
        self._tally = counted
        self._registry = simulated.registry
        self._nodes = nodes
        self._trouble = trouble.Trouble(self._registry, shown.event)
        self._tls = ssl.create_default_context(cadata=simulated.authority.pem.decode())

    @classmethod
    async def prepared(
        cls, stack: AsyncExitStack, shown: board.Board, counted: tally.Tally
    ) -> "_Run":
        """The cluster with its pods, and the proxies of both nodes, all ready."""
        port = stage.free_port()
        claimed = stack.enter_context(stage.claimed_ranges())
        both = sites(int(claimed.services.split(".")[1]), port)
        options = cluster.Options(
            service_cidr=claimed.services,
            pod_cidr=claimed.pods,
            load_balancer_cidr=claimed.load_balancers,
            nodes=len(both),
        )
        servers = {
            site.name: [each.dns for each in sorted(both, key=lambda each: each is not site)]
            for site in both
        }
        asked = application.Application(port, servers, counted)
        simulated = await stack.enter_async_context(cluster.Cluster(options, program=asked))
        simulated.apply(stage.manifests("kproxy.demo.shop", "shop.yaml", port))
        simulated.apply([_secret(simulated)])
        folder = stage.folder(stack)
        kubeconfig = stage.write_kubeconfig(simulated, folder)
        nodes = _Nodes(both, kubeconfig, folder)
        run = cls(shown, counted, simulated, nodes, port)
        await stage.until(
            simulated.registry, lambda: len(run.ready()) == _PODS, f"{_PODS} pods to be ready"
        )
        await stack.enter_async_context(nodes.running())
        return run

    async def show(self, seconds: float) -> None:
        """The load and the trouble."""
        clients = load.Clients(
            load.Load(_PATHS, RATE), self._nodes.balancer, self._tally, self._tls
        )
        with self._board.running(self._view):
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._trouble.run(_KILL_INTERVAL)),
                    group.create_task(self._board.follow()),
                ]
                events = group.create_task(self._events(seconds))
                await clients.run(seconds, self._nodes.balancer.nodes)
                await events
                for each in beside:
                    each.cancel()

    async def compare(self) -> list[comparison.Row]:
        """The same deaths, with a gateway and a registry beside the node."""
        self._board.say()
        self._board.say(
            "The other architecture: pods send heartbeats to a registry, and a gateway sends each "
            "request to one of them. Half of the requests go that way; none is repeated."
        )
        first = self._nodes.balancer.nodes[0]

        async def through_service() -> http_client.Answer:
            return await http_client.get(
                first.address,
                first.port,
                comparison.PATH,
                load.HOST,
                registry.ANSWER_SECONDS,
                self._tls,
            )

        made = comparison.Comparison(self._registry, through_service, self._port, self._trouble)
        return await made.run()

    async def _events(self, seconds: float) -> None:
        """What happens once: a rollout, the end of a proxy, its return."""
        began = asyncio.get_running_loop().time()

        async def at(part: float) -> None:
            await asyncio.sleep(began + part * seconds - asyncio.get_running_loop().time())

        await at(_ROLL_AT)
        self._trouble.roll(application.ORDERS)
        await at(_KILL_AT)
        first = self._nodes.sites[0].name
        self._board.event(f"the proxy of {first} is killed, and its nginx with it")
        await self._nodes.kill(first)
        await at(_RETURN_AT)
        await self._nodes.start(first)
        self._board.event(f"the proxy of {first} is back")

    def _view(self) -> board.View:
        found = self._registry.list(resources.PODS, application.NAMESPACE)
        return board.View(
            [
                board.PodRow(_name(pod), pod["spec"].get("nodeName", ""), _state(pod))
                for pod in found
            ],
            [
                board.NodeRow(
                    site.name,
                    str(site.https),
                    site.name in self._nodes.up,
                    self._nodes.balancer.is_healthy(node),
                )
                for site, node in zip(self._nodes.sites, self._nodes.balancer.nodes, strict=True)
            ],
        )

    def ready(self) -> list[Object]:
        """The pods that are ready."""
        return list(
            filter(pods.is_ready, self._registry.list(resources.PODS, application.NAMESPACE))
        )


class _Nodes:
    """The proxies of all nodes, as processes."""

    def __init__(self, both: tuple[Site, ...], kubeconfig: Path, folder: Path) -> None:
        self.sites = both
        self.up: set[str] = set()
        """The names of those whose proxy runs."""
        self.balancer = balancer.Balancer([balancer.Node(site.name, *site.https) for site in both])
        self._proxies = {
            site.name: stage.Proxy(kubeconfig, folder / site.name, _flags(site)) for site in both
        }
        for each in self._proxies.values():
            each.folder.mkdir()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All run when this is entered, and are stopped at the end. Raises KproxyError."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in self._proxies:
                    group.create_task(self.start(name))
            yield
        finally:
            await asyncio.gather(*(each.stop() for each in self._proxies.values()))

    async def start(self, name: str) -> None:
        """Start a proxy; it is ready then."""
        await self._proxies[name].start()
        self.up.add(name)

    async def kill(self, name: str) -> None:
        """Kill a proxy."""
        self.up.discard(name)
        await self._proxies[name].kill()


def _flags(site: Site) -> list[str]:
    return [
        *("--hostname-override", site.name, "--loopback-network", site.network),
        *("--dns", str(site.dns), "--ingress"),
        *("--ingress-http", "", "--ingress-https", str(site.https)),
    ]


def _secret(simulated: cluster.Cluster) -> Object:
    """The certificate of the shop, signed by the cluster's authority."""
    made = certificates.issued(simulated.authority, [], [load.HOST], datetime.now(UTC))
    return secret_rules.tls_secret("shop-tls", made.pem, made.key)


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _state(pod: Object) -> str:
    if pods.behaviour(pod).is_black_hole:
        return "lost"
    if pods.is_terminating(pod):
        return "ends"
    return "ready" if pods.is_ready(pod) else "starts"
