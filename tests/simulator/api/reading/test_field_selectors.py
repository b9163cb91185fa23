"""The grammar of label selectors, and the fields that can be selected by."""

import pytest

from kproxy.simulator.api.reading import field_selectors
from kproxy.simulator.store import resources, statuses

LABELS = {"app": "web", "tier": "front", "n": "5", "empty": "", "underscored": "5_0"}


@pytest.mark.parametrize(
    ("text", "is_selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("absent!=x", True),
        ("absent=x", False),
        ("app", True),
        ("!app", False),
        ("!absent", True),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db)", True),
        ("absent notin (db)", True),
        ("n>4", True),
        ("n<4", False),
        ("app>4", False),
        ("underscored>4", False),
        ("empty=", True),
        ("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless", True),
    ],
)
def test_labels(text: str, *, is_selected: bool) -> None:
    selector = field_selectors.parse(resources.SERVICES, text, "")
    assert selector.matches({"metadata": {"labels": LABELS}}) is is_selected


LONG = "x" * 64


@pytest.mark.parametrize(
    "text",
    [
        f"a={LONG}",
        LONG,
        "a>--5",
        "a=b,",
        "a in b",
        "=x",
        "a in (b",
        "a>b",
        "a b",
        "-a",
        "a=b;c",
    ],
)
def test_what_does_not_parse_is_a_bad_request(text: str) -> None:
    with pytest.raises(statuses.StatusError, match="unable to parse") as caught:
        field_selectors.parse(resources.SERVICES, text, "")
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("text", "is_selected"),
    [
        ("status.phase=Running,spec.nodeName!=n2", True),
        ("spec.nodeName=n2", False),
        ("metadata.name=p", True),
    ],
)
def test_fields(text: str, *, is_selected: bool) -> None:
    pod = {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running"},
    }
    assert field_selectors.parse(resources.PODS, "", text).matches(pod) is is_selected


@pytest.mark.parametrize(("spec", "told"), [({}, "false"), ({"unschedulable": True}, "true")])
def test_a_boolean_field_that_is_not_there_is_false(spec: dict[str, bool], told: str) -> None:
    node = {"metadata": {"name": "n"}, "spec": spec}
    for value in ("true", "false"):
        selector = field_selectors.parse(resources.NODES, "", f"spec.unschedulable={value}")
        assert selector.matches(node) is (value == told)


def test_a_field_that_cannot_be_selected_by() -> None:
    with pytest.raises(statuses.StatusError, match=r"field label not supported: spec\.colour"):
        field_selectors.parse(resources.PODS, "", "spec.colour=red")
