"""The strategy of a custom resource: its schema decides everything."""

import copy
from collections.abc import Callable, Iterable

from kproxy.simulator.kinds.custom import structural
from kproxy.simulator.store import registry, statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object


def _none(*_: Object) -> Iterable[Cause]:
    return ()


class CustomStrategy(registry.PlainStrategy):
    """The rules for `resource`, whose objects have the fields of `schema`.

    `update_violations`, of the old object and the new one, are what may not change.
    """

    def __init__(
        self,
        resource: Resource,
        schema: structural.Schema,
        *,
        update_violations: Callable[[Object, Object], Iterable[Cause]] = _none,
    ) -> None:
        self._resource = resource
        self._schema = schema
        self._update_violations = update_violations

    def prepare_create(self, new: Object) -> Object:
        """The object with its defaults and without unknown fields. Raises Invalid."""
        return self._checked(self._read(new), ())

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The same in place of `old`. Raises Invalid."""
        made = self._read(new)
        return self._checked(made, self._update_violations(old, made))

    def prepare_status(self, old: Object, new: Object) -> Object:  # noqa: ARG002  # of the protocol
        """The object with a status, which has a schema like the rest. Raises Invalid."""
        return self._checked(self._read(new), ())

    def _read(self, new: Object) -> Object:
        fields = {name: each for name, each in new.items() if name in self._schema["properties"]}
        made = copy.deepcopy(structural.pruned(self._schema, fields))
        structural.set_defaults(self._schema, made)
        head = {name: new[name] for name in ("kind", "apiVersion", "metadata") if name in new}
        return {**head, **made}

    def _checked(self, made: Object, causes: Iterable[Cause]) -> Object:
        fields = {name: each for name, each in made.items() if name in self._schema["properties"]}
        found = [*causes, *structural.violations(self._schema, fields)]
        if found:
            raise statuses.invalid(self._resource, made["metadata"]["name"], found)
        return made
