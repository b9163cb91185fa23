"""Whether the kinds that Ingress needs are read from an API server, and which right is missing.

Services are served without them. So a Store is complete before they are listed, and a missing right
to read them is no trouble of the source; here it is one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from kproxy import metrics
from kproxy.ingress import kinds
from kproxy.sources.api.decisions import progress

SETTLED_SECONDS = 5.0
"""How long the first table waits for what it is made of."""

_LOOK_SECONDS = 0.02

_GRANT = (
    "kubectl create clusterrole kproxy-ingress --verb=list,watch "
    "--resource=ingresses.networking.k8s.io,ingressclasses.networking.k8s.io,secrets && kubectl "
    "create clusterrolebinding kproxy-ingress --clusterrole=kproxy-ingress --user=NAME"
)

_log = structlog.get_logger(__name__)


class Reading:
    """Looks at the counters of each list-and-watch; files have none."""

    def __init__(self, counters: Callable[[], Iterable[metrics.ReflectorCounters]]) -> None:
        self._counters = counters
        self._said: frozenset[str] = frozenset()

    async def settle(self) -> None:
        """Return once each kind has been listed or refused, or after SETTLED_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_SECONDS):
                while not all(map(_is_settled, self._ours())):  # noqa: ASYNC110  # counters
                    await asyncio.sleep(_LOOK_SECONDS)

    def say_what_is_missing(self) -> None:
        """One line when a right is found to be missing, with the commands that grant it."""
        missing = frozenset(each.resource for each in self._ours() if _is_refused(each))
        if missing - self._said:
            _log.error(
                "what Ingresses need cannot be read: the right to list and watch it is missing; an "
                f"administrator can grant it by: {_GRANT}",
                resources=sorted(missing),
            )
        self._said = missing

    def _ours(self) -> list[metrics.ReflectorCounters]:
        plurals = {each.collection.plural for each in kinds.KINDS}
        return [each for each in self._counters() if each.resource.partition(".")[0] in plurals]


def _is_settled(counted: metrics.ReflectorCounters) -> bool:
    """Whether there is a list, or will be none soon: a server that has just started may answer 403
    once, until it has loaded its roles."""
    failures = counted.failures
    is_refused = failures[progress.Outcome.FORBIDDEN.reason] > 1
    return bool(counted.relists) or is_refused or bool(failures[progress.Outcome.NOT_FOUND.reason])


def _is_refused(counted: metrics.ReflectorCounters) -> bool:
    refusals = counted.failures[progress.Outcome.FORBIDDEN.reason]
    return bool(refusals) and counted.contact.heard_at is None
