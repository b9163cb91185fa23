"""The other architecture of the articles: a registry of heartbeats, and a gateway that picks.

Each pod registers its service, address and port, and repeats this at every beat. A pod that ends
in good order signs off; one that dies without a word is believed until its last beat is too old.
The gateway sends a request for `/user` straight to an instance of usermgr, in turn; no Service and
no proxy is in between. This is how Nacos or Eureka with Spring Cloud Gateway work; here the
registry is at its best, since the gateway sees every change at once.

The times are a fifth of Nacos' own: it beats every 5 s, and believes an instance for 15 s.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

from kproxy.demo.shop import http_client

BEAT_SECONDS = 1.0
EXPIRY_SECONDS = 3.0
ANSWER_SECONDS = 2.0
"""How long a client, or the gateway, waits for an answer."""


class Instance(NamedTuple):
    """A pod as the registry knows it."""

    pod: str
    address: str
    port: int


class Registry:
    """Which instances a service has. `now` gives seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._beats: dict[str, dict[Instance, float]] = {}

    def beat(self, service: str, instance: Instance) -> None:
        """An instance says that it is there."""
        self._beats.setdefault(service, {})[instance] = self._now()

    def sign_off(self, service: str, instance: Instance) -> None:
        """An instance says that it ends. One that is not known is none to end."""
        self._beats.get(service, {}).pop(instance, None)

    def instances(self, service: str) -> list[Instance]:
        """Those whose last beat is young enough, in the order in which they came."""
        known = self._beats.get(service, {})
        oldest = self._now() - EXPIRY_SECONDS
        for instance in [each for each, beat in known.items() if beat < oldest]:
            del known[instance]
        return list(known)


class Gateway:
    """Sends each request to the next instance, without a retry: the gateways' default."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._turn = itertools.count()

    async def get(self, service: str, path: str) -> http_client.Answer:
        """The answer of an instance. Raises NoAnswerError."""
        found = self._registry.instances(service)
        if not found:
            raise http_client.NoAnswerError("no instance is registered")
        chosen = found[next(self._turn) % len(found)]
        return await http_client.get(chosen.address, chosen.port, path, service, ANSWER_SECONDS)
