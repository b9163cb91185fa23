"""What an IngressClass may say: kube-apiserver's rules and words (`ValidateIngressClass`)."""

from collections.abc import Iterator

import msgspec

from kproxy.simulator.kinds.networking import references
from kproxy.simulator.store import formats, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

_LONGEST_CONTROLLER = 250
_SCOPES = ("Cluster", "Namespace")


class _Spec(msgspec.Struct):
    controller: str | None = None
    parameters: references.Reference | None = None


class Shape(msgspec.Struct):
    """An IngressClass, as far as there are rules for it."""

    spec: _Spec | None = None


def set_defaults(ingress_class: Object) -> None:
    """Parameters are an object of the cluster unless they say otherwise."""
    parameters = (ingress_class.get("spec") or {}).get("parameters")
    if parameters is not None:
        parameters.setdefault("scope", "Cluster")


def violations(ingress_class: Object) -> Iterator[Cause]:
    """What is wrong with an IngressClass by itself."""
    spec = ingress_class.get("spec") or {}
    yield from _controller(spec.get("controller") or "", "spec.controller")
    parameters = spec.get("parameters")
    if parameters is not None:
        yield from references.violations(parameters, "spec.parameters")
        yield from _scope(parameters, "spec.parameters")


def update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """That its controller changes."""
    before, after = ((each.get("spec") or {}).get("controller") for each in (old, new))
    if before != after:
        yield statuses.invalid_value("spec.controller", after, "field is immutable")


def _controller(text: str, where: str) -> Iterator[Cause]:
    if not text:
        yield statuses.required_value(where)
        return
    if len(text) > _LONGEST_CONTROLLER:
        yield statuses.too_long_value(where, _LONGEST_CONTROLLER)
    host, _, path = text.partition("/")
    if not host or not path:
        rule = 'must be a domain-prefixed path (such as "acme.io/foo")'
        yield statuses.invalid_value(where, text, rule)
        return
    yield from statuses.malformed_value(where, host, formats.dns_1123_subdomain)
    yield from statuses.malformed_value(where, path, formats.http_path)


def _scope(parameters: Object, where: str) -> Iterator[Cause]:
    scope, namespace = parameters["scope"], parameters.get("namespace")
    if scope not in _SCOPES:
        yield statuses.not_supported_value(f"{where}.scope", scope, _SCOPES)
    elif scope == "Cluster":
        if namespace is not None:
            detail = "`parameters.scope` is set to 'Cluster'"
            yield statuses.forbidden_value(f"{where}.namespace", detail)
    elif namespace is None:
        detail = "`parameters.scope` is set to 'Namespace'"
        yield statuses.required_value(f"{where}.namespace", detail)
    else:
        place = f"{where}.namespace"
        yield from statuses.malformed_value(place, namespace, formats.dns_1123_label)
