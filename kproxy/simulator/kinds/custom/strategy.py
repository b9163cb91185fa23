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
        return self._read(new, lambda _: ())

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The same in place of `old`. Raises Invalid."""
        return self._read(new, lambda made: self._update_violations(old, made))

    def prepare_status(self, old: Object, new: Object) -> Object:  # noqa: ARG002  # of the protocol
        """The object with a status, which has a schema like the rest. Raises Invalid."""
        return self._read(new, lambda _: ())

    def _read(self, new: Object, more: Callable[[Object], Iterable[Cause]]) -> Object:
        """The object that is stored; `more` may find what else is wrong with it."""
        fields = {name: each for name, each in new.items() if name in self._schema["properties"]}
        # First of all: what is out of bounds is not worth copying.
        self._check(new, structural.shape_violations(self._schema, fields))
        made = copy.deepcopy(structural.pruned(self._schema, fields))
        structural.set_defaults(self._schema, made)
        self._check(new, [*more(made), *structural.rule_violations(self._schema, made)])
        head = {name: new[name] for name in ("kind", "apiVersion", "metadata") if name in new}
        return {**head, **made}

    def _check(self, new: Object, causes: list[Cause]) -> None:
        if causes:
            raise statuses.invalid(self._resource, new["metadata"]["name"], causes)
