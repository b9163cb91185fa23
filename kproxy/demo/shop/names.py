"""How a pod of the shop finds a Service: as glibc's resolver does, with the pod's search list.

Each name of the search list is asked of one name server after the other. The sockets are connected,
so a server that does not run is known at once, by the kernel's ICMP error. Nothing is kept.
"""

import asyncio
from collections.abc import Sequence

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from kproxy import settings
from kproxy.demo.shop import http_client

_SEARCH = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")
_SECONDS = 1.0
"""How long a name server may take before the next one is asked."""


async def resolve(name: str, servers: Sequence[settings.Listen]) -> str:
    """An IPv4 address of a name without dots. Raises NoAnswerError."""
    failed = "no name server"
    for domain in _SEARCH:
        query = dns.message.make_query(f"{name}.{domain}.", dns.rdatatype.A)
        for server in servers:
            try:
                async with asyncio.timeout(_SECONDS):
                    response = await _ask(query, server)
            except (OSError, TimeoutError) as error:
                failed = f"DNS: {http_client.reason(error)}"
                continue
            if response.rcode() == dns.rcode.NXDOMAIN:
                failed = "DNS: no such name"
                break
            if found := _address(response):
                return found
            failed = f"DNS: {dns.rcode.to_text(response.rcode())}"
    raise http_client.NoAnswerError(failed)


def _address(response: dns.message.Message) -> str:
    """The first address of an answer; "" without one."""
    found = (record for each in response.answer for record in each)
    return next((str(each) for each in found if each.rdtype == dns.rdatatype.A), "")


async def _ask(query: dns.message.Message, server: settings.Listen) -> dns.message.Message:
    """The response of a server. Raises OSError."""
    loop = asyncio.get_running_loop()
    transport, asked = await loop.create_datagram_endpoint(
        lambda: _Asked(query, loop.create_future()), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(query.to_wire())
        return await asked.response
    finally:
        transport.close()


class _Asked(asyncio.DatagramProtocol):
    """Waits for the response to a query."""

    def __init__(
        self, query: dns.message.Message, response: "asyncio.Future[dns.message.Message]"
    ) -> None:
        self._query = query
        self.response = response

    def datagram_received(self, data: bytes, _: object) -> None:
        """Take it if it answers the query; whatever else comes is passed over."""
        try:
            received = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        if self._query.is_response(received) and not self.response.done():
            self.response.set_result(received)

    def error_received(self, error: Exception) -> None:
        """Nothing listens there."""
        if not self.response.done():
            self.response.set_exception(error)
