"""The settings of what waits for Services: a command, and the ready file."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from kproxy import settings

_DEFAULT = "default"


class Awaited(NamedTuple):
    """A Service to wait for; in the namespace "" it is looked for in the command's own one."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class _ServiceName(settings.ShownAsText):
    """`web`, or `prod/web`."""

    metavar: str = "[NS/]SERVICE"
    name: str = "Service"
    bounds: str = ""

    def parse(self, text: str) -> Awaited:
        """The Service's name. Raises ValueError."""
        namespace, slash, name = text.strip().rpartition("/")
        if not name or (slash and not namespace) or "/" in namespace or len(text.split()) != 1:
            raise ValueError("must be the name of a Service, such as web or prod/web")
        return Awaited(namespace, name)


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """What `kproxy run … -- COMMAND` waits for."""

    wait: tuple[Awaited, ...] = settings.setting(
        (),
        settings.Each(_ServiceName()),
        "Be ready, and start the command, only when this Service has a ready endpoint; repeatable.",
        shown_default="no Service is waited for",
    )


def namespace_of(served: Collection[str]) -> str:
    """The namespace of a command, as a pod has one: the only one that is served, else default."""
    return next(iter(served)) if len(served) == 1 else _DEFAULT
