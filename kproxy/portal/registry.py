"""The portals there are, by the name that --portal gives them."""

from collections.abc import Callable, Mapping

from kproxy.portal import loopback, portal


def _local(settings: portal.Settings) -> portal.Portal:
    # It loads pyroute2, which takes half as long as everything else.
    from kproxy.portal.local import local  # noqa: PLC0415

    return local.LocalPortal(settings)


PORTALS: Mapping[portal.PortalName, Callable[[portal.Settings], portal.Portal]] = {
    portal.PortalName.LOOPBACK: loopback.LoopbackPortal.for_this_process,
    portal.PortalName.LOCAL: _local,
}


def make(name: portal.PortalName, settings: portal.Settings) -> portal.Portal:
    """The portal so named. It is the caller's to close."""
    return PORTALS[name](settings)
