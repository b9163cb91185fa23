"""What goes wrong in the demonstration: each second a pod ends, in one of three ways.

- deleted: `kubectl delete pod`. It finishes its requests, and its endpoint ends in good order;
- killed: its process is gone at once, with all connections, and the cluster knows it at once;
- lost: its machine is gone. No answer comes to any packet, and the cluster finds out only after
  `LOST_SECONDS`. In between it is a ready endpoint like the others.

A Service is left alone while fewer than two of its pods would stay well: nothing could be available
without a pod.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from kproxy.demo.shop import application
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.storage import Object

LOST_SECONDS = 3.0
"""After so long the cluster gives up a lost pod; Kubernetes' default is five minutes and 40 s."""


class Way(StrEnum):
    """How a pod ends."""

    DELETED = "deleted"
    KILLED = "killed"
    LOST = "lost"


_FEWEST_LEFT = 2


def is_well(pod: Object) -> bool:
    """Whether it stays and answers. One that is lost counts as ready for a while."""
    is_lost = pods.behaviour(pod).is_black_hole
    return pods.is_ready(pod) and not pods.is_terminating(pod) and not is_lost


def victims(found: Sequence[Object]) -> list[str]:
    """The pods of a Service of which one may end: those that are well, if enough stay."""
    well = sorted(pod["metadata"]["name"] for pod in found if is_well(pod))
    return well if len(well) > _FEWEST_LEFT else []


class Trouble:
    """Ends pods of a cluster. `tell` gets a sentence about each event."""

    def __init__(self, objects: registry.Registry, tell: Callable[[str], None]) -> None:
        self._registry = objects
        self._tell = tell
        self.ended = dict.fromkeys(Way, 0)
        """How many pods have ended in each way."""

    async def run(self, interval: float) -> None:
        """End one pod after each interval, until cancelled."""
        turns = self._turns()
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(interval)
                service, way = next(turns)
                others = (service, *({application.USERS, application.ORDERS} - {service}))
                for each in others:
                    if found := victims(application.pods_of(self._registry, each)):
                        group.create_task(self.end(found[0], way))
                        break

    @staticmethod
    def _turns() -> Iterator[tuple[str, Way]]:
        services = itertools.cycle((application.ORDERS, application.USERS))
        return zip(services, itertools.cycle(Way), strict=False)

    async def end(self, name: str, way: Way) -> None:
        """End a pod; return when the cluster knows that it has ended, or is ending."""
        self.ended[way] += 1
        if way is Way.DELETED:
            self._tell(f"pod {name} is deleted: it finishes its requests")
            self._registry.delete(resources.PODS, name, application.NAMESPACE)
        elif way is Way.KILLED:
            self._tell(f"pod {name} is killed, with its connections")
            self._remove(name)
        else:
            self._tell(f"pod {name} is lost without a word: it still counts as ready")
            self._silence(name)
            try:
                await asyncio.sleep(LOST_SECONDS)
            finally:
                self._remove(name)

    def _silence(self, name: str) -> None:
        """No packet to the pod is answered any more."""
        annotations = {pods.ANNOTATION_BLACK_HOLE: "true"}
        self._registry.patch(
            resources.PODS,
            application.NAMESPACE,
            name,
            "merge",
            {"metadata": {"annotations": annotations}},
        )

    def _remove(self, name: str) -> None:
        """Remove a pod at once, as `kubectl delete --force --grace-period=0` does."""
        with contextlib.suppress(statuses.StatusError):  # a rollout may have removed it
            self._registry.remove(resources.PODS, name, application.NAMESPACE)

    def roll(self, service: str) -> None:
        """Roll a Deployment: `kubectl rollout restart`."""
        self._tell(f"deployment {service} is rolled")
        found = self._registry.get(resources.DEPLOYMENTS, service, application.NAMESPACE)
        generation = found["metadata"].get("generation", 1)
        template = {"metadata": {"annotations": {"shop/rolled": str(generation)}}}
        self._registry.patch(
            resources.DEPLOYMENTS,
            application.NAMESPACE,
            service,
            "merge",
            {"spec": {"template": template}},
        )
