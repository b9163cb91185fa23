"""Connections through a SOCKS5 proxy: imported only where a kubeconfig or HTTPS_PROXY names one."""

import asyncio
import ssl

import aiohttp_socks
from aiohttp.client_proto import ResponseHandler

from kproxy.sources.access import transport


class Connector(aiohttp_socks.ProxyConnector):
    """aiohttp-socks' connector, with the same keepalive as other connections."""

    async def _connect_via_proxy(
        self,
        host: str,
        port: int,
        ssl: ssl.SSLContext | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the library's
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        made, protocol = await super()._connect_via_proxy(host, port, ssl, timeout)
        transport.keep_alive(made.get_extra_info("socket"))
        return made, protocol
