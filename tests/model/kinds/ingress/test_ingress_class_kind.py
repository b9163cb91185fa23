"""IngressClasses, as seen through `admission.admit`."""

from typing import Any

import pytest

from kproxy.ingress import kinds
from kproxy.model import admission
from kproxy.model.kinds.ingress import ingress_class_kind


def judged(controller: object, version: str = "v1", **metadata: Any) -> admission.Admission:
    raw = {
        "apiVersion": f"networking.k8s.io/{version}",
        "kind": "IngressClass",
        "metadata": {"name": "kproxy", **metadata},
        "spec": {"controller": controller},
    }
    (found,) = admission.admit(raw, kinds=kinds.KINDS)
    return found


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_its_controller_is_read(version: str) -> None:
    made = judged("kproxy.io/ingress", version).accepted
    assert isinstance(made, ingress_class_kind.IngressClass)
    assert made.controller == ingress_class_kind.CONTROLLER
    assert not made.is_default


@pytest.mark.parametrize(("value", "is_default"), [("true", True), ("false", False), ("1", False)])
def test_an_annotation_makes_it_the_default(value: str, *, is_default: bool) -> None:
    annotations = {"ingressclass.kubernetes.io/is-default-class": value}
    made = judged("kproxy.io/ingress", annotations=annotations).accepted
    assert isinstance(made, ingress_class_kind.IngressClass)
    assert made.is_default is is_default


@pytest.mark.parametrize(
    "controller",
    [None, "", "kproxy", "/ingress", "kproxy.io/", "K.io/x", "k.io/a b", "k.io/" + "a" * 250],
)
def test_a_bad_controller_is_named(controller: object) -> None:
    found = judged(controller)
    assert found.accepted is None
    assert "spec.controller" in str(found.finding)
