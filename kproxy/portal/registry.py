"""The portals there are, by the name that --portal gives them."""

from collections.abc import Callable, Mapping

from kproxy.portal import loopback, portal

PORTALS: Mapping[portal.PortalName, Callable[[portal.Settings], portal.Portal]] = {
    portal.PortalName.LOOPBACK: loopback.LoopbackPortal.for_this_process,
}


def make(name: portal.PortalName, settings: portal.Settings) -> portal.Portal:
    """The portal so named. It is the caller's to close."""
    return PORTALS[name](settings)
