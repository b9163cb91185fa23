"""Ingresses and IngressClasses as kube-apiserver defaults and refuses them."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from kproxy.simulator.kinds.networking import strategies
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import NOW, backend, ingress, new_storage, ruled_registry

SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
WILDCARD = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which "
    "must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric "
    "character (e.g. '*.example.com', regex used for validation is "
    "'\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', "
    "regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)


@pytest.fixture
def objects() -> registry.Registry:
    return ruled_registry()


def with_path(**path: Any) -> Object:
    """An Ingress of one path; what is None is left out."""
    whole = {"path": "/", "pathType": "Prefix", "backend": backend(), **path}
    given = {name: value for name, value in whole.items() if value is not None}
    return ingress(rules=[{"http": {"paths": [given]}}])


PATH = "spec.rules[0].http.paths[0]"


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (
            ingress(rules=[]),
            "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
        ),
        (
            ingress(ingressClassName="A_B"),
            f'spec.ingressClassName: Invalid value: "A_B": {SUBDOMAIN}',
        ),
        (
            ingress(rules=[{"host": "10.0.0.1"}]),
            'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address',
        ),
        (
            ingress(rules=[{"host": "A.example"}]),
            f'spec.rules[0].host: Invalid value: "A.example": {SUBDOMAIN}',
        ),
        (
            ingress(rules=[{"host": "a.*.example"}]),
            f'spec.rules[0].host: Invalid value: "a.*.example": {WILDCARD}',
        ),
        (ingress(rules=[{"http": {}}]), "spec.rules[0].http.paths: Required value"),
        (
            with_path(pathType=None),
            f"{PATH}.pathType: Required value: pathType must be specified",
        ),
        (
            with_path(pathType="prefix"),
            (
                f'{PATH}.pathType: Unsupported value: "prefix": supported values: "Exact", '
                '"ImplementationSpecific", "Prefix"'
            ),
        ),
        (
            with_path(path="shop"),
            f'{PATH}.path: Invalid value: "shop": must be an absolute path',
        ),
        (
            with_path(path=None),
            f'{PATH}.path: Invalid value: "": must be an absolute path',
        ),
        (
            with_path(path="shop", pathType="ImplementationSpecific"),
            f'{PATH}.path: Invalid value: "shop": must be an absolute path',
        ),
        (with_path(path="/a//b"), f"{PATH}.path: Invalid value: \"/a//b\": must not contain '//'"),
        (
            with_path(path="/a%2Fb", pathType="Exact"),
            f"{PATH}.path: Invalid value: \"/a%2Fb\": must not contain '%2F'",
        ),
        (with_path(path="/a/.."), f"{PATH}.path: Invalid value: \"/a/..\": cannot end with '/..'"),
        (
            with_path(backend=None),
            f'{PATH}.backend: Invalid value: "": resource or service backend is required',
        ),
        (
            with_path(backend={**backend(), "resource": {"kind": "Bucket", "name": "b"}}),
            f'{PATH}.backend: Invalid value: "": cannot set both resource and service backends',
        ),
        (
            with_path(backend={"resource": {"kind": "Bucket"}}),
            f"{PATH}.backend.resource.name: Required value",
        ),
        (with_path(backend=backend("")), f"{PATH}.backend.service.name: Required value"),
        (
            with_path(backend=backend("1web")),
            f'{PATH}.backend.service.name: Invalid value: "1web": {LABEL_1035}',
        ),
        (
            with_path(backend=backend(number=0)),
            f"{PATH}.backend: Required value: port name or number is required",
        ),
        (
            with_path(backend=backend(number=70000)),
            (
                f"{PATH}.backend.service.port.number: Invalid value: 70000: must be between 1 and "
                "65535, inclusive"
            ),
        ),
        (
            with_path(backend=backend(number=80, name="http")),
            f'{PATH}.backend: Invalid value: "": cannot set both port name & port number',
        ),
        (
            with_path(backend=backend(name="a--b")),
            (
                f'{PATH}.backend.service.port.name: Invalid value: "a--b": must not contain '
                "consecutive hyphens"
            ),
        ),
        (
            ingress(defaultBackend={}),
            'spec.defaultBackend: Invalid value: "": resource or service backend is required',
        ),
        (
            ingress(tls=[{"hosts": ["*"]}]),
            f'spec.tls[0].hosts[0]: Invalid value: "*": {WILDCARD}',
        ),
        (
            ingress(tls=[{"secretName": "A"}]),
            f'spec.tls[0].secretName: Invalid value: "A": {SUBDOMAIN}',
        ),
        (
            ingress("A"),
            f'metadata.name: Invalid value: "A": {SUBDOMAIN}',
        ),
    ],
)
def test_an_ingress_is_refused_in_the_words_of_kube_apiserver(
    objects: registry.Registry, new: Object, complaint: str
) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.INGRESSES, new)
    name = new["metadata"]["name"]
    assert str(refused.value) == f'Ingress.networking.k8s.io "{name}" is invalid: {complaint}'


@pytest.mark.parametrize(
    "new",
    [
        ingress(),
        ingress(rules=[], defaultBackend=backend(name="http")),
        ingress(rules=[{"host": "*.shop.example"}], tls=[{"hosts": ["*.shop.example"]}]),
        with_path(path=None, pathType="ImplementationSpecific"),
        with_path(path="/a//b", pathType="ImplementationSpecific"),
        with_path(backend={"resource": {"apiGroup": "k8s.example", "kind": "B", "name": "b"}}),
        ingress(tls=[{}], ingressClassName="kproxy.class"),
    ],
)
def test_what_is_valid_is_stored(objects: registry.Registry, new: Object) -> None:
    stored = objects.create(resources.INGRESSES, new)
    assert stored["spec"] == new["spec"]
    assert stored["status"] == {"loadBalancer": {}}
    assert stored["metadata"]["generation"] == 1


def test_a_field_of_another_type_is_a_bad_request(objects: registry.Registry) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.INGRESSES, with_path(backend=backend(number="http")))
    assert refused.value.code == 400
    assert 'Ingress in version "v1" cannot be handled as a Ingress' in str(refused.value)


def test_the_annotation_and_the_class_agree_in_a_new_ingress(objects: registry.Registry) -> None:
    new = ingress(ingressClassName="one")
    new["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "two"}
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.INGRESSES, new)
    assert "must match `ingressClassName` when both are specified" in str(refused.value)
    objects.create(resources.INGRESSES, ingress(ingressClassName="one"))
    objects.update(resources.INGRESSES, new)


def ingress_class(name: str = "kproxy", *, is_default: bool = False, **spec: Any) -> Object:
    metadata: Object = {"name": name}
    if is_default:
        metadata["annotations"] = {strategies.ANNOTATION_DEFAULT_CLASS: "true"}
    return {"metadata": metadata, "spec": {"controller": "kproxy.io/ingress", **spec}}


def test_an_ingress_without_a_class_gets_the_newest_default_class() -> None:
    moment = NOW
    stored = storage.Storage(now=lambda: moment, new_uid=lambda: "uid")
    objects = registry.Registry(stored, strategies.strategies(stored))
    objects.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    objects.create(resources.INGRESS_CLASSES, ingress_class("plain"))

    def created(name: str, **annotations: str) -> Any:
        new = ingress(name)
        new["metadata"]["annotations"] = annotations
        return objects.create(resources.INGRESSES, new)["spec"].get("ingressClassName")

    assert created("none") is None
    objects.create(resources.INGRESS_CLASSES, ingress_class("old", is_default=True))
    assert created("old") == "old"
    moment = datetime.fromtimestamp(NOW.timestamp(), NOW.tzinfo) + timedelta(seconds=5)
    objects.create(resources.INGRESS_CLASSES, ingress_class("b", is_default=True))
    objects.create(resources.INGRESS_CLASSES, ingress_class("a", is_default=True))
    assert created("new") == "a"
    assert created("annotated", **{"kubernetes.io/ingress.class": "x"}) is None


def test_an_old_server_refuses_to_choose_among_default_classes() -> None:
    stored = new_storage()
    objects = registry.Registry(stored, strategies.strategies(stored, one_default=True))
    objects.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    for name in ("a", "b"):
        objects.create(resources.INGRESS_CLASSES, ingress_class(name, is_default=True))
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.INGRESSES, ingress())
    assert (refused.value.code, str(refused.value)) == (
        403,
        (
            'ingresses.networking.k8s.io "web" is forbidden: Internal error occurred: 2 default '
            "IngressClasses were found, only 1 allowed"
        ),
    )


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"controller": ""}, "spec.controller: Required value"),
        (
            {"controller": "kproxy"},
            (
                'spec.controller: Invalid value: "kproxy": must be a domain-prefixed path (such as '
                '"acme.io/foo")'
            ),
        ),
        ({"controller": "A/b"}, f'spec.controller: Invalid value: "A": {SUBDOMAIN}'),
        (
            {"parameters": {"kind": "K", "name": "a/b"}},
            "spec.parameters.name: Invalid value: \"a/b\": may not contain '/'",
        ),
        (
            {"parameters": {"kind": "K", "name": "n", "scope": "Namespace"}},
            "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
        ),
        (
            {"parameters": {"kind": "K", "name": "n", "namespace": "default"}},
            "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
        ),
        (
            {"parameters": {"kind": "K", "name": "n", "scope": "All"}},
            (
                'spec.parameters.scope: Unsupported value: "All": supported values: "Cluster", '
                '"Namespace"'
            ),
        ),
    ],
)
def test_a_class_is_refused_in_the_words_of_kube_apiserver(
    objects: registry.Registry, spec: Object, complaint: str
) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.INGRESS_CLASSES, ingress_class(**spec))
    assert str(refused.value) == f'IngressClass.networking.k8s.io "kproxy" is invalid: {complaint}'


def test_the_controller_of_a_class_stays(objects: registry.Registry) -> None:
    objects.create(resources.INGRESS_CLASSES, ingress_class())
    with pytest.raises(statuses.StatusError) as refused:
        objects.update(resources.INGRESS_CLASSES, ingress_class(controller="a.io/b"))
    assert str(refused.value).endswith(
        'spec.controller: Invalid value: "a.io/b": field is immutable'
    )
