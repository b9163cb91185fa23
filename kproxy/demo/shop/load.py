"""The clients of the shop: a steady load of GET requests through the Ingress of two nodes.

A GET may be repeated safely. So an attempt that got no answer, or 502, 503 or 504 from nginx, is
repeated through a healthy node, at most twice; each repetition is counted. POST is not sent:
whether a lost one was carried out cannot be known.
"""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from kproxy.demo.shop import balancer, http_client, tally

HOST = "shop.example"
"""The host of the Ingress."""

ATTEMPTS = 3
_ATTEMPT_SECONDS = 3.0
_CHECK_SECONDS = 0.5
_AGAIN = frozenset({502, 503, 504})
_REQUESTS_PER_CONNECTION = 20
_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked: paths in turn, requests in a second, attempts of a request."""

    paths: Sequence[str]
    rate: float
    attempts: int = ATTEMPTS


class Clients:
    """Several clients that ask at a steady rate while `run` does, and health checks beside them."""

    def __init__(
        self,
        load: Load,
        nodes: balancer.Balancer,
        counted: tally.Tally,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`tls` is for servers of `HOST`; without it requests are plain."""
        self._load = load
        self._nodes = nodes
        self._tally = counted
        self._tls = tls
        self._paths = itertools.cycle(load.paths)
        self._began = 0.0

    async def run(self, seconds: float, checked: Sequence[balancer.Node]) -> None:
        """Ask for so long; return when every request has been answered, or has failed.

        The health of the `checked` nodes is looked at meanwhile.
        """
        self._began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(self._check(node)) for node in checked]
            async with asyncio.TaskGroup() as workers:
                for number in range(_WORKERS):
                    workers.create_task(self._work(number, seconds))
            for each in checks:
                each.cancel()

    async def _work(self, number: int, seconds: float) -> None:
        """One client: it keeps a connection to each node for some requests."""
        loop = asyncio.get_running_loop()
        interval = _WORKERS / self._load.rate
        due = self._began + interval * number / _WORKERS
        kept: dict[balancer.Node, _Kept] = {}
        try:
            while due < self._began + seconds:
                await asyncio.sleep(due - loop.time())
                await self._ask(next(self._paths), kept)
                due = max(due + interval, loop.time())
        finally:
            for each in kept.values():
                each.connection.close()

    async def _ask(self, path: str, kept: "dict[balancer.Node, _Kept]") -> None:
        """One request, with its repetitions."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reasons: list[str] = []
        for node in itertools.islice(self._nodes.attempts(), self._load.attempts):
            if reasons:
                self._tally.retried("client", reasons[-1])
            try:
                answer = await self._attempt(path, node, kept)
            except http_client.NoAnswerError as error:
                reasons.append(f"{error} ({node.name})")
                continue
            if answer.status == 200:
                pod = answer.body.partition("\n")[0].removeprefix("pod: ")
                self._tally.answered(pod, node.name, loop.time() - began)
                return
            reasons.append(f"status {answer.status} ({node.name})")
            if answer.status not in _AGAIN:
                break
        at = loop.time() - self._began
        self._tally.failed_with(tally.Failure(at, path, tuple(reasons)))

    async def _attempt(
        self, path: str, node: balancer.Node, kept: "dict[balancer.Node, _Kept]"
    ) -> http_client.Answer:
        """Send it through a node, on the connection that is there. Raises NoAnswerError."""
        used = kept.pop(node, None)
        if used is not None and not used.connection.is_usable:  # closed while it was idle
            used.connection.close()
            used = None
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                if used is None:
                    opened = await http_client.Connection.open(
                        node.address, node.port, self._tls, HOST
                    )
                    used = _Kept(opened)
                answer = await used.connection.get(path, HOST)
        except (OSError, TimeoutError) as error:
            if isinstance(error, ConnectionRefusedError):
                self._nodes.refused(node)
            elif isinstance(error, ConnectionError):
                self._nodes.broke_off(node)
            if used is not None:
                used.connection.close()
            raise http_client.NoAnswerError(http_client.reason(error)) from error
        except http_client.NoAnswerError:
            assert used is not None
            self._nodes.broke_off(node)
            used.connection.close()
            raise
        used.left -= 1
        if used.left > 0 and used.connection.is_usable:
            kept[node] = used
        else:
            used.connection.close()
        return answer

    async def _check(self, node: balancer.Node) -> None:
        """Look at a node's health, as an SLB does: an HTTP request through it, twice a second."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            is_well = False
            with contextlib.suppress(http_client.NoAnswerError):
                answer = await http_client.get(
                    node.address, node.port, "/user/health", HOST, _ATTEMPT_SECONDS, self._tls
                )
                is_well = answer.status == 200
            self._nodes.checked(node, is_well=is_well)


@dataclass(slots=True)
class _Kept:
    """A connection that is kept open, and how many requests it is still good for."""

    connection: http_client.Connection
    left: int = _REQUESTS_PER_CONNECTION
