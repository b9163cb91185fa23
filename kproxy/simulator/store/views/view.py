"""A view: a version of an API whose objects are stored as those of another version."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object


@dataclass(frozen=True, slots=True)
class View:
    """`served` as a view of `stored`, with the conversions in both directions.

    The conversions make new objects. `to_stored` may get an object that nothing has checked: what
    it cannot convert it leaves for validation to refuse. `renamed` are names of fields in what
    validation says, and what they are called in `served`.
    """

    served: Resource
    stored: Resource
    to_served: Callable[[Object], Object]
    to_stored: Callable[[Object], Object]
    renamed: Sequence[tuple[str, str]] = ()


def same_fields(stored: Resource, version: str) -> View:
    """A view that differs from `stored` in nothing but its version."""
    return View(replace(stored, version=version), stored, dict, dict)
