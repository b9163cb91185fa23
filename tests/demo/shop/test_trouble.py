"""Which pods may end: never so many that a Service could not be available."""

from typing import Any

from kproxy.demo.shop import trouble
from kproxy.simulator.kinds import pods


def pod(
    name: str, *, ready: bool = True, ending: bool = False, lost: bool = False
) -> dict[str, Any]:
    """A pod of the API."""
    metadata: dict[str, Any] = {"name": name}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if lost:
        metadata["annotations"] = {pods.ANNOTATION_BLACK_HOLE: "true"}
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return {"metadata": metadata, "spec": {}, "status": status}


def test_one_of_three_may_end() -> None:
    assert trouble.victims([pod("c"), pod("a"), pod("b")]) == ["a", "b", "c"]


def test_two_must_stay_well() -> None:
    ready = [pod("a"), pod("b")]

    assert trouble.victims(ready) == []
    assert trouble.victims([*ready, pod("c", ready=False)]) == []
    assert trouble.victims([*ready, pod("c", ending=True)]) == []
    assert trouble.victims([*ready, pod("c", lost=True)]) == []
