"""`status.conditions` of Pods, Nodes and Deployments: what holds, and since when."""

from collections.abc import Sequence
from typing import Any

from kproxy.simulator.store.storage import Object


def condition(
    kind: str, *, holds: bool, now: str, reason: str = "", message: str = ""
) -> dict[str, Any]:
    """A condition that came to be at `now`, a timestamp."""
    made = {"type": kind, "status": str(holds), "lastTransitionTime": now}
    if reason:
        made["reason"] = reason
    if message:
        made["message"] = message
    return made


def since(old: Sequence[Object], new: Sequence[Object]) -> list[Object]:
    """`new`, in which a condition whose status is as in `old` keeps its transition time."""
    before = {each["type"]: each for each in old}
    made = []
    for each in new:
        known = before.get(each["type"], each)
        is_same = known["status"] == each["status"]
        moment = (known if is_same else each)["lastTransitionTime"]
        made.append({**each, "lastTransitionTime": moment})
    return made


def find(conditions: Sequence[Object] | None, kind: str) -> Object | None:
    """The condition of that type, or None."""
    for each in conditions or ():
        if each["type"] == kind:
            return each
    return None


def is_true(conditions: Sequence[Object] | None, kind: str) -> bool:
    """Whether the condition of that type is there and holds."""
    found = find(conditions, kind)
    return found is not None and found["status"] == "True"
