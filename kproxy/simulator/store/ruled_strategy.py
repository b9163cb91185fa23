"""A strategy made of functions: the shape of an object, its defaults, and the rules for it."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kproxy.simulator.store import registry, statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object


def _none(*_: Object) -> Iterable[Cause]:
    return ()


class RuledStrategy(registry.PlainStrategy):
    """The rules for `resource`.

    `shape` is a msgspec Struct of the fields that are read, so that what follows meets only values
    of the right types; without one, `violations` does that itself, and raises
    `msgspec.ValidationError`. `set_defaults` changes the copy that it is given; without it the
    object is stored as it comes. `violations` are those of an object by itself,
    `create_violations` those that only a new one can have, `update_violations`, of the old object
    and the new one, what may not change, and `status_violations` those of the status.
    """

    def __init__(
        self,
        resource: Resource,
        shape: Any = None,
        *,
        set_defaults: Callable[[Object], None] | None = None,
        violations: Callable[[Object], Iterable[Cause]] = _none,
        create_violations: Callable[[Object], Iterable[Cause]] = _none,
        update_violations: Callable[[Object, Object], Iterable[Cause]] = _none,
        status_violations: Callable[[Object], Iterable[Cause]] = _none,
    ) -> None:
        self._resource = resource
        self._shape = shape
        self._set_defaults = set_defaults
        self._violations = violations
        self._create_violations = create_violations
        self._update_violations = update_violations
        self._status_violations = status_violations

    def prepare_create(self, new: Object) -> Object:
        """The object with its defaults. Raises BadRequest and Invalid."""
        if self._resource.has_status:
            new = {**new, "status": new.get("status") or {}}
        return self._checked(
            new, lambda made: [*self._violations(made), *self._create_violations(made)]
        )

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The same in place of `old`. Raises BadRequest and Invalid."""
        return self._checked(
            new, lambda made: [*self._update_violations(old, made), *self._violations(made)]
        )

    def prepare_status(self, old: Object, new: Object) -> Object:  # noqa: ARG002  # of the protocol
        """The object with its new status. Raises BadRequest and Invalid."""
        return self._checked(new, lambda made: list(self._status_violations(made)))

    def _checked(self, new: Object, causes_of: Callable[[Object], list[Cause]]) -> Object:
        try:
            if self._shape is not None:
                msgspec.convert(new, self._shape)
            made = new
            if self._set_defaults is not None:
                made = copy.deepcopy(new)
                self._set_defaults(made)
            causes = causes_of(made)
        except msgspec.ValidationError as error:
            raise statuses.unreadable(self._resource, error) from error
        if causes:
            raise statuses.invalid(self._resource, made["metadata"]["name"], causes)
        return made
