"""Ingress: the component that serves Ingresses by an nginx of its own."""

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from kproxy.ingress import certificates, follower, nginx_config, problems, state
from kproxy.ingress.daemon import listening, nginx, private_directory, program
from kproxy.ingress.settings import IngressSettings, Upstream
from kproxy.model import addresses, names
from kproxy.sources import source
from kproxy.system import privileges

if TYPE_CHECKING:
    from kproxy import settings
    from kproxy.ingress.cluster import publisher

WITHDRAWAL_SECONDS = 5.0
"""How long it may take at the end to take our addresses out of Ingresses' status."""

_log = structlog.get_logger(__name__)


class Ingress:
    """A `component.Component`. `upstream` says where requests for a service port go; `shown` is
    kept true of what is in force, and `written` publishes it where there is an API server.

    Raises ConfigError if nginx is not there, or the settings cannot work.
    """

    name = "ingress"

    def __init__(
        self,
        chosen: IngressSettings,
        read: source.Source,
        upstream: nginx_config.Upstream,
        shown: state.IngressState,
        written: "publisher.Publisher | None" = None,
    ) -> None:
        chosen.check_ingress()
        self._settings = chosen
        self._shown = shown
        self._program = program.find(chosen.nginx)
        self._sockets = listening.Listening()
        self._places: dict[str, settings.Listen | None] = {}
        self._directory: private_directory.PrivateDirectory | None = None
        self._nginx: nginx.Nginx | None = None
        self._publisher = written
        on_look = written.look if written else lambda: None
        report = problems.Report(shown, written.note if written else lambda _: None)
        choice = follower.Choice(
            chosen.ingress_class,
            through_endpoints=chosen.ingress_upstream is Upstream.ENDPOINTS,
        )
        self._follower = follower.Follower(read, upstream, choice, report, shown, on_look)

    def look(self, service: names.NamespacedName) -> None:
        """Look at a Service again soon: its frontends may be reached elsewhere."""
        self._follower.look_at(frozenset([service]))

    def bind(self) -> None:
        """Take the addresses, and make a directory for nginx. Raises KproxyError."""
        parent = private_directory.base(os.environ, os.geteuid())
        record = self._publisher.record if self._publisher is not None else None
        if private_directory.recover(parent, record.take if record else lambda _: None):
            _log.info("removed what a proxy that was killed has left", directory=str(parent))
        self._sockets.bind(self._settings.ingress_http, self._settings.ingress_https)
        self._places = {
            "ingress_http": listening.place(self._sockets.http),
            "ingress_https": listening.place(self._sockets.https),
        }
        self._shown.addresses = self.addresses()
        self._directory = private_directory.PrivateDirectory(parent, is_shared=os.geteuid() == 0)
        if record is not None:
            record.keep_by(self._directory.write)
        self._sockets.bind_control(self._directory.path / listening.CONTROL)
        self._nginx = nginx.Nginx(
            self._program, self._directory, self._sockets, self._shown.counters
        )

    def addresses(self) -> Mapping[str, str | None]:
        """Where clients connect, by the names of the ready file."""
        return {name: str(place) if place else None for name, place in self._places.items()}

    async def run(self) -> None:
        """Serve until cancelled. Raises KproxyError if nginx cannot serve at all."""
        if self._nginx is None or self._directory is None:
            raise RuntimeError("bind comes first")
        version = await program.version(self._program)
        chosen = self._configuration_settings(self._directory, version)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nginx.run(), name="nginx")
            group.create_task(self._follower.run(self._nginx, chosen), name="Ingresses")
            if self._publisher is not None:
                group.create_task(self._publisher.run(), name="what is written about Ingresses")

    async def ready(self) -> None:
        """Return once the first table is in force."""
        await self._follower.is_in_force.wait()

    async def drain(self, grace: float) -> None:
        """Answer the requests that are there, for `grace` seconds at most, and accept no more."""
        self._follower.close()
        async with asyncio.TaskGroup() as group:
            if self._publisher is not None:
                group.create_task(self._publisher.withdraw(min(grace, WITHDRAWAL_SECONDS)))
            if self._nginx is not None:
                group.create_task(self._nginx.drain(grace))

    def close(self) -> None:
        """Release everything."""
        self._follower.close()
        if self._nginx is not None:
            self._nginx.close()
        self._sockets.close()
        if self._directory is not None:
            self._directory.close()

    def _configuration_settings(
        self, directory: private_directory.PrivateDirectory, version: tuple[int, ...]
    ) -> nginx_config.Settings:
        def listened(name: str) -> tuple[addresses.SocketAddress, ...]:
            place = self._places[name]
            return (addresses.SocketAddress(*place),) if place else ()

        return nginx_config.Settings(
            directory=str(directory.path),
            control=f"unix:{directory.path / listening.CONTROL}",
            default_certificate=certificates.self_made(),
            http=listened("ingress_http"),
            https=listened("ingress_https"),
            version=version,
            user=_workers_user(),
            ending=str(directory.path / nginx.ENDING),
        )


def _workers_user() -> str:
    """The user of nginx's workers; "" for the one that nginx was built with, or this one."""
    if os.geteuid() != 0 or privileges.may_change_user():
        return ""
    _log.warning(
        "nginx's workers run as root: allow CAP_SETUID, CAP_SETGID, CAP_CHOWN and CAP_KILL to this "
        "process, or run kproxy as another user"
    )
    return "root"
