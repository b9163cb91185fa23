"""The ops surface as one object: health, metrics, control socket and event log of one proxy."""

import asyncio
from collections.abc import Mapping

from kproxy import turns
from kproxy.model import addresses, forwarding
from kproxy.ops import event_log, health
from kproxy.ops.prometheus import durations
from kproxy.ops.serving import places, responder
from kproxy.ops.views import control, observed
from kproxy.plane import plane


class Surface:
    """Three small servers over what is observed of a proxy; each may be absent (None).

    `bind` first, so that addresses are known and taken before anything else happens; then `run`,
    until after the connections have drained, so that a draining proxy can be observed; `close` at
    the end, whether or not the others were called.
    """

    def __init__(
        self,
        seen: observed.Observed,
        *,
        healthz: places.Place | None,
        metrics: places.Place | None,
        control_socket: places.Place | None,
    ) -> None:
        self._seen = seen
        shared = turns.Turns()
        if metrics is not None:
            # prometheus_client takes a tenth of all the time that it takes to start.
            from kproxy.ops.prometheus.scrape import make_site as make_metrics  # noqa: PLC0415
        servers = {
            "control": (control_socket, lambda: control.make_site(seen, shared)),
            "healthz": (healthz, lambda: health.make_site(seen.syncs)),
            "metrics": (metrics, lambda: make_metrics(seen, shared)),
        }
        self._listeners = {
            name: responder.Listener(name, place, make_site) if place else None
            for name, (place, make_site) in servers.items()
        }

    def addresses(self) -> dict[str, str | None]:
        """Where each of them listens now: "control", "healthz" and "metrics"."""
        return {
            name: listener.address if listener else None
            for name, listener in self._listeners.items()
        }

    def bind(self) -> None:
        """Bind all addresses. Raises KproxyError when one that the user has named is taken."""
        for listener in self._present():
            listener.bind()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(durations.watch_lag(self._seen.lag), name="lag")
            feed, counters = self._seen.feed, self._seen.source.counters
            group.create_task(event_log.run(feed, counters), name="events")
            for listener in self._present():
                group.create_task(listener.run())

    def close(self) -> None:
        """Close every server's socket and remove the control socket's file."""
        for listener in self._present():
            listener.close()

    def _present(self) -> list[responder.Listener]:
        return [each for each in self._listeners.values() if each is not None]


def bar(forwarder: plane.Forwarder, places: Mapping[str, str | None]) -> None:
    """Bar kproxy's own addresses, by name, as endpoints: a Service must not lead to kproxy."""
    for name, address in places.items():
        if address is not None and (found := _socket_address(address)) is not None:
            forwarder.send(forwarding.Bar(found, f"kproxy's {name}"))


def _socket_address(text: str) -> addresses.SocketAddress | None:
    """The address and port of `text`; None for the path of a unix socket."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        return None
    return addresses.SocketAddress(address.strip("[]"), int(port))
