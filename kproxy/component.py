"""Component: an optional part that serves beside the pipeline, as DNS and Ingress do.

A component reads the Store and what the proxier has opened, and neither knows of it. `parts` makes
the components that the configuration asks for; a component that is off is not made, nor imported.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol


class Component(Protocol):
    """Lives on the event loop of its Server, which calls these in the order in which they stand."""

    @property
    def name(self) -> str:
        """What it is, in a word or two, for the log."""

    def bind(self) -> None:
        """Take its addresses. Raises KproxyError when one that the user has named is taken."""

    def addresses(self) -> Mapping[str, str | None]:
        """Where it listens, by the names of the ready file; None for a place that is not there."""

    async def run(self) -> None:
        """Serve until cancelled. A KproxyError ends the whole proxy in good order."""

    async def ready(self) -> None:
        """Return once it serves what the first sync brought. Raises KproxyError if it cannot."""

    async def drain(self, grace: float) -> None:
        """Take nothing new, and return when all is finished or after `grace` seconds.

        The data plane still serves meanwhile.
        """

    def close(self) -> None:
        """Release everything, whatever was called before."""


def addresses(components: Sequence[Component]) -> dict[str, str | None]:
    """Where all of them listen."""
    return {name: place for each in components for name, place in each.addresses().items()}


def barred(components: Sequence[Component]) -> dict[str, str | None]:
    """The addresses that no Service may lead to, for requests would go round in circles.

    To DNS it may: this proxy can be the endpoint of a cluster's kube-dns.
    """
    found = addresses(components)
    return {name: place for name, place in found.items() if name != "dns"}


async def drain(components: Sequence[Component], grace: float) -> None:
    """Drain all of them at the same time."""
    async with asyncio.TaskGroup() as group:
        for each in components:
            group.create_task(each.drain(grace), name=f"drain of {each.name}")
