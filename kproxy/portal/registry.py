"""The portals there are, by the name that --portal gives them."""

from collections.abc import Callable, Mapping

from kproxy.portal import loopback, portal


def _local(settings: portal.Settings) -> portal.Portal:
    # Imported late: it imports pyroute2, which takes half as long as all other imports.
    from kproxy.portal.local import local  # noqa: PLC0415

    return local.LocalPortal(settings)


PORTALS: Mapping[portal.PortalName, Callable[[portal.Settings], portal.Portal]] = {
    portal.PortalName.LOOPBACK: loopback.LoopbackPortal.for_this_process,
    portal.PortalName.LOCAL: _local,
}


def make(name: portal.PortalName, settings: portal.Settings) -> portal.Portal:
    """Make the portal of this name. The caller closes it."""
    return PORTALS[name](settings)
