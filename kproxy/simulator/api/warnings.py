"""Warning headers (KEP-1693), which kubectl prints: what a request did is better done otherwise."""

from collections.abc import Iterable

from aiohttp import web

from kproxy.simulator.kinds.networking import ingress_rules
from kproxy.simulator.store import resources
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object


def add(response: web.StreamResponse, texts: Iterable[str]) -> None:
    """Warn in the headers of `response`, unless they are sent already."""
    if not response.prepared:
        for text in texts:
            escaped = text.replace("\\", r"\\").replace('"', r"\"")
            response.headers.add("Warning", f'299 - "{escaped}"')


def of_new(resource: Resource, stored: Object) -> list[str]:
    """What is out of date in an object that was created."""
    if resource != resources.INGRESSES:
        return []
    annotation = ingress_rules.ANNOTATION_CLASS
    annotations = stored["metadata"].get("annotations") or {}
    if annotation not in annotations or "ingressClassName" in stored["spec"]:
        return []
    use = "please use 'spec.ingressClassName' instead"
    return [f'annotation "{annotation}" is deprecated, {use}']
