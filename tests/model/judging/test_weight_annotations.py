"""The annotations that give weights: what each says, and the sentence for each mistake."""

import pytest

from kproxy.model import admission
from kproxy.model.kinds import services
from kproxy.model.weighting import Weights


def admit(annotations: dict[str, str]) -> admission.Admission:
    raw = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web",
            "annotations": {f"kproxy.io/{key}": value for key, value in annotations.items()},
        },
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    }
    (admitted,) = admission.admit(raw)
    return admitted


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"weights": ""}, None, id="empty"),
        pytest.param(
            {"weights": "v1=9,v2=1"},
            Weights(by_label=(("v1", 9), ("v2", 1))),
            id="values of a label",
        ),
        pytest.param(
            {"weights": " v1 = 9 , v2=0 "},
            Weights(by_label=(("v1", 9), ("v2", 0))),
            id="spaces, and nothing for one",
        ),
        pytest.param({"weights": "10.1.0.1=9"}, Weights((("10.1.0.1", 9),)), id="an address"),
        pytest.param(
            {"weights": "FD00::A=3,10.1.0.1=2"},
            Weights((("fd00::a", 3), ("10.1.0.1", 2))),
            id="addresses of both families, in the text that endpoints have",
        ),
        pytest.param(
            {"weights": "v1=1000000,10.1.0.1=1"},
            Weights((("10.1.0.1", 1),), (("v1", 1_000_000),)),
            id="both, and the largest",
        ),
        pytest.param(
            {"weights": "green=1", "weight-label": "app.kubernetes.io/colour"},
            Weights((), (("green", 1),), "app.kubernetes.io/colour"),
            id="a label of one's own",
        ),
        pytest.param({"weights": "v1=2,v1=2"}, Weights((), (("v1", 2),)), id="the same twice"),
    ],
)
def test_weights_are_read(annotations: dict[str, str], expected: Weights | None) -> None:
    admitted = admit(annotations)
    assert isinstance(admitted.accepted, services.Service), admitted.finding
    assert admitted.accepted.weights == expected


SYNTAX = (
    "must be pairs such as v1=9,v2=1: a value of the pods' label or an endpoint's IP address, and "
    "a weight from 0 to 1000000"
)


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        *(
            pytest.param(
                {"weights": value},
                f'metadata.annotations["kproxy.io/weights"] is "{found}" but {SYNTAX}',
                id=repr(value),
            )
            for value, found in [
                ("v1", "v1"),
                ("v1=", "v1="),
                ("=3", "=3"),
                ("v1=9,", ""),
                ("v1=-1", "v1=-1"),
                ("v1=1.5", "v1=1.5"),
                ("v1=1000001", "v1=1000001"),
                ("v1=99999999", "v1=99999999"),
                ("v1=\u0663", "v1=\\u0663"),
                ("v 1=3", "v 1=3"),
                ("10.1.0.1:80=3", "10.1.0.1:80=3"),
                ("v1=1;v2=2", "v1=1;v2=2"),
            ]
        ),
        pytest.param(
            {"weights": "v1=1,v1=2"},
            'metadata.annotations["kproxy.io/weights"] is "v1=2" but must give v1 one weight',
            id="two weights",
        ),
        pytest.param(
            {"weights": "::1=1,0:0::1=2"},
            'metadata.annotations["kproxy.io/weights"] is "0:0::1=2" but must give ::1 one weight',
            id="two weights for one address in two spellings",
        ),
        pytest.param(
            {"weights": ",".join(f"v{n}=1" for n in range(257))},
            "must be at most 256 pairs",
            id="many",
        ),
        pytest.param(
            {"weights": "v1=1", "weight-label": "no label"},
            'metadata.annotations["kproxy.io/weight-label"] is "no label" but must be the key of a '
            "label, such as version",
            id="weight-label",
        ),
    ],
)
def test_a_mistake_is_one_sentence(annotations: dict[str, str], sentence: str) -> None:
    admitted = admit(annotations)
    assert admitted.is_invalid
    assert admitted.finding is not None
    assert sentence in admitted.finding.text


def test_a_label_without_values_is_noted() -> None:
    admitted = admit({"weights": "10.1.0.1=2", "weight-label": "version"})
    assert admitted.accepted is not None
    assert admitted.finding is not None
    assert "kproxy.io/weight-label has no effect" in admitted.finding.text
