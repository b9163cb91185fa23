"""The strategies of the group networking.k8s.io."""

from collections.abc import Mapping

from kproxy.simulator.kinds.networking import ingress_class_rules, ingress_rules
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.ruled_strategy import RuledStrategy
from kproxy.simulator.store.storage import Object

ANNOTATION_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
""""true" on the IngressClass of those Ingresses that name none."""


class IngressStrategy(RuledStrategy):
    """The rules for Ingresses, and what the admission plugin DefaultIngressClass adds to a new one.

    `stored` is where the IngressClasses are. Of several default classes the newest counts, unless
    `one_default` makes them an error, as before 1.27.
    """

    def __init__(self, stored: storage.Storage, *, one_default: bool) -> None:
        super().__init__(
            resources.INGRESSES,
            ingress_rules.Shape,
            violations=ingress_rules.violations,
            create_violations=ingress_rules.create_violations,
            status_violations=ingress_rules.status_violations,
        )
        self._stored = stored
        self._one_default = one_default

    def prepare_create(self, new: Object) -> Object:
        """The Ingress, of the default class if it names none.

        Raises BadRequest, Invalid, and Forbidden for several default classes.
        """
        made = super().prepare_create(new)
        annotations = made["metadata"].get("annotations") or {}
        spec, status = made["spec"], made["status"] or {"loadBalancer": {}}
        if "ingressClassName" not in spec and ingress_rules.ANNOTATION_CLASS not in annotations:
            spec = {**spec, **self._default_class(made["metadata"]["name"])}
        return {**made, "spec": spec, "status": status}

    def _default_class(self, ingress: str) -> Object:
        defaults = [
            (each["metadata"]["creationTimestamp"], each["metadata"]["name"])
            for each in self._stored.list(resources.INGRESS_CLASSES)
            if (each["metadata"].get("annotations") or {}).get(ANNOTATION_DEFAULT_CLASS) == "true"
        ]
        if self._one_default and len(defaults) > 1:
            rule = f"{len(defaults)} default IngressClasses were found, only 1 allowed"
            detail = f"Internal error occurred: {rule}"
            raise statuses.forbidden(resources.INGRESSES, ingress, detail)
        newest = max((moment for moment, _ in defaults), default="")
        names = sorted(name for moment, name in defaults if moment == newest)
        return {"ingressClassName": names[0]} if names else {}


def strategies(
    stored: storage.Storage, *, one_default: bool = False
) -> Mapping[Resource, registry.Strategy]:
    """A strategy for each resource of the group that has rules; see `IngressStrategy`."""
    return {
        resources.INGRESSES: IngressStrategy(stored, one_default=one_default),
        resources.INGRESS_CLASSES: RuledStrategy(
            resources.INGRESS_CLASSES,
            ingress_class_rules.Shape,
            set_defaults=ingress_class_rules.set_defaults,
            violations=ingress_class_rules.violations,
            update_violations=ingress_class_rules.update_violations,
        ),
    }
