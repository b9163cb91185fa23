"""The addresses at which other hosts reach nginx, for the status of Ingresses."""

import contextlib

from kproxy.ingress import settings
from kproxy.portal import node_addresses


class OwnAddresses:
    """Where nginx listens, and for all addresses the one from which this node connects to others.

    They are looked at anew each time: a node's address may change.
    """

    def __init__(self, chosen: settings.IngressSettings) -> None:
        places = (chosen.ingress_http, chosen.ingress_https)
        self._places = tuple(each for each in places if each is not None)

    def __call__(self) -> tuple[str, ...]:
        """The addresses of now, each once."""
        found: dict[str, None] = {}
        for place in self._places:
            if place.is_everywhere:
                found |= dict.fromkeys(_primary(is_ipv6=":" in place.host))
            else:
                found[place.host] = None
        return tuple(found)


def _primary(*, is_ipv6: bool) -> tuple[str, ...]:
    """The node's address of a family; for :: those of both, as it takes IPv4 too."""
    with contextlib.suppress(OSError):
        read = node_addresses.read().primary
        return tuple(each for each in read if is_ipv6 or ":" not in each)
    return ()
