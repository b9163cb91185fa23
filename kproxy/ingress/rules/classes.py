"""Classes: which Ingresses are ours to serve."""

from collections.abc import Iterable

from kproxy.ingress.rules import remarks
from kproxy.model import objects
from kproxy.model.kinds.ingress import ingress_class_kind, ingresses


class Classes:
    """The IngressClasses there are, and the one that `--ingress-class` names.

    Ours are the classes whose controller is `kproxy.io/ingress`, and the named one whatever its
    controller: so kproxy can take over another controller's Ingresses. The named one need not
    exist as an object.

    An Ingress that names no class belongs to the default class. Where no class is the default,
    it is ours if there is no class of another controller that could mean it too.
    """

    def __init__(self, found: Iterable[ingress_class_kind.IngressClass], named: str) -> None:
        self._named = named
        self._ours = {named}
        self._others: set[str] = set()
        defaults = []
        for each in found:
            name = each.name.name
            if each.controller == ingress_class_kind.CONTROLLER or name == named:
                self._ours.add(name)
            else:
                self._others.add(name)
            if each.is_default:
                defaults.append(name)
        self._takes_unnamed = (
            any(name in self._ours for name in defaults) if defaults else not self._others
        )

    def has(self, ingress: ingresses.Ingress, said: remarks.Remarks) -> bool:
        """Whether an Ingress is ours. Says why not, of one that no controller seems to serve."""
        annotated = ingress.annotation(ingresses.ANNOTATION_CLASS)
        name = annotated if annotated is not None else ingress.class_name
        if name in self._ours:
            return True
        if name is not None:
            if name not in self._others:
                said.note(
                    "NoSuchClass",
                    f"not served by kproxy: there is no IngressClass {objects.shown(name)}",
                )
            return False
        if not self._takes_unnamed:
            said.note(
                "NoClass",
                "not served by kproxy: it names no class, and kproxy's is not the default; set "
                f'spec.ingressClassName to "{self._named}" to have kproxy serve it',
            )
        return self._takes_unnamed
