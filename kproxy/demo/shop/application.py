"""What the pods of the shop run: UserMgr answers about users, OrderMgr asks it by name.

An answer begins with a line `pod: NAME`. OrderMgr finds UserMgr as any program in a pod does: it
asks the name servers of its node for `usermgr`, with the search list of its namespace, and connects
to the address of the Service that they give. A GET to UserMgr that got no answer is repeated once,
with the other name server first.
"""

from collections.abc import Mapping, Sequence

from aiohttp import web

from kproxy import settings
from kproxy.demo.shop import http_client, names, tally
from kproxy.simulator.store import registry, resources
from kproxy.simulator.store.storage import Object

USERS, ORDERS = "usermgr", "ordermgr"
"""The Services, and the values of their pods' label `app`."""

NAMESPACE = "default"
_ATTEMPTS = 2
_SECONDS = 2.0


def service_of(pod: Object) -> str:
    """The Service to which a pod belongs; "" for a stranger."""
    return str((pod["metadata"].get("labels") or {}).get("app", ""))


def pods_of(objects: registry.Registry, service: str) -> list[Object]:
    """The pods of a Service, whatever their state."""
    every = objects.list(resources.PODS, NAMESPACE)
    return [pod for pod in every if service_of(pod) == service]


class Application:
    """The program of all pods. `port` is that of both Services."""

    def __init__(
        self, port: int, name_servers: Mapping[str, Sequence[settings.Listen]], counted: tally.Tally
    ) -> None:
        """`name_servers` are those of each node's pods, in the order in which they are asked."""
        self._port = port
        self._servers = name_servers
        self._tally = counted

    async def __call__(self, pod: Object, request: web.BaseRequest) -> web.Response | None:
        """Answer as the pod's service does."""
        service = service_of(pod)
        text = f"pod: {pod['metadata']['name']}\n"
        if service == USERS:
            return web.Response(text=f"{text}user: {request.path.rpartition('/')[2]}\n")
        if service == ORDERS:
            found, failed = await self._user(pod["spec"]["nodeName"])
            if found is None:
                return web.Response(status=503, text=f"{text}usermgr: {failed}\n")
            return web.Response(text=f"{text}order: {request.path.rpartition('/')[2]}\n{found}")
        return None

    async def _user(self, node: str) -> tuple[str | None, str]:
        """What UserMgr says, or None and why there is no answer."""
        servers = list(self._servers[node])
        failed = ""
        for _ in range(_ATTEMPTS):
            if failed:
                self._tally.retried("OrderMgr, to UserMgr", failed)
            try:
                address = await names.resolve(USERS, servers)
                answer = await http_client.get(address, self._port, "/user/7", USERS, _SECONDS)
            except http_client.NoAnswerError as error:
                failed = str(error)
            else:
                if answer.status == 200:
                    return answer.body.replace("pod: ", "user-pod: "), ""
                failed = f"status {answer.status}"
            servers.reverse()
        return None, failed
